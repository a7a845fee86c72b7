"""What commands share: options, the groups that they stand in under `isoflop --help`, and how they answer."""

import gc
import json
import math
import os
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from isoflop.arguments import AT_LEAST_ONE, MOST, NOT_NEGATIVE, POSITIVE, RESAMPLES, SHARE
from isoflop.printable import printable

if TYPE_CHECKING:  # loaded when a command runs
    from collections.abc import Sequence

    import pandas as pd

    from isoflop.scaling.fitting.objective import Objective as FitObjective
    from isoflop.scaling.laws.inputs import Column

RUN, FIT, DECIDE, SHOW, MODELS = "Run a study", "Fit and compare", "Decide", "Show and share", "Models and data"

Table = Annotated[Path, typer.Argument(help="a runs folder, a bundle, or a table: CSV, TSV, JSON, parquet, .xlsx")]
Json = Annotated[bool, typer.Option("--json", help="print JSON, numbers in full precision")]
CORPORA = Path("corpora")
SHOWN = 200  # characters of a wrong value in a message
LOADED: list[str] = []  # tables that the command read: what cannot be answered names the one
HYDRA: dict[Any, Any] = {"allow_extra_args": True, "ignore_unknown_options": True}
KEYS = "[OPTIONS] [KEY=VALUE ...]"  # how the usage of a command that takes keys of a study is written
KEYS_LISTED = "Keys and defaults: isoflop/conf/config.yaml; an unknown key names the nearest."


class PartialAnswerError(ValueError):
    """Something requested by name has no answer; what has one was printed before."""

    exit_code = 1


def emit(value: dict[str, Any], text: str, as_json: bool) -> None:
    """Print an answer: `value` as JSON, in which a number that is not finite is null, or `text`."""
    say(_json(value) if as_json else printable(text))


class OutputError(ValueError):
    """What a command answers cannot be printed, as the disk behind its output is full: no table is at fault."""

    exit_code = 1


def say(text: object = "", *, nl: bool = True) -> None:
    """Print a part of an answer. Raises OutputError where it cannot be."""
    try:
        typer.echo(text, nl=nl)
    except BrokenPipeError:  # whoever reads has enough: the command ends without a word
        raise
    except OSError as error:
        raise OutputError(f"the answer cannot be printed: {(error.strerror or str(error)).lower()}") from error


def _json(value: dict[str, Any]) -> str:
    try:
        return json.dumps(value, indent=2, allow_nan=False)
    except ValueError:
        from isoflop.scaling.table.json_plain import plain  # loads pandas, which some commands do without

        return json.dumps(plain(value), indent=2)


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


def refuse(context: typer.Context, why: str, *names: str) -> None:
    """Raise ValueError where one of these parameters was typed, which the command does not read then; `why` says so."""
    flags = {str(one.name): _flag(one) for one in context.command.params}
    if used := [flags[name] for name in flags if name in names and _was_typed(context, name)]:
        raise ValueError(f"{why}: leave out {', '.join(used)}")


def refuse_others(context: typer.Context, why: str, *read: str) -> None:
    """The same of every parameter of the command but those that are `read`."""
    refuse(context, why, *(str(one.name) for one in context.command.params if one.name not in read))


def _was_typed(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _flag(parameter: Any) -> str:
    """What a parameter is called on a command line: --where, TABLE."""
    flags = [flag for flag in parameter.opts if flag.startswith("--")]
    return flags[0] if flags else str(parameter.name).upper()


def pairs(values: list[str] | None, option: str) -> dict[str, str]:
    """NAME=VALUE options as a dictionary. Raises ValueError for a name that is given twice."""
    split = [v.partition("=") for v in values or []]
    for name, sign, value in split:
        if not (name and sign and value):
            raise ValueError(f"{option} {name}{sign}{value}: write it as {option} NAME=VALUE")
    names = [name for name, _, _ in split]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"{option}: {twice} is given twice ({', '.join(values or [])})")
    return {name: value for name, _, value in split}


def numbers(values: list[str] | None, option: str) -> dict[str, float]:
    """NAME=VALUE options as numbers."""
    return {name: number(value, f"{option} {name}=") for name, value in pairs(values, option).items()}


