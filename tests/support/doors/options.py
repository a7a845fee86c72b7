"""Every option of every command, by what its function states, and values of it that mean nothing."""

import inspect
import os
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import pandas as pd
from typer.main import get_command

from isoflop.__main__ import app
from isoflop.experiments.store.models import evaluation_file, weights_file
from isoflop.experiments.store.store import create_store
from isoflop.models import build_model
from isoflop.models.config import ModelConfig
from isoflop.models.parametrization import initialize
from isoflop.models.weights import save_weights
from isoflop.scaling.table.evaluations.evaluation import write_evaluation
from isoflop.scaling.table.runs import read_runs, write_run
from tests.support.fits.mixed_studies import study
from tests.support.fits.simulated import BESIROGLU, isoflop_table
from tests.support.root import RESULTS

FLOATS = ("nan", "inf", "-inf", "-1", "x", "", "1e400", "1" * 400, "1,5", "0x10")
INTEGERS = ("-1", "x", "1.5", "", "nan", str(10**25), "9" * 5000)
NAMES = ("nosuch", "no such", "../x", "\u00e9", "a\nb", "x" * 3000)
LAWS = (
    ":x", "x:", ":", "nosuch", "isoflop.scaling.laws.chinchilla:Nope", "nosuch.module:Law", "os:path",
    "json:JSONDecoder",
)  # fmt: skip
PAIRS = ("E", "=5", "E=", "=", "nosuch=1")
# Of text options, what means nothing, by command and option, or by option.
TEXTS: dict[str, tuple[str, ...]] = {
    "--objective": NAMES,
    "--delta": ("nan", "-1", "0", "inf", "x", "", "1e400"),
    "--params": NAMES,
    "--compute": NAMES,
    "import --params": NAMES,
    "--where": (
        "(", "loss <", "nosuch > 1", "__import__('os')", "loss.max() > 1", "(" * 1000, "loss == 'x", "5", "loss < 0",
    ),
    "--map": ("x", "loss=", "=loss", "loss=nosuch", "nosuch=loss", "="),
    "--study": NAMES,
    "--sheet": NAMES,
    "--best-of": (*NAMES, ",", "n_params,", "loss"),
    "--runs": (*NAMES, ",", ""),
    "--against": (*NAMES, ""),
    "--fix": (*PAIRS, "E=nan", "E=-5", "E=inf", "E=x", "E=1e400", "alpha=-1", "alpha=0", "A=0", "A=-1", "beta=nan"),
    "--law": LAWS,
    "--laws": (*LAWS, ",", "chinchilla,nosuch", "chinchilla,chinchilla:"),
    "--holdout-by": NAMES,
    "--at": ("n_params=", "n_params=x", "n_params=nan", "=1", "nosuch=1", "", "nosuch", "empty", "folder"),
    "--deadline": ("x", "2", "h", "-2h", "0h", "nanh", "infd", ""),
    "--by": NAMES,
    "--setting": ("learning_rate=", "learning_rate=x", "learning_rate=-1", "=1", "nosuch=1", "", "weight_decay=0.1"),
    "--loss": NAMES,
    "--for": NAMES,
    "tune --arm": NAMES,
    "tune --at": ("n_params=", "n_params=x", "n_params=nan", "n_params=0", "=1", "nosuch=1", "", "nosuch"),
    "mix --at": ("n_params=", "n_params=x", "n_params=nan", "n_params=0", "=1", "nosuch=1", "", "nosuch"),
    "--cap": ("x", "epochs=", "epochs=x", "epochs=0", "epochs=nan", "epochs=4", "nosuch=1", ""),
    "--unique": ("code=", "code=x", "code=-1", "=1", "nosuch=1", "", "code"),
    "--natural": ("code=", "code=x", "code=-1", "code=0.2", "=1", "nosuch=1", "", "code"),
    "--baseline": NAMES,
    "--task": NAMES,
    "--metric": NAMES,
    "--column": NAMES,
    "--goal": NAMES,
    "--from-law": NAMES,
    "--from": NAMES,
    "--n-params": ("x", "nan", "-1", "0", "inf", "r=", "r=x", ""),
    "--batch-tokens": ("x", "nan", "-1", "0", "inf", "r=", "r=x", ""),
    "--tokens": ("x", "nan", "-1", "0", "inf", "r=", "r=x", ""),
    "--axis": NAMES,
    "--along": NAMES,
    "--state": (*NAMES, "done"),
    "--run": NAMES,
    "--schedule": NAMES,
    "--figure": NAMES,
    "--device": ("nosuch", "cuda:99", "", "cpu:x"),
    "--licence": ("", "no such", "a\nb: c", "../x", "\u00e9", "x" * 3000),
    "--host": ("no such", "256.1.1.1", "nosuch.invalid"),
    "--tasks": ("nosuch_task_", "nosuch.yaml", ","),
    "gate table": ("nosuch", "empty", "binary.parquet", "binary.csv", "folder", "nosuch/x", "x" * 3000, "a\0b"),
    "run_id": ("nosuch", "", "../x", "a" * 3000),
    "run_ids": ("nosuch", "", "../x", "a" * 3000),
}  # fmt: skip
FREE = {"--prompt", "--arm"}  # any text has a meaning
INPUTS = ("nosuch", "pipe", "empty", "binary.parquet", "binary.csv", "folder", "loop", "nosuch/x", "x" * 3000, "a\0b")
OUTPUTS = ("/dev/null/x", "table.csv/x", "folder", "/proc/nosuch/x", "x" * 3000 + ".csv", "a\0b.png")
WRITES = {"--out", "--register", "--to", "--paper", "--emit"}
TAKEN = {  # an empty folder is as good as none
    "report --out": ("folder",), "export --out": ("folder",), "share --to": ("folder",), "report --paper": ("folder",),
    "evaluate --corpora": ("folder",), "positions --corpora": ("folder",),
}  # fmt: skip
SLOW = {"report", "compare"}  # commands whose refusal may come after a fit
# A command line of each command that is sound but for what is put into it.
SOUND: dict[str, list[str]] = {
    "fit": ["arms.csv", "--bootstrap", "0"],
    "approaches": ["arms.csv"],
    "compare": ["arms.csv", "--laws", "power-n"],
    "multiplier": ["arms.csv"],
    "gate": ["arms.csv", "--target", "1e22"],
    "accuracy": ["arms.csv"],
    "batch": ["steps.csv", "--devices", "8", "--tokens-per-second", "1e5"],
    "predict": ["arms.csv", "--flops", "1e22", "--laws", "chinchilla-tied"],
    "mix": ["mixed.csv"],
    "suggest": ["arms.csv", "--budget", "1e20", "--target", "1e22"],
    "report": ["table.csv", "--bootstrap", "0", "--out", "report"],
    "plot": ["arms.csv", "--out", "x.png"],
    "share": ["arms.csv", "--to", "bundle"],
    "import": ["arms.csv", "--map", "loss=loss", "--out", "imported.csv"],
    "tune": ["--table", "rates.parquet"],
    "run": [],
    "plan": [],
    "prepare": [],
    "status": ["runs"],
    "retry": ["runs"],
    "clean": ["runs"],
    "compact": ["runs", "--out", "x.parquet"],
    "positions": ["runs"],
    "export": ["RUN", "--out", "exported"],
    "generate": ["RUN", "--max-tokens", "2"],
    "serve": ["RUN"],
    "evaluate": ["RUN"],
}
CURVES = ["runs", "--figure", "curves", "--out", "x.png"]
SOUND_FOR = {"plot --runs": CURVES, "plot --against": CURVES}


