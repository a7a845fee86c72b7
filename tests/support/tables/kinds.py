"""Kinds of real files: runs as people write them and as programs log them, beside the plain table that they equal."""

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd

from tests.support.doors.typed import Answer, typed_here
from tests.support.tables import program_logs, programs
from tests.support.tables.dialects import Known
from tests.support.tables.program_runs import LAW, Run
from tests.support.tables.programs import write_state

COMMANDS = ("fit", "approaches", "predict", "compare", "multiplier", "report", "import")
SIZES, TOKENS = (2e7, 6e7, 1.8e8, 5.4e8), (4e8, 1.6e9, 6.4e9, 2.56e10)


@dataclass(frozen=True)
class Kind:
    """A way to write known runs: `write` makes a file in a folder, whose name it returns; `same` the table it equals.

    `says` stands in what every command prints, `finding` is a code that each answer has; `wrong` says what is wrong
    with an answer of a command instead of a comparison, and its commands are typed with no laws named.
    """

    write: Callable[[pd.DataFrame, Path], Path]
    says: str = ""
    same: Callable[[pd.DataFrame], pd.DataFrame] = lambda frame: frame
    finding: str = ""
    wrong: Callable[[str, Answer], str] | None = None
    commands: tuple[str, ...] = COMMANDS


def runs() -> pd.DataFrame:
    """Sixteen runs in two arms, with noise, and compute of a fifth more than 6 N D."""
    rng = np.random.default_rng(7)
    rows = [(n, d) for n in SIZES for d in TOKENS]
    frame = pd.DataFrame(rows, columns=["n_params", "tokens"])
    frame["flops"] = 7.2 * frame["n_params"] * frame["tokens"]
    loss = LAW(frame["n_params"], frame["tokens"]) * np.exp(rng.normal(0, 0.003, len(frame)))
    frame["loss"] = loss.round(4)
    frame.insert(0, "run_id", [f"r{k:02d}" for k in range(len(frame))])
    frame.insert(1, "arm", ["base"] * 8 + ["muon"] * 8)
    frame["arm"] = np.where(np.arange(16) % 2, "muon", "base")
    return frame


def as_csv(path: Path, frame: pd.DataFrame, **options: object) -> Path:
    frame.to_csv(path, index=False, **options)  # type: ignore[call-overload]
    return path


def _units(frame: pd.DataFrame, folder: Path) -> Path:
    named = pd.DataFrame({
        "run_id": frame["run_id"], "arm": frame["arm"], "Params (M)": frame["n_params"] / 1e6,
        "Tokens (B)": frame["tokens"] / 1e9, "total_gflops": frame["flops"] / 1e9, "val_loss": frame["loss"],
    })  # fmt: skip
    return as_csv(folder / "units.csv", named)


def _log(frame: pd.DataFrame, folder: Path) -> Path:
    lines = []
    for row in frame.itertuples():
        lines += [f"tokens per iteration will be: {int(row.tokens / 1000):,}",
                  f"number of parameters: {row.n_params / 1e6:.2f}M",
                  "step 0: train loss 10.9000, val loss 10.9000",
                  f"[EVAL] step 1000: train loss {row.loss:.4f}, val loss {row.loss:.4f}"]  # fmt: skip
    (folder / "train.log").write_text("\n".join(lines))
    return folder / "train.log"


def _histories(frame: pd.DataFrame, folder: Path) -> Path:
    inner = folder / "histories"
    inner.mkdir()
    for row in frame.itertuples():
        share = np.arange(1, 6) / 5
        as_csv(inner / f"{row.run_id}.csv", pd.DataFrame({
            "tokens_seen": row.tokens * share, "loss": row.loss + 1 - share, "params": row.n_params,
        }))  # fmt: skip
    return inner


def _curves(frame: pd.DataFrame, folder: Path) -> Path:
    parts = [
        frame.assign(tokens=frame["tokens"] * s, flops=frame["flops"] * s, loss=frame["loss"] + 1 - s)
        for s in (0.5, 1.0)
    ]
    return as_csv(folder / "curves.csv", pd.concat(parts).sort_values(["run_id", "loss"]))


def _long(frame: pd.DataFrame, folder: Path) -> Path:
    parts = [frame.drop(columns="loss").assign(metric=name, value=frame["loss"] - less)
             for name, less in (("train_loss", 0.1), ("val_loss", 0.0))]  # fmt: skip
    return as_csv(folder / "long.csv", pd.concat(parts))


def _states(frame: pd.DataFrame, folder: Path) -> Path:
    failed = frame.iloc[:4].assign(
        run_id=["a", "b", "c", "d"], loss=9.0, Status=["crashed", "FAILED", "KILLED", "running"]
    )
    return as_csv(folder / "states.csv", pd.concat([failed, frame.assign(Status="finished")]))