def columns_or_table(values: list[str] | None) -> tuple[dict[str, float], Path | None]:
    """The values of --at: columns by name, or a table; a file whose name holds "=" is a table.

    Raises ValueError for both at once, a name given twice, or what is neither.
    """
    tables = [value for value in values or [] if "=" not in value or os.path.exists(value)]
    if "" in tables:
        raise ValueError("--at '': neither a column, NAME=VALUE, nor a table")
    if len(tables) > 1 or (tables and len(values or []) > 1):
        raise ValueError(f"--at {tables[0]}: a table of runs stands alone; columns are written NAME=VALUE")
    columns = numbers([value for value in values or [] if value not in tables], "--at")
    return columns, Path(tables[0]) if tables else None


def number(text: str, option: str) -> float:
    """The value of an option as a finite number, also written 124M or 1.3B. Raises ValueError naming the option."""
    try:
        value: float | None = float(text)
    except ValueError:
        from isoflop.scaling.table.meaning import number as written  # loads pandas, as `_json` says

        value = written(text)
    if value is not None and math.isfinite(value):
        return value
    raise ValueError(f"{option} {text}: not a number")


def seconds(text: str | None, option: str) -> float | None:
    """The value of an option that is a time, such as 2h, 90m, 3d or 45s, in seconds; None for None."""
    if text is None:
        return None
    units = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
    unit = units.get(text[-1:])
    if unit is None or (value := number(text[:-1], option)) <= 0:
        raise ValueError(f"{option} {text}: write a time as 90m, 2h or 3d")
    return value * unit


def positive(value: Any) -> Any:
    """The value, or values, of an option that must be a positive number. Raises BadParameter."""
    for one in value if isinstance(value, list) else [value]:
        if one is not None and one not in POSITIVE:
            raise typer.BadParameter(f"{one:g}: {POSITIVE.says}")
    return value


def not_negative(value: float | None) -> float | None:
    """The value of an option that must be 0 or a positive number. Raises BadParameter."""
    if value is not None and value not in NOT_NEGATIVE:
        raise typer.BadParameter(f"{value:g}: {NOT_NEGATIVE.says}")
    return value


def at_least_one(value: float) -> float:
    """The value of an option that must be 1 or more. Raises BadParameter."""
    if value not in AT_LEAST_ONE:
        raise typer.BadParameter(f"{value:g}: {AT_LEAST_ONE.says}")
    return value


def few_enough(value: int) -> int:
    """The value of an option that counts resamples. Raises BadParameter."""
    if value not in RESAMPLES:
        raise typer.BadParameter(f"{value}: {RESAMPLES.says}")
    return value


def share(value: float | None) -> float | None:
    """The value of an option that must lie between 0 and 1. Raises BadParameter."""
    if value is not None and value not in SHARE:
        raise typer.BadParameter(f"{value:g}: {SHARE.says}")
    return value


def new_file(value: Path | None) -> Path | None:
    """The value of an option that names a file to be written. Raises BadParameter where there can be none."""
    if value is not None:
        _check_place(value)
        if value.is_dir():
            raise typer.BadParameter(f"{value} is a folder; name a file in it")
    return value


def table_file(value: Path | None) -> Path | None:
    """The value of an option that names a table to be written. Raises BadParameter, also for another kind of file."""
    return _ending_in(new_file(value), (".parquet", ".csv"))


def parquet_file(value: Path | None) -> Path | None:
    """The same where only a .parquet can be written."""
    return _ending_in(new_file(value), (".parquet",))


def _ending_in(value: Path | None, endings: "Sequence[str]") -> Path | None:
    if value is not None and value.suffix not in endings:
        raise typer.BadParameter(f"{value}: its name must end in {' or '.join(endings)}")
    return value


def new_folder(value: Path | None) -> Path | None:
    """The value of an option that names a folder to write into. Raises BadParameter where there can be none."""
    if value is not None:
        _check_place(value)
        if value.exists() and not value.is_dir():
            raise typer.BadParameter(f"{value} is a file; name a folder")
    return value


