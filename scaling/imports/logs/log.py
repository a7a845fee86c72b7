"""Training logs as text: what the readers of single programs (nanogpt, nanochat, megatron) share.

A log may hold several runs, one after the other or with a label before their lines, and starts that resume a run:
`parts.parts` finds them. Here are the lines themselves, and the reader.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from isoflop.scaling.imports.logs.parts import Event, Part, parts, settings
from isoflop.scaling.imports.source import ForeignRun, LeftOut, SourceError, read_text

# What other programs write before the text of a line: times, levels, ranks, labels in brackets.
_DATE = r"\d{4}[-/]\d\d[-/]\d\d(?:[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?)?|\d\d:\d\d:\d\d(?:[.,]\d+)?"
_PREFIX = re.compile(
    rf"(?:\s+|{_DATE}|\[[^\]]*\]:?|\([^)]*\)(?=\s)|(?:DEBUG|INFO|WARNING|WARN|ERROR)\b"
    r"|(?:rank|gpu|node|worker|host)[ _:=]*\d+\b|\d+:(?=\s)|[\w.]+ +-(?=\s)|[-:|>](?=\s))*",
    re.IGNORECASE,
)
LONGEST_STEP = 15  # digits
NUMBER = r"(?:[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|[-+]?(?:nan|inf))"
_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_NO_LABEL = re.compile(
    rf"{_DATE}|\b(?:debug|info|warning|warn|error|eval|evaluation|train|training|val|valid|validation|log|root)\b"
    r"|\b(?:rank|gpu|cuda|node|worker|host|pid|default|local_rank|trainer)[ _:=]*\d*\b"
    r"|(?<!\w)[\d.,:]+[a-z%]{0,2}(?!\w)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Line:
    """The text of a line, without what stands before it; `label` is what that says of the run, mostly nothing."""

    text: str
    label: str
    number: int  # from 1


@dataclass(frozen=True)
class LogReader:
    """Reads the logs that one program prints.

    `step_lines` match lines that only this program prints, their first group is the step; those with a group `loss`
    report an evaluation. `first_line` matches one that it prints once at each start, `params_line` the number of
    parameters. `shared_lines` match settings that the models of one log share unless each has its own. `parse` makes a
    run of its lines.
    """

    kinds: tuple[str, ...]
    step_lines: tuple[re.Pattern[str], ...]
    first_line: re.Pattern[str]
    params_line: re.Pattern[str]
    shared_lines: tuple[re.Pattern[str], ...]
    parse: Callable[[list[str], Path], ForeignRun | None]
    suffixes: tuple[str, ...] = (".log", ".txt", ".out")

    def recognises(self, path: Path) -> bool:
        """Whether a file has a line of this program. Raises SourceError for a file that is not text."""
        return path.is_file() and any(self._step(line) for line in self._lines(path))

    def read(
        self, path: Path, name: str, mapping: Mapping[str, str], notes: list[str]
    ) -> tuple[list[ForeignRun], list[LeftOut]]:
        """The runs of one log, numbered where there are several.

        Raises SourceError where no line is known, and naming the line where lines of several runs are mixed.
        """
        lines = self._lines(path)
        if not any(self._step(line) for line in lines):
            raise SourceError(
                f"{path}: no line in it is {self.kinds[0]}'s; name another kind with --from, or save its "
                "steps and losses as a CSV"
            )
        runs: list[ForeignRun] = []
        for label, stream in self._streams(lines).items():
            found = parts([self._event(line, path) for line in stream], str(path))
            try:
                made = [self.parse(self._of_run(found, k), path) for k in range(len(found))]
            except OverflowError as error:
                raise SourceError(f"{path}: a number in it is larger than any count ({error})") from error
            except SourceError:
                raise
            except ValueError as error:
                raise SourceError(f"{path}: a number in it is none ({error})") from error
            kept = [replace(run, name=f"{name}-{label}" if label else name) for run in made if run]
            runs += [replace(run, name=f"{run.name}#{k}") for k, run in enumerate(kept, 1)] if len(kept) > 1 else kept
            if any(part.settings_of is not None for part in found):
                notes.append(f"{path}: a run without settings of its own in the log has those of the run before it")
        if len(runs) > 1:
            labels = [label for label in self._streams(lines) if label]
            how = (
                f"named by what stands before their lines ({', '.join(labels[:4])})"
                if labels
                else "numbered in its order"
            )
            notes.append(f"{path}: {len(runs)} runs in one log, {how}")
        return runs, []

    @cached_property
    def _anywhere(self) -> tuple[re.Pattern[str], ...]:
        """Patterns of lines that are known after any prefix."""
        evaluations = [pattern for pattern in self.step_lines if "loss" in pattern.groupindex]
        patterns = [*evaluations, self.first_line, self.params_line]
        return tuple(re.compile(r"(?<!\w)" + pattern.pattern.removeprefix("^")) for pattern in patterns)

    def _lines(self, path: Path) -> list[Line]:
        return [self._line(text, number) for number, text in enumerate(read_lines(path), 1)]

    def _line(self, text: str, number: int) -> Line:
        text = _COLOUR.sub("", text)
        prefix = _PREFIX.match(text)
        at = prefix.end() if prefix else 0
        if at + 1 < len(text) and not any(p.match(text, at) for p in self._anywhere):
            at = next((m.start() for p in self._anywhere if (m := p.search(text, at))), at)
        label = " ".join(re.findall(r"[\w./-]*\w", _NO_LABEL.sub(" ", text[:at])))
        return Line(text[at:], label, number)

    def _step(self, line: Line) -> re.Match[str] | None:
        return next((match for pattern in self.step_lines if (match := pattern.match(line.text))), None)

    def _event(self, line: Line, path: Path) -> Event:
        match = self._step(line)
        if match and len(match[1]) > LONGEST_STEP:
            raise SourceError(f"{path}: line {line.number} reports a step of {len(match[1])} digits")
        loss = match["loss"] if match and "loss" in match.re.groupindex else None
        params = self.params_line.match(line.text)
        return Event(
            line.text, line.number, int(match[1]) if match else None, float(loss) if loss else None,
            bool(self.first_line.match(line.text)), next((g for g in params.groups() if g), "") if params else "",
        )  # fmt: skip

    def _streams(self, lines: Sequence[Line]) -> dict[str, list[Line]]:
        """The lines by label, with those that have none, where evaluations have several labels; else all of them."""
        losses = [line for line in lines if (match := self._step(line)) and "loss" in match.re.groupindex]
        labels = list(dict.fromkeys(line.label for line in losses))
        if len(labels) < 2 or "" in labels or len(labels) > len(losses) / 2:
            return {"": list(lines)}
        return {label: [line for line in lines if line.label in (label, "")] for label in labels}

    def _of_run(self, found: Sequence[Part], position: int) -> list[str]:
        """The lines of a run, those that report its settings first."""
        events = found[position].events
        heading = len(found[position].heading)
        return settings(found, position, self.shared_lines) + [event.text for event in events[heading:]]


def read_lines(path: Path) -> list[str]:
    """The lines of a text. Raises SourceError for a file that is not text."""
    return read_text(path).splitlines()