def _trainer(frame: pd.DataFrame, folder: Path) -> Path:
    inner = folder / "trainer"
    for row in frame.itertuples():
        run = Run(
            str(row.run_id), int(row.n_params), int(row.tokens / 1000), ((1000, int(row.tokens), float(row.loss)),)
        )
        history = [{"eval_loss": row.loss, "step": 1000, "num_input_tokens_seen": int(row.tokens), "epoch": 1.0}]
        history.append({"train_loss": 9.0, "total_flos": 1.0, "train_runtime": 1.0, "step": 1000, "epoch": 1.0})
        write_state(inner / run.name, run, history, 1000)
    return inner


def _sweep(frame: pd.DataFrame, folder: Path) -> Path:
    rates = [
        frame.assign(lr=rate, loss=frame["loss"] * factor) for rate, factor in ((1e-3, 1.0), (3e-3, 1.04), (1e-2, 1.12))
    ]
    joined = pd.concat(rates, ignore_index=True)
    return as_csv(folder / "sweep.csv", joined.assign(run_id=[f"r{k}" for k in range(len(joined))]))


def _plain(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[["run_id", "n_params", "tokens", "loss"]]


def _renamed(path: str, names: Mapping[str, str], **options: object) -> Callable[[pd.DataFrame, Path], Path]:
    return lambda frame, folder: as_csv(folder / path, frame.rename(columns=names), **options)


def _runs(frame: pd.DataFrame) -> list[Run]:
    """The runs of a frame with one evaluation half-way and one at the end."""
    return [
        Run(str(row.run_id), int(row.n_params), int(row.tokens / 1000),
            ((500, int(row.tokens / 2), round(row.loss + 0.5, 4)), (1000, int(row.tokens), float(row.loss))))
        for row in frame.itertuples()
    ]  # fmt: skip


def _whole(frame: pd.DataFrame) -> pd.DataFrame:
    """The runs with whole sequences of 512 tokens in a thousand steps."""
    return frame.assign(tokens=frame["tokens"] // 512_000 * 512_000)


def _written(program: Callable, frame: pd.DataFrame, folder: Path) -> Known:
    """The runs of a frame as a program logs them."""
    frame = _whole(frame)
    with _runs_are(lambda rng, most=4: _runs(frame)[:most] if most < 4 else _runs(frame)):
        return program(np.random.default_rng(5), folder)


@contextmanager
def _runs_are(some_runs: Callable) -> Iterator[None]:
    """The writers of programs' files take these runs in place of drawn ones."""
    with mock.patch.object(programs, "some_runs", some_runs), mock.patch.object(program_logs, "some_runs", some_runs):
        yield


def _by_program(program: Callable) -> Callable[[pd.DataFrame, Path], Path]:
    """A writer of runs as a program logs them; what the source does not tell is given to an import, as users do."""

    def write(frame: pd.DataFrame, folder: Path) -> Path:
        (folder / "source").mkdir()
        known = _written(program, frame, folder / "source")
        if not known.options:
            return known.path
        if "" in known.options.get("batch_tokens", {}):  # these runs differ in it
            known.options["batch_tokens"] = {run.name: float(run.batch) for run in _runs(_whole(frame))}
        options = [
            word
            for name, by_run in known.options.items()
            for run, value in by_run.items()
            for word in (f"--{name.replace('_', '-')}", f"{run}={value}" if run else str(value))
        ]
        made = typed_here(["import", known.path, *options, "-o", folder / "given.csv"])
        assert not made.code, made.err
        return folder / "given.csv"

    return write


def _known(program: Callable) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def same(frame: pd.DataFrame) -> pd.DataFrame:
        with tempfile.TemporaryDirectory() as folder:
            return _written(program, frame, Path(folder)).table

    return same


def megatron_logs(rng: np.random.Generator, folder: Path) -> Known:
    """A folder with a log of Megatron-LM for each run."""
    tables = []
    for run in programs.some_runs(rng):
        with _runs_are(lambda rng, most=4, run=run: [run]):
            tables.append(programs.megatron(rng, folder).table)
    return Known(folder, pd.concat(tables, ignore_index=True), "nats/token")


OF_PROGRAMS = {
    "N Lightning folders": programs.lightning, "O nanochat results": programs.nanochat,
    "P W&B panel": programs.wandb_panel,
    "Q W&B list": programs.wandb_list, "W W&B API": programs.wandb_api, "W Megatron logs": megatron_logs,
    "W litgpt folders": programs.litgpt, "W levanter": programs.levanter, "W MLflow": programs.mlflow,
    "W nanoGPT mixed": programs.interleaved,
}  # fmt: skip
PREFERRED = "Law `chinchilla-tied` (preferred"  # in the report
TWELVE = pd.DataFrame({
    "n_params": np.repeat([1238144, 2869504, 8886784, 33506304], 3), "tokens": [5e6, 2e7, 8e7] * 4,
    "loss": [8.156, 5.643, 4.211, 7.294, 5.299, 3.818, 6.653, 4.798, 3.207, 6.061, 4.497, 2.790],
})  # fmt: skip


def _not_tied(command: str, answer: Answer) -> str:
    """What is wrong with the law that an answer on the twelve rows names."""
    found = json.loads(answer.out)
    if command == "report":
        return "" if PREFERRED in (Path(found["folder"]) / "report.md").read_text() else "does not name chinchilla-tied"
    return "" if found["preferred"] == "chinchilla-tied" else f"the law is {found['preferred']}"


def _not_exact(command: str, answer: Answer) -> str:
    """What is wrong with an answer on data without noise."""
    if '"not_converged"' in answer.out:
        return "not converged"
    if command != "fit":
        return ""
    law = json.loads(answer.out)["params"]
    apart = [name for name, value in {"E": 1.8, "A": 400, "B": 1200, "alpha": 0.34, "beta": 0.37}.items()
             if not np.isclose(law[name], value, rtol=1e-6)]  # fmt: skip
    return f"{apart[0]} is {law[apart[0]]}" if apart else ""


def _exact(frame: pd.DataFrame, folder: Path) -> Path:
    n, d = (x.ravel() for x in np.meshgrid([1e7, 1e8, 1e9], [1e9, 1e10, 1e11]))
    return as_csv(folder / "exact.csv", pd.DataFrame({"n_params": n, "tokens": d, "loss": LAW(n, d)}))


def _repeated(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(unique_tokens=frame["tokens"] / np.tile([1, 2, 4, 8], 4))


NONE = {"base": "None", "muon": "NA"}
KINDS: dict[str, Kind] = {
    "A models in one log": Kind(_log, "16 runs in one log", lambda f: f[["n_params", "tokens", "loss"]]),
    "B along tokens": Kind(_histories, "5 rows along tokens are one run", _plain),
    "C aliases": Kind(_renamed("c.csv", {"tokens": "n_tokens", "loss": "val_loss"}), "tokens: column n_tokens"),
    "D labels": Kind(
        lambda f, d: as_csv(d / "labels.csv", f.replace({"arm": NONE})),
        "",
        lambda f: f.replace({"arm": {"base": "N0", "muon": "N1"}}),
    ),
    "E units in names": Kind(_units, "n_params: column Params (M) (times 1e+06)"),
    "E magnitudes": Kind(
        lambda f, d: as_csv(
            d / "m.csv", f.assign(n_params=f["n_params"] / 1e6)[["run_id", "arm", "n_params", "tokens", "loss"]]
        ),
        finding="units",
    ),
    "F repeated data": Kind(
        lambda f, d: as_csv(d / "f.csv", _repeated(f).rename(columns={"loss": "val_loss"})),
        "",
        _repeated,
    ),
    "I preferred": Kind(
        lambda f, d: as_csv(d / "i.csv", TWELVE), wrong=_not_tied, commands=("predict", "compare", "report")
    ),
    "G perplexity": Kind(
        lambda f, d: as_csv(d / "ppl.csv", f.assign(val_ppl=np.exp(f["loss"])).drop(columns="loss")),
        "ln of a perplexity",
    ),
    "G bits": Kind(
        lambda f, d: as_csv(d / "bpc.csv", f.assign(val_bpc=f["loss"] / np.log(2)).drop(columns="loss")),
        "nats/character",
        lambda f: f.rename(columns={"loss": "loss (nats/character)"}),
    ),
    "H unfinished": Kind(_states, "crashed"),
    "J trainer_state": Kind(
        _trainer, "total_flos", lambda f: _plain(f).assign(flops=6.0 * f["n_params"] * f["tokens"])
    ),
    "K rates pooled": Kind(
        _sweep, finding="pooled_settings", commands=("fit", "approaches", "compare", "predict", "report")
    ),
    "L words": Kind(
        lambda f, d: as_csv(
            d / "w.csv",
            f.assign(
                n_params=[f"{n / 1e6:.0f}M" for n in f["n_params"]], tokens=[f"{t / 1e9:g}B" for t in f["tokens"]]
            ),
        )
    ),
    "M curves": Kind(_curves, ""),
    "R long": Kind(_long, "a long table, a column for each metric"),
    "S no tokens": Kind(
        lambda f, d: as_csv(d / "s.csv", f.drop(columns="tokens")),
        "tokens are missing: taken as flops / (6 x n_params)",
        lambda f: f.assign(tokens=f["flops"] / 6 / f["n_params"]),
    ),
    "T no n_params": Kind(
        lambda f, d: as_csv(d / "t.csv", f.drop(columns="n_params")),
        "n_params is missing: taken as flops / (6 x tokens)",
        lambda f: f.assign(n_params=f["flops"] / 6 / f["tokens"]),
    ),
    "U semicolons": Kind(lambda f, d: as_csv(d / "u.csv", f, sep=";", decimal=",", encoding="utf-16"), "decimal comma"),
    "U lines": Kind(lambda f, d: (f.to_json(d / "u.jsonl", orient="records", lines=True), d / "u.jsonl")[1]),
    "V exact": Kind(_exact, wrong=_not_exact, commands=("fit", "approaches", "predict", "report", "import")),
    **{name: Kind(_by_program(program), "", _known(program)) for name, program in OF_PROGRAMS.items()},
    "empty values": Kind(
        lambda f, d: as_csv(d / "e.csv", pd.concat([f, f.iloc[:2].assign(run_id=["x", "y"], loss=np.nan)])), ""
    ),
}