def _check_place(path: Path) -> None:
    """Raise BadParameter for a path that nothing can be written to: what it stands in is a file, or not ours."""
    try:
        if "\0" in str(path):
            raise typer.BadParameter(f"{str(path)[:SHOWN]!r}: no name of a file holds that character")
        places = (path, *path.absolute().parents)
        there = next(place for place in places if os.path.lexists(place))
    except OSError as error:
        raise typer.BadParameter(f"{str(path)[:SHOWN]}: {error.strerror}") from error
    if there != path and not there.is_dir():
        raise typer.BadParameter(f"{path}: {there} is no folder")
    if not os.access(there, os.W_OK):
        raise typer.BadParameter(f"{path}: {there} cannot be written")


def corpora_folder(value: Path) -> Path:
    """The value of --corpora. Raises BadParameter for another folder than the default that is not there.

    A run that kept its evaluation needs no corpus, so that the default may be missing.
    """
    if value != CORPORA and not value.is_dir():
        raise typer.BadParameter(f"{value}: no such folder; name the where.corpora of the study")
    return value


def known_law(value: str | None) -> str | None:
    """The value of an option that must name a law. Raises BadParameter."""
    from isoflop.scaling.laws import get_law

    try:
        if value is not None:
            get_law(value)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    return value


def known_laws(value: str) -> str:
    """The value of an option that must name laws, or be empty. Raises BadParameter."""
    names = [name.strip() for name in value.split(",")] if value else []
    if "" in names:
        raise typer.BadParameter(f"{value!r} names an empty law; write it as chinchilla,power-n")
    for name in names:
        known_law(name)
    return value


Laws = Annotated[
    str, typer.Option("--laws", help="by name, separated by commas; left out: those that apply", callback=known_laws)
]
Level = Annotated[float, typer.Option(help="of every interval", callback=share)]
Law = Annotated[str, typer.Option("--law", help="a law by name, or your own as module:Class", callback=known_law)]
Seed = Annotated[int, typer.Option("--seed", help="of starts and resamples", min=0, max=MOST)]
Resamples = Annotated[
    int, typer.Option("--bootstrap", help="bootstrap resamples of whole runs; 0 for none", callback=few_enough)
]
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
    laws: str | None = None,
    inputs: "Sequence[Column]" = (),
    outcome: str = "loss",
    keep_unfinished: bool = False,
    keep_held_out: bool = False,
) -> "pd.DataFrame":
    """The table of a command, read with its --map, --where, --study, --sheet and --best-of; guesses go to stderr.

    `labels` are columns of names besides the usual ones, `laws` those that the command names, whose columns --map may
    name too, as may it `inputs`; `outcome` is the column that the table is about. Runs that did
    not finish are left out, unless `keep_unfinished`, and those at the budgets of study.hold_out, unless
    `keep_held_out`.
    """
    from isoflop.scaling.imports.read_table import read_table
    from isoflop.scaling.laws import columns_read, law_names
    from isoflop.scaling.table.bundle.hub import address, on_hub

    LOADED.append(address(table) if on_hub(table) else str(table))
    gc.freeze()  # what was imported stays, and need not be searched for garbage again
    read = read_table(
        table, mapping=pairs(mapping, "--map"), where=where, study=study, sheet=sheet, labels=labels,
        inputs=(*(columns_read(law_names(laws)) if laws else ()), *inputs), outcome=outcome,
        keep_unfinished=keep_unfinished, keep_held_out=keep_held_out,
    )  # fmt: skip
    if guessed := read.attrs["guessed"]:
        typer.echo(f"{table}: {'; '.join(guessed)}", err=True)
    if not best:
        return read
    from isoflop.scaling.selection.best_of import best_of

    return best_of(read, [name.strip() for name in best.split(",")])


def objective_of(name: str, delta: str) -> "FitObjective":
    """The objective of a command from its --objective and --delta."""
    from isoflop.scaling.findings.verdict import objective_named

    if delta != "auto" and name.startswith("least-squares"):
        raise ValueError(f"--delta {delta} is of Huber's objectives: --objective {name} has no threshold")
    threshold: float | Literal["auto"] = "auto" if delta == "auto" else number(delta, "--delta")
    if threshold != "auto" and threshold <= 0:
        raise ValueError(f"--delta {delta}: must be positive, or auto")
    return objective_named(name, threshold)
