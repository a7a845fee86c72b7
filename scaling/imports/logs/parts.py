"""Which lines of a log are one run: several models one after the other, and starts that resume a run.

A start resumes the run before it where its first step lies after that run's first and the number of parameters is the
same. A step from the beginning, or another number of parameters, is another run. Lines of several runs that are mixed
are refused.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from isoflop.scaling.imports.source import SourceError

AGREE = 0.02  # losses of one step before and after a restart differ by less than this share
RESTARTS = 0.1  # of the evaluations, at most, where the log shows no start of the program


@dataclass(frozen=True)
class Event:
    """A line of a log. `step` and `loss` are what it reports, `first` marks a line that every start prints, `params`
    reports the number of parameters as it is written there."""

    text: str
    number: int
    step: int | None = None
    loss: float | None = None
    first: bool = False
    params: str = ""


@dataclass
class Part:
    """The lines of one run, or of one start of the program.

    `model` is the number of parameters as the log writes it, reported here or before; `settings_of` the position of the
    run whose settings it has too, where no start of the program stands before its first step.
    """

    events: list[Event] = field(default_factory=list)
    model: str = ""
    settings_of: int | None = None

    @property
    def heading(self) -> list[Event]:
        """The lines before the first step."""
        steps = (k for k, event in enumerate(self.events) if event.step is not None)
        return self.events[: next(steps, len(self.events))]

    @property
    def steps(self) -> list[int]:
        """Every step reported, in order."""
        return [event.step for event in self.events if event.step is not None]


def parts(events: Sequence[Event], source: str) -> list[Part]:
    """The runs in the lines of a log, in order. Raises SourceError naming the line where runs are mixed."""
    runs: list[Part] = []
    for start in _starts(events, source):
        _check_mixed(start, source)
        reported = next((event.params for event in reversed(start.heading) if event.params), "")
        before = runs[-1] if runs else None
        if before and start.steps and reported in ("", before.model) and start.steps[0] > before.steps[0]:
            before.events += start.events
            continue
        start.model = reported or (before.model if before else "")
        if before and not any(event.first for event in start.heading):
            start.settings_of = len(runs) - 1
        runs.append(start)
    return runs


def settings(runs: Sequence[Part], position: int, shared: Sequence[re.Pattern[str]]) -> list[str]:
    """The lines that report the settings of a run: its heading, after that of the run whose settings it has too.

    From a run of another model only the lines that match `shared` are taken.
    """
    part = runs[position]
    own = [event.text for event in part.heading]
    if part.settings_of is None:
        return own
    before = settings(runs, part.settings_of, shared)
    if part.model != runs[part.settings_of].model:
        before = [text for text in before if any(pattern.match(text) for pattern in shared)]
    return before + own


def _starts(events: Sequence[Event], source: str) -> list[Part]:
    """The lines of each start: what stands between the last step of one and the first of the next goes with the next.

    A start is a first line, another number of parameters, or a step back to the beginning.
    """
    found = [Part()]
    last = first = -1  # steps of the start at hand, -1 before there is one
    tail = params = 0  # lines since the last step; the line that reported the number of parameters
    reported = ""

    def begin() -> None:
        nonlocal last, first, reported, params
        at = len(found[-1].events) - tail
        found.append(Part(found[-1].events[at:]))
        del found[-2].events[at:]
        last, first, reported, params = -1, -1, "", 0

    for event in events:
        if event.step is not None:
            if last >= 0 and event.step < last and event.step <= first:
                begin()
            first = event.step if first < 0 else first
            last, tail = event.step, 0
            found[-1].events.append(event)
            continue
        if event.params and reported and event.params != reported:
            if last < 0 and params:
                raise SourceError(
                    f"{source}: line {event.number} reports a second model ({event.params}) before the one of line "
                    f"{params} ({reported}) has a step: the lines of several runs are mixed; give each run a file"
                )
            if last >= 0:
                begin()
        elif event.first and last >= 0:
            begin()
        if event.params:
            reported, params = event.params, event.number
        found[-1].events.append(event)
        tail += 1
    return [part for part in found if part.steps] or found[:1]


def _check_mixed(start: Part, source: str) -> None:
    """Raise SourceError where the evaluations of one start of the program go back as those of several runs do."""
    seen: dict[int, float] = {}
    evaluations = [event for event in start.events if event.loss is not None]
    back = 0
    last = -1
    for event in evaluations:
        step, loss = event.step, event.loss
        assert step is not None
        assert loss is not None
        if step <= last:
            back += 1
        if step in seen and abs(loss - seen[step]) > AGREE * abs(seen[step]):
            raise SourceError(
                f"{source}: line {event.number} gives step {step} the loss {loss:g} after {seen[step]:g}, and no start "
                "of the program stands between: the lines of several runs are mixed; give each run a file"
            )
        seen[step], last = loss, step
    if back > max(1, RESTARTS * len(evaluations)):
        raise SourceError(
            f"{source}: its steps go back {back} times (to line {evaluations[-1].number}), and no start of the program "
            "stands between: the lines of several runs are mixed; give each run a file"
        )
