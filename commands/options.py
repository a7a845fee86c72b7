"""Options and small words that many commands share."""

import json
from pathlib import Path
from typing import Annotated

import typer

Table = Annotated[Path, typer.Argument(help="a runs folder, a parquet or a CSV")]
Json = Annotated[bool, typer.Option("--json", help="print JSON, numbers in full precision")]
HYDRA = {"allow_extra_args": True, "ignore_unknown_options": True}


def emit(value: dict, text: str, as_json: bool) -> None:
    typer.echo(json.dumps(value, indent=2) if as_json else text)


def pairs(values: list[str] | None, option: str) -> dict[str, str]:
    """NAME=VALUE options as a dictionary."""
    split = [v.partition("=") for v in values or []]
    for name, sign, value in split:
        if not (name and sign and value):
            raise ValueError(f"{option} {name}{sign}{value}: write it as {option} NAME=VALUE")
    return {name: value for name, _, value in split}


def number(text: str, option: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{option} {text}: not a number") from None


Law = Annotated[str, typer.Option("--law", help="a law by name, or your own as module:Class")]
Params = Annotated[str, typer.Option("--params", help="what counts as N: matrices, active, total, no-embedding")]
Compute = Annotated[str, typer.Option("--compute", help="what counts as compute: exact, 6nd, full-attention")]
Where = Annotated[str | None, typer.Option("--where", help="keep the rows where this holds, e.g. 'loss < 5'")]
Map = Annotated[list[str] | None, typer.Option("--map", help="use your column: loss=val_loss (repeatable)")]
Study = Annotated[str | None, typer.Option("--study", help="of a runs folder: only the runs that this study asked for")]
Objective = Annotated[str, typer.Option("--objective", help="huber, huber-raw, least-squares, least-squares-raw")]
Delta = Annotated[str, typer.Option("--delta", help="Huber's threshold: auto, or a number such as 1e-3")]


def load(table: Path, mapping: list[str] | None, where: str | None, study: str | None = None):
    from isoflop.scaling.table.read import read_table

    return read_table(table, mapping=pairs(mapping, "--map"), where=where, study=study)


def objective_of(name: str, delta: str):
    from isoflop.scaling.findings.verdict import objective_named

    return objective_named(name, delta if delta == "auto" else number(delta, "--delta"))
