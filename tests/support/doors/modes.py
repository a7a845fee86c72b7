"""What commands can be asked, a line for each mode, and values of their options that mean something there."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from typer.main import get_command

from isoflop.__main__ import app
from tests.support.doors.options import write_neighbours
from tests.support.doors.typed import typed_here
from tests.support.fits.simulated import BESIROGLU, isoflop_table
from tests.support.root import RESULTS

STUDY = ("experiment=smoke", "study.arms.candidate={optim: {name: muon}}", "--target", "4e9", "--spend", "1")
SCALE = ("--at", "n_params=1e6", "--tokens", "153600", "--arm", "standard")
NEXT = ("--budget", "1e20", "--target", "1e22")
# Lines by command and mode. RUN stands for the run in the store.
MODES: dict[str, tuple[str, ...]] = {
    "fit": ("small.csv", "--bootstrap", "5"),
    "fit squares": ("small.csv", "--bootstrap", "5", "--objective", "least-squares"),
    "approaches": ("small.csv",),
    "compare": ("small.csv", "--laws", "power-n"),
    "multiplier": ("arms.csv",),
    "gate": ("arms.csv", "--target", "1e22"),
    "gate study": STUDY,
    "accuracy": ("small.csv", "--flops", "1e21"),
    "batch": ("steps.csv",),
    "batch time": ("steps.csv", "--devices", "8", "--tokens-per-second", "1e5"),
    "predict": ("small.csv", "--flops", "1e22", "--laws", "chinchilla-tied"),
    "predict one": ("small.csv", "--n-params", "1e9", "--tokens", "1e12", "--laws", "chinchilla-tied"),
    "predict table": ("small.csv", "--at", "table.csv", "--laws", "chinchilla-tied"),
    "predict run": ("curves.csv", "--run", "a"),
    "predict memory": ("experts.parquet", "--flops", "1e13", "--memory", "1e6"),
    "predict law": ("--from-law", "besiroglu-2024", "--flops", "1e20"),
    "predict score": ("later.csv", "--score", "claim.json"),
    "predict ledger": ("--ledger", "claims.jsonl"),
    "predict scored": ("--ledger", "claims.jsonl", "--score", "later.csv"),
    "mix": ("mixed.csv",),
    "mix scale": ("mixed.csv", "--tokens", "2e10"),
    "suggest": ("small.csv", *NEXT),
    "suggest law": ("--from-law", "besiroglu-2024", *NEXT),
    "share": ("small.csv", "--to", "bundle"),
    "share check": ("--check", "shared"),
    "import": ("small.csv", "--map", "loss=loss", "--out", "imported.csv"),
    "tune": ("rates.parquet", *SCALE),
    "tune bowls": ("--table", "rates.parquet"),
    "tune study": ("experiment=smoke",),
    "plan": ("experiment=smoke", "--no-calibrate"),
    "plan card": ("experiment=smoke", "where.device=cuda", "--for", "h200"),
    "status": ("runs",),
    "status table": ("curves.csv", "--watch"),
    "evaluate": ("RUN",),
    "evaluate study": ("--study", "s"),
    "generate": ("RUN", "--max-tokens", "20"),
    "generate likeliest": ("RUN", "--temperature", "0"),
    "compact": ("runs", "--out", "x.parquet"),
    "positions": ("runs",),
    "plot": ("small.csv", "--out", "x.png"),
    "clean": ("runs",),
}  # fmt: skip
# Work that takes long, by mode: what it is given is looked at instead of its answer.
LONG = {
    "gate study": "isoflop.experiments.followup.gate.run_gate",
    "predict run": "isoflop.scaling.prediction.curves.run_forecast.predict_run",
    "predict memory": "isoflop.scaling.prediction.spending.memory.predict_memory",
    "tune": "isoflop.scaling.tuning.tune.tune",
    "tune study": "isoflop.experiments.followup.tune_report.train_and_read",
}
# What is the same with an option that is read, by mode or command: why.
SAME: dict[str, dict[str, str]] = {
    "tune": {"--emit": "the answer is written, and none is made here"},
    "tune study": dict.fromkeys(("--axis", "--along", "--limit"), "of bowls that are not made here: see tune bowls"),
    "mix": {"--params": "a table without n_params"},
    "import": {"--keep-unfinished": "every run of the table has finished"},
    "status": {"--watch": "no cell is in training", "--runs": "few runs are listed unasked"},
    "evaluate": dict.fromkeys(("--device", "--corpora"), "the run has kept its evaluation"),
    "positions": {"--corpora": "the run has kept its evaluation"},
    "generate": {
        "--cache": "the same text, slower without",
        "--temperature": "a new model, to which every token is as likely",
    },
    "clean": {"--trunks": "no finished trunk has a checkpoint"},
}
# Values by mode and option, command and option, or option. A flag has none.
VALUES: dict[str, str] = {
    "--where": "n_params > 2e8",
    "batch --where": "batch_tokens > 2e4",
    "predict score --where": "loss > 9",
    "predict scored --where": "loss > 9",
    "--map": "loss=other",
    "--study": "nosuch",
    "--sheet": "x",
    "--best-of": "rate",
    "--params": "total",
    "--compute": "full-attention",
    "--law": "kaplan",
    "--laws": "kaplan",
    "--objective": "huber-raw",
    "--delta": "0.5",
    "--level": "0.5",
    "--seed": "5",
    "--bootstrap": "7",
    "--fix": "E=1.5",
    "--flops": "3e21",
    "--n-params": "3e9",
    "--tokens": "3e11",
    "--out": "other.csv",
    "--by": "rate",
    "--device": "cpu:0",
    "--holdout-above": "1e19",
    "--holdout-by": "n_params",
    "--baseline": "b",
    "--target": "1e21",
    "--error": "0.2",
    "--least": "1.5",
    "--learn": "arms.csv",
    "--spend": "1e9",
    "--task": "t",
    "--metric": "m",
    "--column": "other",
    "--chance": "0.2",
    "--deadline": "2h",
    "--devices": "4",
    "--tokens-per-second": "1e6",
    "--device-batch": "5e3",
    "--register": "claim2.json",
    "--score": "claim.json",
    "--ledger": "claims.jsonl",
    "--inference-tokens": "1e13",
    "--token-cap": "1e9",
    "--unique-tokens": "1e9",
    "--price-per-token": "1e-9",
    "--price-per-flop": "1e-18",
    "--memory": "1e9",
    "--bytes-per-parameter": "1",
    "--from-law": "besiroglu-2024",
    "--at": "n_params=2e9",
    "--run": "a",
    "--schedule": "wsd",
    "--cooldown": "0.3",
    "--goal": "loss",
    "--budget": "2e20",
    "--loss": "other",
    "--cap": "epochs=4",
    "--unique": "code=4e9",
    "--natural": "code=.5",
    "--to": "bundle2",
    "--licence": "mit",
    "--check": "shared",
    "--from": "csv",
    "--batch-tokens": "1e6",
    "--bytes-per-token": "4",
    "--arm": "b",
    "--setting": "peak_learning_rate=.01",
    "--emit": "fitted.yaml",
    "--batch": "2048",
    "--axis": "batch",
    "--along": "depth",
    "--limit": "0.5",
    "--table": "rates.parquet",
    "--minutes": "1",
    "--dollars": "1",
    "--for": "h200",
    "--tasks": "nosuch.yaml",
    "--items": "7",
    "--runs": "nosuch",
    "--corpora": "folder",
    "--prompt": "def ",
    "--max-tokens": "3",
    "--temperature": "0.001",
    "--top-k": "1",
    "--top-p": "1e-9",
    "--figure": "surface",
    "--against": "hours",
}


def further(mode: str) -> Iterator[tuple[str, list[str]]]:
    """Options that the line of a mode does not hold, with the words that set each."""
    command = mode.partition(" ")[0]
    for parameter in get_command(app).commands[command].params:
        flag = next((flag for flag in parameter.opts if flag.startswith("--")), "")
        if not flag or flag in MODES[mode] or parameter.opts[0] in MODES[mode]:
            continue
        value = next((VALUES[key] for key in (f"{mode} {flag}", f"{command} {flag}", flag) if key in VALUES), None)
        yield flag, [flag] if getattr(parameter, "is_flag", False) else [flag, str(value)]


def write_tables(folder: Path) -> str:
    """Make in `folder` what the lines of the modes read; returns the id of the run in its store."""
    run_id = write_neighbours(folder)
    table = isoflop_table(BESIROGLU, seed=1).iloc[::3].reset_index(drop=True)
    table = table.assign(
        other=table["loss"] ** 0.7, rate=[0.1, 0.2, 0.2] * (len(table) // 3), accuracy=1 / table["loss"]
    )
    table.to_csv(folder / "small.csv", index=False)
    isoflop_table(BESIROGLU, seed=2, largest=1e22).assign(other=3.0, rate=0.1).to_csv(folder / "later.csv", index=False)
    steps = pd.DataFrame({"run_id": ["a"] * 40 + ["b"] * 40, "step": [*range(1, 41)] * 2, "n_params": 1e7})
    curves = steps.assign(tokens=1e5 * steps["step"], loss=2 + steps["step"] ** -0.5)
    curves.assign(other=curves["loss"] + 1, learning_rate=0.1).to_csv(folder / "curves.csv", index=False)
    shutil.copy(RESULTS / "experts.parquet", folder / "experts.parquet")
    for words in (
        ("predict", folder / "small.csv", "--flops", "1e22", "--laws", "chinchilla-tied"),
        ("predict", folder / "small.csv", "--flops", "1e22", "--laws", "chinchilla-tied"),
    ):
        file = "claims.jsonl" if (folder / "claim.json").exists() else "claim.json"
        answer = typed_here([*words, "--register", folder / file])
        assert answer.code == 0, answer.err
    assert typed_here(["share", folder / "small.csv", "--to", folder / "shared"]).code == 0
    return run_id