@dataclass(frozen=True)
class Option:
    """An option or argument of a command: the words that set it, and the type of its values."""

    command: str
    flag: str  # "" of an argument
    name: str
    kind: type

    def words(self, value: str, run_id: str) -> list[str]:
        """A command line that is sound but for this value; of an option that stands twice, the last counts."""
        words = SOUND_FOR.get(f"{self.command} {self.flag}", SOUND[self.command])
        sound = [run_id if word == "RUN" else word for word in words]
        if self.flag:
            return [self.command, *sound, f"{self.flag}={value}"]
        return [self.command, *(["--", value] if value.startswith("-") else [value]), *sound[1:]]

    def names(self, value: str) -> list[str]:
        """What a refusal of this value may be recognised by: the option, or the file or run that the value names."""
        named = self.kind is Path or not self.flag or self.flag == "--at"
        shown = [value[:60].partition("\n")[0].partition("\0")[0]] if named else []
        if self.kind is Path and self.flag in WRITES:
            shown.append(str(Path(value).parent))
        singular = self.name.removesuffix("s").upper()
        return [self.flag, *filter(None, shown)] if self.flag else [*filter(None, shown), singular, self.name]

    def bad_values(self) -> tuple[str, ...]:
        """Values that mean nothing."""
        if self.kind is float:
            return FLOATS
        if self.kind is int:
            return INTEGERS
        if self.kind is Path:
            values = OUTPUTS if self.flag in WRITES else INPUTS
            taken = TAKEN.get(f"{self.command} {self.flag or self.name}", ())
            return tuple(value for value in values if value not in taken)
        key = self.flag or self.name
        own = TEXTS.get(f"{self.command} {key}")
        return own or (() if key in FREE else TEXTS[key])


