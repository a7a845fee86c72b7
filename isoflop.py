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
