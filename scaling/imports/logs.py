"""Training logs as text: what the readers of single programs (nanogpt, nanochat) share."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from isoflop.scaling.imports.source import ForeignRun, LeftOut, SourceError


@dataclass(frozen=True)
class LogReader:
    """Reads the logs that one program prints.

    `known_lines` match lines that only this program prints, `first_line` one that each of its runs prints once, at the
    start. `parse` makes a run of its lines, None where they hold no step of training.
    """

    kinds: tuple[str, ...]
    known_lines: tuple[re.Pattern[str], ...]
    first_line: re.Pattern[str]
    parse: Callable[[list[str], Path], ForeignRun | None]
    suffixes: tuple[str, ...] = (".log", ".txt", ".out")

    def recognises(self, path: Path) -> bool:
        """Whether a file has a known line. Raises SourceError for a file that is not text."""
        return path.is_file() and any(self._knows(line) for line in _lines(path))

    def read(self, path: Path, mapping: Mapping[str, str], notes: list[str]) -> tuple[list[ForeignRun], list[LeftOut]]:
        """The runs of one log, numbered where there are several. Raises SourceError where no line is known."""
        lines = _lines(path)
        if not any(self._knows(line) for line in lines):
            raise SourceError(f"{path}: no line in it is {self.kinds[0]}'s; name its kind with --from")
        found = [self.parse(part, path) for part in self._parts(lines)]
        runs = [run for run in found if run is not None]
        if len(runs) > 1:
            runs = [replace(run, name=f"{run.name}#{k}") for k, run in enumerate(runs, 1)]
        return runs, []

    def _knows(self, line: str) -> bool:
        return any(pattern.match(line) for pattern in self.known_lines)

    def _parts(self, lines: list[str]) -> Iterator[list[str]]:
        """The lines of each run: a file can hold several, one after the other."""
        part: list[str] = []
        started = False
        for line in lines:
            if self.first_line.match(line):
                if started:
                    yield part
                    part = []
                started = True
            part.append(line)
        yield part


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except UnicodeDecodeError as error:
        raise SourceError(f"{path}: not text ({error.reason} at byte {error.start})") from error
