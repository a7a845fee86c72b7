"""`isoflop tune TABLE --emit FILE`: the best setting as an optim file, which `isoflop run optim=NAME` takes."""

import math
import shlex
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd

from isoflop.experiments.files import check_name, write_text
from isoflop.experiments.followup.study_file import wrote_text
from isoflop.experiments.followup.template import NOT_RECORDED, NextStudyError, source_of, template_of
from isoflop.printable import loss_text
from isoflop.scaling.table.runs import final_rows, is_runs
from isoflop.scaling.tuning.answer import Tuned, TunedArm
from isoflop.scaling.tuning.best import best_setting

FOREIGN = {"name": "adamw", "parametrization": "standard"}  # of a table that does not say: one rate for all weights


@dataclass(frozen=True)
class Emitted:
    """An optim file: where it is, whether it took the place of another, and the words that name it to a run."""

    file: Path
    replaced: bool
    command: str
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "file": str(self.file), "replaced": self.replaced, "command": self.command, "notes": list(self.notes),
        }  # fmt: skip

    def __str__(self) -> str:
        wrote = wrote_text(self.file, self.replaced, self.command)
        return "\n".join([*(f"note: {note}" for note in self.notes), *wrote])


def emit_optim(found: Tuned, table: pd.DataFrame, path: Path, *, by: str = "arm") -> Emitted:
    """Write the best setting of the one arm of a tuning as an optim file that says how it was made.

    Raises NextStudyError where there are several arms, or the file's name is none that a run can give.
    """
    if path.suffix != ".yaml":
        raise NextStudyError(f"--emit {path}: an optim file is a .yaml file, for example conf/optim/fitted.yaml")
    check_name(path.stem, "--emit, the name of the file")
    if len(found.arms) + len(found.failed) > 1:
        names = ", ".join([*(arm.arm for arm in found.arms), *found.failed])
        raise NextStudyError(f"--emit {path}: the table has several arms ({names}): choose one with --arm")
    arm = found.best
    values, notes = _settings(arm, _rows(table, by, arm.arm))
    lines = [f"# {line}" for line in _remarks(arm, str(table.attrs.get("source", "TABLE")))]
    lines += [f"{key}: {value}" for key, value in values.items()]
    replaced = path.exists()
    try:
        write_text(path, "\n".join(lines) + "\n")
    except OSError as error:
        raise NextStudyError(f"--emit {path}: cannot be written ({error.strerror})") from error
    return Emitted(path, replaced, _command(path), tuple(notes))


def _rows(table: pd.DataFrame, by: str, arm: str) -> pd.DataFrame:
    rows = table[table[by].fillna("").astype(str) == arm] if by in table else table
    rows.attrs = table.attrs
    return rows


def _settings(arm: TunedArm, table: pd.DataFrame) -> tuple[dict[str, Any], list[str]]:
    """The keys of the file, and what to say of those that the table does not tell."""
    if is_runs(table):
        template = template_of(final_rows(table), source_of(table))
        values, notes = dict(template.settings["optim"]), _unrecorded(template.notes)
        if "rule" not in values and final_rows(table).groupby("batch_tokens")["warmup_tokens"].nunique().max() > 1:
            notes.append(
                "the runs of a batch differ in warm-up, which is of a schedule: the file leaves it to the study"
            )
    else:
        values = dict(FOREIGN)
        notes = ["the table does not name the optimizer: the file says adamw with one rate for all weights (standard)"]
    optimum, length = arm.optimum, arm.sweep.context
    batch = optimum.batch_tokens
    if math.isfinite(batch) and math.isfinite(length):
        sequences = max(1, round(batch / length))
        values["batch_size"] = sequences
        at = type(arm.at)(arm.at.n_params, arm.at.tokens, sequences * length)
        optimum = best_setting(arm.law, at)  # of that batch
        if abs(math.log(sequences * length / batch)) > math.log(1.05):
            notes.append(f"a batch of {batch:.4g} tokens is {sequences} sequences of {length:g}, the nearest number")
    elif math.isfinite(batch):
        notes.append(f"the file sets no batch: {batch:.4g} tokens are not known in sequences without context_length")
    values["learning_rate"] = float(f"{optimum.learning_rate:.6g}")
    decay = optimum.weight_decay if math.isfinite(optimum.weight_decay) else arm.optimum.weight_decay
    if math.isfinite(decay):
        values["weight_decay"] = float(f"{decay:.6g}")
    return values, notes


def _unrecorded(notes: tuple[str, ...]) -> list[str]:
    """What a template says of settings of the optimizer that a table does not hold, or holds several values of."""
    unrecorded = []
    for note in (note for note in notes if note.startswith(NOT_RECORDED)):
        named = note.removeprefix(NOT_RECORDED).partition(":")[0].split(", ")
        keys = ", ".join(key for key in named if key.startswith("optim."))
        unrecorded.append(f"{NOT_RECORDED}{keys}: the file leaves them at the defaults")
    tuned = tuple(f"runs differ in optim.{key} " for key in ("learning_rate", "batch_size", "weight_decay"))
    mixed = [note for note in notes if note.startswith("runs differ in optim.") and not note.startswith(tuned)]
    return unrecorded + mixed


def _remarks(arm: TunedArm, source: str) -> list[str]:
    lo, hi = arm.intervals["learning_rate"]
    scale = f"{arm.at.n_params:.4g} parameters, {arm.at.tokens:.4g} tokens"
    requested = f"--at n_params={arm.at.n_params:.6g} --tokens {arm.at.tokens:.6g}"
    return [
        f"isoflop tune {source} {requested}" + (f" --arm {arm.arm}" if arm.arm else ""),
        f"the best setting at {scale}: rate {lo:.4g} to {hi:.4g} ({arm.level:.0%}), loss {loss_text(arm.loss)}",
    ]


def _command(path: Path) -> str:
    """How a run takes the file: found by name in a configuration folder; elsewhere it is copied into one."""
    folder = path.resolve().parent
    if folder == Path(str(files("isoflop.conf.optim"))).resolve():
        return f"isoflop run optim={path.stem} ..."
    if folder.name == "optim":
        return f"isoflop run --config-dir {shlex.quote(str(folder.parent))} optim={path.stem} ..."
    copied = f"mkdir -p conf/optim && cp {shlex.quote(str(path))} conf/optim/"
    return f"{copied} && isoflop run --config-dir conf optim={path.stem} ..."
