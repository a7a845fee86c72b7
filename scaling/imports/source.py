"""Sources of runs that other programs logged: what a reader of one takes and returns."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import pandas as pd

from isoflop.read_json import JsonError, read_bytes
from isoflop.scaling.imports.shapes import Shape

WANDB = (
    "what W&B keeps of its runs only wandb reads: after `wandb sync` save the rows of run.scan_history() of its API "
    "as a CSV for each run, or export a panel"
)


class SourceError(ValueError):
    """A source cannot be imported as it is; the message names what is missing and the option that gives it, in one
    line."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.splitlines()))


def read_text(path: Path) -> str:
    """The text of a regular file: UTF-8, or UTF-16 with its mark. Raises SourceError naming any other."""
    try:
        raw = read_bytes(path)
        wide = raw[:2] in (b"\xff\xfe", b"\xfe\xff") and len(raw) % 2 == 0
        return raw.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        remedy = WANDB if path.suffix == ".wandb" else "save the rows of such a file as parquet or CSV"
        raise SourceError(f"{path}: not text ({error.reason} at byte {error.start}); {remedy}") from error
    except JsonError as error:
        raise SourceError(str(error)) from error


def reported_loss(value: float) -> float:
    """A loss that a program wrote down: where it is not a number the run diverged, and it is infinite, not missing."""
    return math.inf if math.isnan(value) else value


@dataclass(frozen=True)
class ForeignRun:
    """One run as its source reports it.

    `curve` has columns step and loss (in `loss_unit`), and tokens, flops, samples, epoch, train_loss, learning_rate and
    wall_seconds where reported, and those that a run keeps as they are (`kept.is_kept`).
    `n_params` holds parameter counts by convention, `settings` constants of the run (seed, arm, learning_rate, corpus,
    optimizer, schedule, warmup_steps, dtype), `skipped` numbers of rows without an evaluation by reason, `scores` those
    of the finished run on tasks, by the name of their column. Without `reported_steps` its steps number rows. `notes`
    state what was assumed, `lacking` why a quantity is not there. With `without_embeddings` its FLOPs are 6 x
    parameters without embeddings x tokens, and do not report the tokens of a run whose n_params are others. `constants`
    are further columns with one value in the run. Without `named` its source gives it no name, and it is a row.
    """

    name: str
    source: str
    curve: pd.DataFrame
    loss_unit: str = "nats/token"
    horizon_steps: int | None = None
    batch_tokens: float | None = None
    n_params: Mapping[str, float] = field(default_factory=dict)
    flops_per_token: float | None = None
    compute_convention: str = ""
    shape: Shape | None = None
    settings: Mapping[str, object] = field(default_factory=dict)
    skipped: Mapping[str, int] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)
    reported_steps: bool = True
    notes: Sequence[str] = ()
    without_embeddings: bool = False
    lacking: Mapping[str, str] = field(default_factory=dict)
    constants: Mapping[str, object] = field(default_factory=dict)
    named: bool = True


@dataclass(frozen=True)
class LeftOut:
    """Rows of one run that are not in the imported table; all of its rows where `whole` is set."""

    run: str
    rows: int
    reason: str
    whole: bool = False

    def __str__(self) -> str:
        return f"{self.run}: {'the run' if self.whole else f'{self.rows} rows'}: {self.reason}"


class Reader(Protocol):
    """A reader of one kind of source. To add a source, write one and name it in `read.READERS`."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """Values of `--from` that choose this reader."""

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Suffixes of the files that it reads in a folder; none for a reader of whole folders."""

    def recognises(self, path: Path) -> bool:
        """Whether a file or folder looks like a source of this kind."""

    def read(
        self, path: Path, name: str, mapping: Mapping[str, str], notes: list[str]
    ) -> tuple[list[ForeignRun], list[LeftOut]]:
        """The runs at `path`, and the rows that are left out. Adds to `notes` what was inferred.

        `name` is that of a run whose source names none, `mapping` holds the
        columns that the user named (ours -> the source's). Raises SourceError.
        """