def options() -> Iterator[Option]:
    """Every option and argument that takes a value."""
    for name, command in get_command(app).commands.items():
        assert command.callback is not None
        function = inspect.unwrap(command.callback)
        kinds = {key: _kind(hint) for key, hint in get_type_hints(function).items()}
        for parameter in command.params:
            kind = kinds.get(str(parameter.name))
            if kind in (float, int, str, Path):
                flags = [flag for flag in parameter.opts if flag.startswith("--")]
                yield Option(name, flags[0] if flags else "", str(parameter.name), kind)


def _kind(hint: Any) -> Any:
    """`float` of `list[float] | None`."""
    if get_origin(hint) in (Union, types.UnionType):
        (hint,) = (part for part in get_args(hint) if part is not type(None))
    return get_args(hint)[0] if get_origin(hint) is list else hint


def write_neighbours(folder: Path) -> str:
    """Make in `folder` what the command lines read: tables, a store with one trained run, files that are none of these.

    Returns the run's id, which stands for RUN in the command lines.
    """
    table = isoflop_table(BESIROGLU, seed=1)
    arms = pd.concat([table.assign(arm="a"), table.assign(arm="b", loss=0.97 * table["loss"])], ignore_index=True)
    arms.assign(accuracy=0.5 + 0.1 / arms["loss"]).to_csv(folder / "arms.csv", index=False)
    table.to_csv(folder / "table.csv", index=False)
    steps = pd.DataFrame(
        {"n_params": 1e8, "batch_tokens": [1e4, 1e5, 1e6, 1e7], "steps_to_target": [9e4, 1e4, 3e3, 2e3]}
    )
    steps.to_csv(folder / "steps.csv", index=False)
    study(2, 0, runs=24)[1].to_csv(folder / "mixed.csv", index=False)
    (folder / "rates.parquet").write_bytes((RESULTS / "lr_transfer.parquet").read_bytes())
    (folder / "folder").mkdir()
    (folder / "empty").touch()
    (folder / "binary.parquet").write_bytes(b"PAR1\0\xff\xfe garbage PAR1")
    (folder / "binary.csv").write_bytes(b"\0\xff\xfe\0garbage,\0\n\x9c,1\n")
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "pipe")
    return _write_store(folder / "runs")


def _write_store(root: Path) -> str:
    """A store with the smallest run of the committed results and a new model of its shape; returns the run's id."""
    runs = read_runs(RESULTS / "quick.parquet")
    rows = runs[runs["run_id"] == runs.loc[runs["n_params_total"].idxmin(), "run_id"]]
    row = rows.iloc[-1]
    store, run_id = create_store(root), str(row["run_id"])
    write_run(
        store.run_file(run_id),
        rows.to_dict("records"),
        {"data": {"name": "x"}, "study": "s", "what": {"optim": {}, "schedule": {"name": "wsd"}}},
    )
    shape = {key: int(row[key]) for key in ("vocab_size", "context_length", "n_layer", "d_model", "n_head", "d_ff")}
    model = initialize(build_model(ModelConfig(family="transformer", **shape)), 0)
    save_weights(model, weights_file(store, run_id), {"run_id": run_id, "tokenizer_id": str(row["tokenizer_id"])})
    document = {"run_id": run_id, "measure": "position", "number": 1, "targets": 1, "loss": 5.0, "accuracy": 0.1}
    write_evaluation(evaluation_file(store, run_id), pd.DataFrame([document, document | {"measure": "document"}]))
    store.record(run_id, "done", trunk_id="t")
    store.write_study("s", [{"run_id": run_id, "trunk_id": "t"}])
    return run_id
