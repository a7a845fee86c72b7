"""Generated command lines: how those of some numbers end, warnings being errors."""

import json
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.support.doors.typed import typed_here


def wrong_with(words: list[str], names: Sequence[str]) -> str:
    """What is wrong with how a command line on a table ends, warnings being errors; empty for nothing.

    A refusal must name one of `names`, such as the table and the sign of an option.
    """
    answer = typed_here(words)
    if answer.traceback:
        return answer.traceback
    if answer.code:
        return answer.fault(names)
    if "--json" in words:
        constants: list[str] = []
        json.loads(answer.out, parse_constant=constants.append)
        return f"no JSON: {', '.join(constants)}" if constants else ""
    return ""


def try_numbers(command_line: Callable[[int, Path], list[str]]) -> int:
    """Type the command lines that the arguments number, a count and the first; prints each that fails."""
    count, first = (*map(int, sys.argv[1:3]), *(400, 0)[len(sys.argv) - 1 :])
    failed = 0
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("error")
        for number in range(first, first + count):
            words = command_line(number, Path(name))
            if wrong := wrong_with(words, (Path(words[1]).name, "--")):
                failed += 1
                print(f"{number}: isoflop {' '.join(words)}\n{wrong}\n", flush=True)
    print(f"{count} command lines, {failed} failed")
    return int(failed > 0)
