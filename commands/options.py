"""What commands share: options, the groups that they stand in under `isoflop --help`, and how they answer."""

import json
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from isoflop.printable import printable

if TYPE_CHECKING:  # loaded when a command runs
    import pandas as pd

    from isoflop.scaling.fitting.objective import Objective as FitObjective

RUN, FIT, DECIDE, SHOW, MODELS = "Run a study", "Fit and compare", "Decide", "Show", "Models and data"

Table = Annotated[Path, typer.Argument(help="a runs folder, or a table: CSV, TSV, JSON, parquet, .xlsx")]
Json = Annotated[bool, typer.Option("--json", help="print JSON, numbers in full precision")]
Laws = Annotated[str, typer.Option("--laws", help="by name, separated by commas; left out: those that apply")]
Level = Annotated[float, typer.Option(help="of every interval")]
HYDRA: dict[Any, Any] = {"allow_extra_args": True, "ignore_unknown_options": True}


class PartialAnswerError(ValueError):
    """Something requested by name has no answer; what has one was printed before."""

    exit_code = 1


def emit(value: dict[str, Any], text: str, as_json: bool) -> None:
    """Print an answer: `value` as JSON, or `text`."""
    typer.echo(json.dumps(value, indent=2) if as_json else printable(text))


def refuse_failed(failed: dict[str, str]) -> None:
    """Raise PartialAnswerError where `failed` holds reasons by name; called after the answers were printed."""
    if failed:
        raise PartialAnswerError("no answer for " + "; ".join(f"{name}: {why}" for name, why in failed.items()))


class Steps:
    """While open, a line on a terminal that says what is being fitted, once QUIET seconds have passed."""

    QUIET = 2.0

    def __enter__(self) -> "Steps":
        self.began, self.timer = time.monotonic(), threading.Timer(0.0, lambda: None)
        return self

    def __call__(self, name: str) -> None:
        """Say that `name` is fitted next."""
        self.timer.cancel()
        if sys.stderr.isatty():
            wait = max(self.began + self.QUIET - time.monotonic(), 0.0)
            self.timer = threading.Timer(wait, typer.echo, (f"\r\033[Kfitting {name} ...", None, False, True))
            self.timer.daemon = True
            self.timer.start()

    def __exit__(self, *error: object) -> None:
        self.timer.cancel()
        if sys.stderr.isatty():
            typer.echo("\r\033[K", nl=False, err=True)


def pairs(values: list[str] | None, option: str) -> dict[str, str]:
    """NAME=VALUE options as a dictionary."""
    split = [v.partition("=") for v in values or []]
    for name, sign, value in split:
        if not (name and sign and value):
            raise ValueError(f"{option} {name}{sign}{value}: write it as {option} NAME=VALUE")
    return {name: value for name, _, value in split}


def number(text: str, option: str) -> float:
    """The value of an option as a number. Raises ValueError naming the option."""
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{option} {text}: not a number") from None


Law = Annotated[str, typer.Option("--law", help="a law by name, or your own as module:Class")]
Params = Annotated[str, typer.Option("--params", help="what counts as N: matrices, active, total, no-embedding")]
Compute = Annotated[str, typer.Option("--compute", help="what counts as compute: exact, 6nd, full-attention")]
Where = Annotated[
    str | None, typer.Option("--where", help="keep the rows where this holds: 'loss < 5 and seed in [0, 1]'")
]
Map = Annotated[list[str] | None, typer.Option("--map", help="use your column: loss=val_loss (repeatable)")]
BestOf = Annotated[
    str, typer.Option("--best-of", help="keep the best runs: learning_rate, or of each cell: n_params,tokens")
]
Study = Annotated[str | None, typer.Option("--study", help="of a runs folder: only the runs of this study")]
Sheet = Annotated[str | None, typer.Option("--sheet", help="of a spreadsheet: the sheet to read")]
Objective = Annotated[str, typer.Option("--objective", help="huber, huber-raw, least-squares, least-squares-raw")]
Delta = Annotated[str, typer.Option("--delta", help="Huber's threshold: auto, or a number such as 1e-3")]


def load(
    table: Path,
    mapping: list[str] | None,
    where: str | None,
    study: str | None = None,
    sheet: str | None = None,
    labels: tuple[str, ...] = (),
    best: str = "",
) -> "pd.DataFrame":
    """The table of a command, read with its --map, --where, --study, --sheet and --best-of; guesses go to stderr.

    `labels` are columns of names besides the usual ones.
    """
    from isoflop.scaling.imports.read import read_table

    read = read_table(table, mapping=pairs(mapping, "--map"), where=where, study=study, sheet=sheet, labels=labels)
    if guessed := read.attrs["guessed"]:
        typer.echo(f"{table}: {'; '.join(guessed)}", err=True)
    if not best:
        return read
    from isoflop.scaling.selection.best_of import best_of

    return best_of(read, [name.strip() for name in best.split(",")])


def objective_of(name: str, delta: str) -> "FitObjective":
    """The objective of a command from its --objective and --delta."""
    from isoflop.scaling.findings.verdict import objective_named

    threshold: float | Literal["auto"] = "auto" if delta == "auto" else number(delta, "--delta")
    return objective_named(name, threshold)
