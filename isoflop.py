"""The front door: one command line that wires the packages together. Imports are lazy, logic lives in the packages."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False,
                  help="Run scaling-law experiments, fit and compare power laws, draw the figures.")

Table = Annotated[Path, typer.Argument(help="a runs folder, a parquet or a CSV")]
Json = Annotated[bool, typer.Option("--json", help="print JSON, numbers in full precision")]
HYDRA = {"allow_extra_args": True, "ignore_unknown_options": True}


def emit(value: dict, text: str, as_json: bool) -> None:
    typer.echo(json.dumps(value, indent=2) if as_json else text)


@app.command(context_settings=HYDRA)
def run(context: typer.Context) -> None:
    """Train what a study lacks: isoflop run experiment=quick [key=value ...]. Safe to interrupt and to repeat."""
    from experiments.sweep import launch

    try:
        launch(context.args)
    except KeyboardInterrupt:
        typer.echo("isoflop: interrupted; the same command goes on from here", err=True)
        raise SystemExit(130) from None


@app.command(context_settings=HYDRA)
def plan(
    context: typer.Context,
    as_json: Json = False,
    calibrate: Annotated[bool, typer.Option("--calibrate", help="measure this machine first, about 10 s")] = False,
) -> None:
    """Cells, sizes, tokens, FLOPs and predicted minutes of a study: isoflop plan experiment=quick. Starts nothing."""
    from experiments import cost
    from experiments.compose import compose_all
    from experiments.plan import plan, plan_text

    if calibrate:
        cost.keep(cost.measure())
    value = plan(compose_all(context.args), cost.known_speed())
    emit(value, plan_text(value), as_json)


@app.command()
def status(
    runs: Annotated[Path, typer.Argument(help="a runs folder")] = Path("runs"), as_json: Json = False
) -> None:
    """States and progress of the studies in a runs folder."""
    from experiments.plan import status, status_text
    from scaling.store import open_store

    value = status(open_store(runs))
    emit(value, status_text(value), as_json)


def main() -> None:
    """Exit 0 ok, 1 the question could not be answered, 2 bad usage. ISOFLOP_DEBUG=1 shows tracebacks."""
    try:
        code = app(standalone_mode=True)
    except (ValueError, OSError) as error:
        if os.environ.get("ISOFLOP_DEBUG"):
            raise
        typer.echo(f"isoflop: {error}", err=True)
        code = getattr(error, "exit_code", 2)
    sys.exit(code)


if __name__ == "__main__":
    main()
