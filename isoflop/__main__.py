"""The command line, `isoflop`: the commands of `isoflop.commands` put together, and how they end.

Nothing heavy is imported before a command runs.
"""

import atexit
import gc
import io
import os
import sys
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command, get_command_name
from typer.models import CommandInfo

from isoflop.commands import data, decide, laws, models, pictures, runs
from isoflop.commands.options import DECIDE, FIT, LOADED, MODELS, RUN, SHOW, OutputError
from isoflop.commands.values import spare_conversions
from isoflop.printable import printable

# Base requirements that only the runner needs, by module: a fit works without them.
RUNNER = {
    "torch": "torch", "hydra": "hydra-core", "omegaconf": "hydra-core", "yaml": "hydra-core", "joblib": "joblib",
    "safetensors": "safetensors",
}  # fmt: skip


LONGEST = 1000  # characters of a message
ClickError: Any = typer.BadParameter.__mro__[2]  # ClickException of click, or of typer's own copy of it


class Grouped(TyperGroup):
    """The commands in groups under `isoflop --help`, each with the first sentence of its docstring."""

    def format_commands(self, ctx, formatter) -> None:  # type: ignore[no-untyped-def]  # of click, or of typer's own copy of it
        """Write a section for each group."""
        groups: dict[str, list[tuple[str, str]]] = {name: [] for name in (RUN, FIT, DECIDE, SHOW, MODELS)}
        for name, command in self.commands.items():
            assert isinstance(command, TyperCommand)
            groups[str(command.rich_help_panel)].append((f"{name:<10}", command.get_short_help_str()))
        for title, rows in groups.items():
            with formatter.section(title):
                formatter.write_dl(rows)

    def parse_args(self, ctx, args):  # type: ignore[no-untyped-def]
        """Read the options before the command; values that are plain already are not converted."""
        for command in (self, *self.commands.values()):
            spare_conversions(command)
        return super().parse_args(ctx, args)


PARTS = (runs.app, laws.app, decide.app, pictures.app, data.app, models.app)


def print_version(wanted: bool) -> None:
    """Print the version, in a checkout with its commit, and end."""
    if wanted:
        from isoflop.scaling.table.runs import code_version

        typer.echo(f"isoflop {code_version()}")
        raise typer.Exit


def options(
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options before the command."""


def group_of_commands() -> typer.Typer:
    """A command line without a command."""
    group = typer.Typer(
        cls=Grouped,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        help="Run scaling-law experiments, fit and compare power laws, draw the figures.",
    )
    group.callback()(options)
    return group


app = group_of_commands()
for part in PARTS:
    app.add_typer(part)


@cache
def command_line(called: str) -> Callable[..., Any]:
    """What `app` is to click, made once a process: of the command that is called alone, else of all of them."""
    alone = group_of_commands()
    alone.registered_commands = [one for part in PARTS for one in part.registered_commands if name_of(one) == called]
    return get_command(alone if alone.registered_commands else app)


def name_of(command: CommandInfo) -> str:
    """What a command is called by."""
    return command.name or get_command_name(command.callback.__name__ if command.callback else "")


def main() -> None:
    """Run the command line. Exit 0 ok, 1 no answer, 2 bad usage; ISOFLOP_DEBUG=1 shows tracebacks."""
    for stream in (sys.stdout, sys.stderr):  # a console of another encoding gets escapes, and no traceback
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    gc.set_threshold(400_000)  # imports make hundreds of thousands of objects that stay: few passes over them
    atexit.register(gc.freeze)  # and none at the end, when all memory goes at once
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # matrices are small: threads cost more than they give
    LOADED.clear()
    try:
        code = command_line(sys.argv[1] if len(sys.argv) > 1 else "")(standalone_mode=False)
    except ClickError as error:
        if len(sys.argv) == 1:
            error.show()  # the help
        else:
            typer.echo(one_line(f"isoflop: {error.format_message()}"), err=True)
        code = error.exit_code
    except typer.Abort:
        code = 1
    except (ValueError, OSError, ModuleNotFoundError) as error:
        message = missing_text(error) if isinstance(error, ModuleNotFoundError) else str(error)
        if os.environ.get("ISOFLOP_DEBUG") or not message:
            raise
        code = getattr(error, "exit_code", 2)
        of_table = not isinstance(error, OutputError)
        if of_table and len(LOADED) == 1 and LOADED[0] not in message and (code == 1 or "--" not in message):
            message = f"{LOADED[0]}: {message}"
        typer.echo(one_line(f"isoflop: {message}"), err=True)
    sys.exit(code)


def one_line(message: str) -> str:
    """A message without what would end its line or move the cursor, and without the middle of a very long one."""
    text = printable(message).replace("\n", " ").replace("\t", " ")
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"


def missing_text(error: ModuleNotFoundError) -> str:
    """Which packages of the runner the command lacks; "" where the module is not one of these."""
    if (error.name or "").partition(".")[0] not in RUNNER:
        return ""
    missing = list(dict.fromkeys(package for module, package in RUNNER.items() if not _installed(module)))
    return f"`isoflop {sys.argv[1]}` needs {', '.join(missing)}: pip install isoflop"


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


if __name__ == "__main__":
    main()
