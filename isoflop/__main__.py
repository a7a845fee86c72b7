"""The front door: one command line that wires the packages together. Imports are lazy, logic lives in the packages."""

import os
import sys

import typer

from isoflop.commands import arms, data, decide, imports, laws, models, pictures, runs

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Run scaling-law experiments, fit and compare power laws, draw the figures.",
)
for part in (runs, laws, decide, pictures, arms, data, imports, models):
    app.add_typer(part.app)


def main() -> None:
    """Exit 0 ok, 1 the question could not be answered, 2 bad usage. ISOFLOP_DEBUG=1 shows tracebacks."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # matrices are small: threads cost more than they give
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
