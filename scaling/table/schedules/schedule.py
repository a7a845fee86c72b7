"""Learning-rate schedules by name, as the runner trains them and as laws of whole curves read them.

wsd: warm-up, a constant trunk that does not know where it ends, a cooldown over the last part of a run's own steps.
cosine, linear: warm-up, then half a cosine or a straight line down to the horizon. constant: warm-up, then no decay.
The runner trains these; of other people's runs also wsdld, a wsd whose cooldown is linear, and wsdcon, which falls at
once to its final rate and stays there (Luo et al. 2503.12811).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

DECAYS: dict[str, Callable[[float], float]] = {  # from the warm-up to the horizon; another is added here
    "cosine": lambda share: 0.5 * (1 + math.cos(math.pi * share)),
    "linear": lambda share: 1 - share,
}
SCHEDULES = ("wsd", *DECAYS, "constant")  # of the runner
NAMED = (*SCHEDULES, "wsdld", "wsdcon")
COOLDOWNS: dict[str, Callable[[float], float]] = {
    "linear": lambda share: 1 - share,
    "1-sqrt": lambda share: 1 - math.sqrt(share),  # Haegele et al. 2405.18392, section 4
}
EXPONENTIAL = "exponential"  # a further shape of a cooldown: a straight line of ln rate, to a final rate above 0
_COOLING = {"wsd", "wsdld", "wsdcon"}


class Shape(Protocol):
    """The learning rate over a run as a share of its peak: what `learning_rate` reads of a schedule."""

    @property
    def name(self) -> str:
        """One of NAMED."""

    @property
    def warmup_steps(self) -> int:
        """Updates of the warm-up."""

    @property
    def cooldown_fraction(self) -> float:
        """Share of a run's own steps that it cools down over."""

    @property
    def cooldown_shape(self) -> str:
        """How it comes down."""

    @property
    def final_fraction(self) -> float:
        """The rate at the end, as a share of the peak."""


@dataclass(frozen=True)
class Schedule:
    """A schedule by its name in NAMED; `cooldown_fraction` is of the run's own steps, `final_fraction` of the peak.

    Raises ValueError for another name or shape, and for a fraction outside 0 to 1.
    """

    name: str = "wsd"
    warmup_steps: int = 0
    cooldown_fraction: float = 0.2
    cooldown_shape: str = "1-sqrt"
    final_fraction: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in NAMED:
            raise ValueError(f"schedule {self.name!r} is not known; choose one of {', '.join(NAMED)}")
        if self.cooldown_shape not in (*COOLDOWNS, EXPONENTIAL):
            raise ValueError(f"cooldown {self.cooldown_shape!r}: one of {', '.join((*COOLDOWNS, EXPONENTIAL))}")
        for key in ("cooldown_fraction", "final_fraction"):
            if not 0 <= getattr(self, key) <= 1:
                raise ValueError(f"{key} of a schedule must lie between 0 and 1, not {getattr(self, key):g}")
        if self.cooldown_shape == EXPONENTIAL and self.name == "wsd" and self.final_fraction == 0:
            raise ValueError("an exponential cooldown needs a final_fraction above 0")

    def rates(self, steps: int, peak: float = 1.0) -> np.ndarray:
        """The rate of each update of a run of so many, (steps,)."""
        made = np.ones(steps)  # between the warm-up and a cooldown
        for step in (
            *range(min(self.warmup_steps, steps)),
            *range(max(cooldown_start(self, steps), self.warmup_steps), steps),
        ):
            made[step] = learning_rate(self, step, steps)[0]
        return peak * made

    def __str__(self) -> str:
        if self.name not in _COOLING:
            return self.name
        start = "falls" if self.name == "wsdcon" else "cools down"
        return f"{self.name}, {start} over the last {self.cooldown_fraction:.0%}"


def learning_rate(schedule: Shape, step: int, steps: int) -> tuple[float, str]:
    """Multiplier for the update that follows `step` finished ones, of `steps` in all, and the phase's name.

    Raises ValueError for a schedule that is none of NAMED.
    """
    if step < schedule.warmup_steps:
        return (step + 1) / schedule.warmup_steps, "warmup"
    if schedule.name == "constant":
        return 1.0, "constant"
    if schedule.name in DECAYS:
        share = (step - schedule.warmup_steps) / max(1, steps - schedule.warmup_steps)
        return _down_to(schedule.final_fraction, DECAYS[schedule.name](share)), "decay"
    if schedule.name not in _COOLING:
        raise ValueError(f"schedule {schedule.name!r} has no rates: its decay belongs in DECAYS")
    start = cooldown_start(schedule, steps)
    if step < start:
        return 1.0, "constant"
    share = (step - start) / (steps - start)
    if schedule.name == "wsdcon":
        return schedule.final_fraction, "cooldown"
    if schedule.cooldown_shape == EXPONENTIAL and schedule.name == "wsd":
        return schedule.final_fraction**share, "cooldown"
    shape = "linear" if schedule.name == "wsdld" else schedule.cooldown_shape
    return _down_to(schedule.final_fraction, COOLDOWNS[shape](share)), "cooldown"


def cooldown_start(schedule: Shape, steps: int) -> int:
    """The first step whose learning rate depends on the horizon: where a cell leaves its trunk."""
    if schedule.name not in _COOLING:
        return 0
    return steps - max(1, round(schedule.cooldown_fraction * steps))


def _down_to(floor: float, multiplier: float) -> float:
    return floor + (1 - floor) * multiplier
