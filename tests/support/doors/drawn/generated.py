"""Generated command lines: how those of some numbers end, warnings being errors."""

import json
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from tests.support.doors.typed import Answer, typed_here


def wrong_with(words: list[str], names: Sequence[str]) -> str:
    """What is wrong with how a command line on a table ends, warnings being errors; empty for nothing.

    A refusal must name one of `names`, such as the table and the sign of an option.
    """
    answer = typed_here(words)
    if answer.traceback:
        return answer.traceback
    if answer.code:
        return _without_notes(answer, words[1]).fault(names)
    if "--json" in words and (constants := _no_numbers(answer.out)):
        return f"no JSON: {constants}"
    return _registered(words) if words[0] == "predict" else ""


def _without_notes(answer: Answer, table: str) -> Answer:
    """The same without the lines on stderr that say what was read from the table, before the refusal."""
    *before, refusal = answer.err.splitlines() or [""]
    kept = [line for line in before if not line.startswith(f"{table}: ")]
    return replace(answer, err="\n".join([*kept, refusal]))


def _no_numbers(text: str) -> str:
    """The NaN and Infinity in a text of JSON."""
    found: list[str] = []
    json.loads(text, parse_constant=found.append)
    return ", ".join(found)


def _registered(words: list[str]) -> str:
    """What is wrong with a ledger once a forecast that was made is registered in it."""
    with tempfile.TemporaryDirectory() as name:
        ledger = Path(name) / "forecasts.jsonl"
        for again in ([*words, "--register", str(ledger)], ["predict", "--ledger", str(ledger)]):
            if (answer := typed_here(again)).code:
                return answer.traceback or f"{' '.join(again)}: {answer.err}"
        constants = _no_numbers(ledger.read_text(encoding="utf-8"))
        return f"no JSON in the ledger: {constants}" if constants else ""


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
