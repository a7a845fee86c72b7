"""What happens at which step: the learning rate, as (multiplier of the peak, phase), and the measurements. No torch.

wsd: warm-up, a constant trunk that does not know where it ends, a cooldown over the last part of a cell's own steps.
cosine, linear: warm-up, then half a cosine or a straight line down to the horizon. constant: warm-up, then no decay.

A run is measured on a few held-out windows along its curve, and on all of them at its end.
"""

import math

from isoflop.experiments.config import ScheduleSpec

SCHEDULES = ("wsd", "cosine", "linear", "constant")
_DECAYS = {
    "cosine": lambda share: 0.5 * (1 + math.cos(math.pi * share)),
    "linear": lambda share: 1 - share,
}
COOLDOWNS = {
    "linear": lambda share: 1 - share,
    "1-sqrt": lambda share: 1 - math.sqrt(share),  # Haegele et al. 2405.18392, section 4
}

FIRST_ROW = 64  # steps
ROWS_PER_DOUBLING = 2
CURVE_SHARE = 32  # rows on the way are measured on every 32nd window of the final evaluation,
CURVE_TOKENS = 4096  # or on more of a small one: so many targets if it has them


def learning_rate(schedule: ScheduleSpec, step: int, steps: int) -> tuple[float, str]:
    """Multiplier for the update that follows `step` finished ones, of `steps` in all, and the phase's name."""
    if step < schedule.warmup_steps:
        return (step + 1) / schedule.warmup_steps, "warmup"
    if schedule.name == "constant":
        return 1.0, "constant"
    if schedule.name in _DECAYS:
        share = (step - schedule.warmup_steps) / max(1, steps - schedule.warmup_steps)
        return _down_to(schedule.final_fraction, _DECAYS[schedule.name](share)), "decay"
    start = cooldown_start(schedule, steps)
    if step < start:
        return 1.0, "constant"
    share = (step - start) / (steps - start)
    return _down_to(schedule.final_fraction, COOLDOWNS[schedule.cooldown_shape](share)), "cooldown"


def cooldown_start(schedule: ScheduleSpec, steps: int) -> int:
    """The first step whose learning rate depends on the horizon: where a cell leaves its trunk."""
    if schedule.name != "wsd":
        return 0
    return steps - max(1, round(schedule.cooldown_fraction * steps))


def check(schedule: ScheduleSpec) -> None:
    """Raise ValueError naming the field, its value and what it may be."""
    if schedule.name not in SCHEDULES:
        raise ValueError(f"schedule.name must be one of {', '.join(SCHEDULES)}; not {schedule.name!r}")
    if schedule.cooldown_shape not in COOLDOWNS:
        raise ValueError(
            f"schedule.cooldown_shape must be one of {', '.join(COOLDOWNS)}; not {schedule.cooldown_shape!r}"
        )
    if not 0 < schedule.cooldown_fraction <= 1:
        raise ValueError(f"schedule.cooldown_fraction must lie in (0, 1]; not {schedule.cooldown_fraction}")
    if not 0 <= schedule.final_fraction <= 1:
        raise ValueError(f"schedule.final_fraction must lie in [0, 1]; not {schedule.final_fraction}")
    if schedule.warmup_steps < 0:
        raise ValueError(f"schedule.warmup_steps must not be negative; not {schedule.warmup_steps}")


def _down_to(floor: float, multiplier: float) -> float:
    return floor + (1 - floor) * multiplier


def row_steps(until: int) -> list[int]:
    """The steps of the curve's rows up to `until`: a geometric grid that depends on nothing."""
    steps, k = [], 0
    while (step := round(FIRST_ROW * 2 ** (k / ROWS_PER_DOUBLING))) <= until:
        steps.append(step)
        k += 1
    return steps


def curve_stride(eval_tokens: int) -> int:
    """One window in how many the rows on the way are measured on, of those of a final evaluation on `eval_tokens`."""
    return max(1, min(CURVE_SHARE, eval_tokens // CURVE_TOKENS))
