"""Which column of a table of metrics is which quantity: by `--map`, else by a name with one meaning.

With two candidates the error asks for `--map`.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from isoflop.scaling.imports.kept import left_out_note
from isoflop.scaling.imports.source import SourceError
from isoflop.scaling.table.columns import (
    OPTIONAL,
    VALIDATION,
    Resolved,
    TableError,
    absent,
    floats,
    hint,
    refuse_words,
    resolve,
    row_names,
)
from isoflop.scaling.table.curves import CALLS, STEPS, run_column, step_columns
from isoflop.scaling.table.formats.loss_unit import with_unit
from isoflop.scaling.table.meaning import QUANTITIES, meaning, parse

# Names of what is no quantity of a law, lower case, in the order of preference where several are there.
NAMES: dict[str, tuple[str, ...]] = {
    "step": (*STEPS, CALLS),
    "train_loss": ("train_loss", "train/loss", "train/crossentropyloss", "train/ce loss", "loss/train"),
    "learning_rate": ("learning_rate", "lr", "train/learning_rate", "train/lr", "optim/learning_rate_group0",
                      "peak_learning_rate"),
    "batch_tokens": ("batch_tokens", "batch_size_in_tokens", "tokens_per_step", "tokens_per_iter"),
    "wall_seconds": ("wall_seconds", "_runtime", "runtime", "elapsed_seconds", "train_seconds", "train_time_sec"),
    "samples": (
        "samples", "n_samples", "num_samples", "samples_seen", "consumed_samples", "train/samples", "examples",
        "examples_seen", "n_examples", "num_examples", "sequences", "sequences_seen",
    ),
    "epoch": ("epoch", "epochs", "train/epoch"),
    "context_length": (
        "context_length", "seq_len", "seq_length", "sequence_length", "block_size", "max_seq_len", "context",
    ),
    "epoch_tokens": ("tokens_per_epoch", "epoch_tokens", "unique_tokens"),
    "run_id": ("run_id", "run", "run_name", "run id", "run name", "name", "id"),
    "seed": ("seed",),
    "arm": ("arm",),
}  # fmt: skip
MOST_SHOWN = 30  # columns in a message
COUNTS_CALLS = "which counts calls of wandb.log unless these name a step"
_TRAINING = re.compile(r"^(train[/_. ])?(loss|crossentropyloss|ce loss)$")


@dataclass
class Columns:
    """The column of each quantity: by `mapping` (ours -> theirs), else by NAMES. `notes` collects what was found."""

    mapping: Mapping[str, str]
    notes: list[str]
    source: str

    def find(self, frame: pd.DataFrame, quantity: str) -> str | None:
        """The column of a quantity, None without one. Raises SourceError for a --map to a column that is not there."""
        if quantity in self.mapping:
            wanted = self.mapping[quantity]
            if wanted not in frame:
                near = hint(wanted, map(str, frame))
                raise SourceError(f"{self.source}: --map {quantity}={wanted}: no column {wanted!r}{near}")
            return wanted
        if quantity == "step":
            return next(iter(step_columns(frame)), None)
        lowered = {str(name).lower(): name for name in frame}
        return next((lowered[name] for name in NAMES[quantity] if name in lowered), None)

    def resolve(self, frame: pd.DataFrame) -> Resolved:
        """The quantities of a table. Raises SourceError where one is ambiguous, or no validation loss is there."""
        named = {name: self.find(frame, name) for name in (*QUANTITIES, *OPTIONAL) if name in self.mapping}
        run = self.find(frame, "run_id") or run_column(frame, self.find(frame, "step"))
        history = self.find(frame, "step") is not None and (run is None or frame[run].nunique() < len(frame))
        mapping = {name: column for name, column in named.items() if column is not None}
        if history and "loss" not in mapping:
            mapping["loss"] = self._loss(frame)
        notes: list[str] = []
        try:
            found = resolve(frame, mapping, notes, source=self.source, needs=(("loss",),))
            refuse_words(found, found.frame, source=self.source)
        except TableError as error:
            raise SourceError(str(error)) from error
        for text in notes:
            self.note(text)
        return found

    def _loss(self, frame: pd.DataFrame) -> str:
        """The column of the validation loss of a history. Raises SourceError for several, or training losses alone."""
        found = [str(name) for name in frame if VALIDATION.match(str(name).lower())]
        if not found and "loss" in frame and self.find(frame, "train_loss"):
            found = ["loss"]  # next to a training loss it is the validation loss
        if len(found) == 1:
            return found[0]
        if found:
            listed = ", ".join(found[:6])
            raise SourceError(
                f"{self.source}: {len(found)} validation losses ({listed}); name one with --map loss=COLUMN"
            )
        others = [str(name) for name in frame if (meant := meaning(str(name))) and meant.quantity == "loss"]
        if len(others) == 1:
            if _TRAINING.match(others[0].lower()):
                self.note(f"loss: column {others[0]}, the only one; the file does not say of which text it is")
            return others[0]
        training = [str(name) for name in frame if _TRAINING.match(str(name).lower())]
        if training and not others:
            raise SourceError(
                f"{self.source}: no validation loss; only a training loss: use it with --map loss={training[0]}"
            )
        raise SourceError(
            f"{self.source}: no validation loss; name it with --map loss=COLUMN (columns: {', '.join(map(str, frame))})"
        )

    def in_unit(self, found: Resolved, rows: pd.DataFrame) -> tuple[np.ndarray, str]:
        """The losses (n,) of the rows of a run, in nats, and their unit. Raises SourceError for a unit in dispute."""
        notes: list[str] = []
        try:
            rows, unit = with_unit(found, rows, notes, source=self.source)
        except TableError as error:
            raise SourceError(str(error)) from error
        for text in notes:
            self.note(text)
        return rows["loss"].to_numpy(float), unit

    def axis(self, found: Resolved) -> str | None:
        """The column along which a run goes: steps, tokens, samples, epochs or FLOPs; None without any."""
        for quantity in ("step", "tokens", "samples", "epoch", "flops"):
            if quantity in found.columns:
                return quantity
            if quantity in NAMES and (column := self.find(found.frame, quantity)) is not None:
                return column
        return None

    def known(self, found: Resolved) -> set[str | None]:
        """The columns of quantities, of what NAMES lists, and of the names of runs."""
        frame, step = found.written, self.find(found.written, "step")
        return {*found.columns.values(), *(self.find(frame, name) for name in NAMES), run_column(frame, step)}

    def say_steps(self, frame: pd.DataFrame, taken: str) -> None:
        """Note which column is that of steps, what it counts, and others that hold other steps.

        Raises SourceError where it is empty in all rows with a loss, and another is not.
        """
        if "step" in self.mapping:
            return
        own = floats(frame[taken])
        rest = {name: floats(frame[name]) for name in step_columns(frame) if name != taken}
        measured = frame["loss"].notna()
        if own[measured].isna().all() and (full := [name for name in rest if rest[name][measured].notna().any()]):
            raise SourceError(
                f"{self.source}: the column of steps {taken} is empty in every row with a loss; "
                f"take another with --map step={full[0]}"
            )
        others = [name for name, steps in rest.items() if not _agree(steps, own)]
        if taken == "step" and not others:
            return
        calls = f", {COUNTS_CALLS}" if taken == CALLS else ""
        also = f"; the table also has {', '.join(others)} (choose with --map step=COLUMN)" if others else ""
        self.note(f"steps: column {taken}{calls}{also}")

    def numbers(self, frame: pd.DataFrame, column: str) -> np.ndarray:
        """The values of a column as numbers, also as people write them. Raises SourceError naming one that is none."""
        found, wrong = parse(frame[column])
        if wrong.any():
            value = frame[column][wrong].iloc[0]
            raise SourceError(
                f"{self.source}: {column} is no number in {row_names(frame, wrong.to_numpy())}: {value!r}; correct it, "
                "or leave the column out"
            )
        return found.to_numpy(object)

    def counted_on(self, found: Resolved, run: str | None) -> Resolved:
        """The table with steps that go on where those of a run begin again and its tokens do not."""
        frame, step = found.frame, self.find(found.frame, "step")
        if run is None or step is None or "tokens" not in found.columns:
            return found
        at = floats(frame[step])
        runs = at.groupby(frame[run], sort=False)
        again = (runs.diff() < 0) & (at <= runs.transform("first"))
        rises = ~(frame["tokens"].groupby(frame[run], sort=False).diff().fillna(np.inf) <= 0)
        again &= (rises & frame["tokens"].notna()).groupby(frame[run], sort=False).transform("all")
        if not again.any():
            return found
        names = frame.loc[again, run].unique()
        which = f"run {names[0]}" + (f" and {len(names) - 1} more" if len(names) > 1 else "")
        self.note(f"steps begin again in {which}, and its tokens go on: steps are counted on")
        before = runs.shift().where(again, 0.0).groupby(frame[run], sort=False).cumsum()
        return replace(found, frame=frame.assign(**{step: at + before}))

    def say_unused(self, found: Resolved, used: Iterable[str]) -> None:
        """Note the columns of which nothing is kept: not `used`, and of no quantity, setting or name of a run."""
        if text := left_out_note(found.written, [*used, *self.known(found)]):
            self.note(text)

    def lacking(self, found: Resolved) -> dict[str, str]:
        """What is said of each quantity that no column holds, with the columns that there are."""
        names = [str(name) for name in found.written if name != "run_id"]
        shown = ", ".join(names[:MOST_SHOWN]) + (
            f" and {len(names) - MOST_SHOWN} more" if len(names) > MOST_SHOWN else ""
        )
        missing = [name for name in ("n_params", "tokens") if name not in found.columns]
        return {name: f"{absent(name, names)}; columns: {shown}" for name in missing}

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def _agree(one: pd.Series, other: pd.Series) -> bool:
    """Whether two columns are the same in all rows that both know."""
    return bool((one == other)[one.notna() & other.notna()].all())
