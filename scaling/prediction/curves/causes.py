"""Why a run left its band: what each cause does to a curve, and how likely each has made the rows: `likely_cause`.

A cause gives a shape to the excess of ln loss over the forecast of the whole curve. Of another rate and of a missing
cooldown the law of curves says it; bad data make a jump that decays, a divergence grows, mistuning is there from the
start.
How large an excess is, from which row on and how long it lasts is not known: each cause is judged by its likelihood
averaged over these (a Bayes factor, in closed form in the size), all causes as likely beforehand.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from isoflop.scaling.prediction.curves.curve_model import CurveModel
from isoflop.scaling.table.schedules.curve_run import CurveRun

Array = np.ndarray
COOLING = 0.97  # of the peak: a rate below has begun to fall
FACTORS = (0.25, 0.5, 2.0, 4.0, 8.0)  # by which a rate may be off
GAPS = (0.3, 1.0, 3.0)  # rows that bad data last, and that a jump takes to decay
BEFORE = 8  # rows before the one that is noticed, from which on something may be wrong
RISES = 0.01  # of ln loss above its lowest: a run that rises so far diverges
SPREAD = 0.3  # standard deviation of an excess, of what the law gives it or of ln loss
SHARE = 0.2  # of the first cause's probability: a second cause that is said too

HELD = "it does not come down as its cooldown should bring it: was the rate lowered as declared?"
PASSES = "a jump that passes: bad data for a while"
GROWS = "the loss rises: diverging, or bad data"
ABOVE = "above its band: mistuned, or bad data"
BELOW = "below its band: other data, another evaluation, or a leak"


class Shape(NamedTuple):
    """The excess of ln loss (n,) under a cause, and the size that is expected of it (0: either sign)."""

    cause: str
    excess: Array
    size: float = 0.0


def likely_cause(model: CurveModel, run: CurveRun, at: int) -> str:
    """The likeliest cause that a run left its band at its row `at`, and the next one where that is nearly as likely.

    `model` lacks the trunk of the run.
    """
    mean, covariance = model.joint(run)
    factor, log = np.linalg.cholesky(covariance), np.log(run.loss)
    off = np.linalg.solve(factor, log - mean)
    rises = log[at:].max() - log[: at + 1].min() > RISES
    scores: dict[str, list[float]] = {}
    for shape in _shapes(model, run, at):
        made = np.linalg.solve(factor, shape.excess)
        spread, power = 1 + SPREAD**2 * float(made @ made), float(made @ made)
        match = float(made @ off)
        gain = SPREAD**2 * match**2 + 2 * shape.size * match - shape.size**2 * power
        cause = ABOVE if shape.cause == GROWS and not rises else shape.cause
        cause = BELOW if not shape.size and match < 0 else cause
        scores.setdefault(cause, []).append(0.5 * (gain / spread - np.log(spread)))
    top = max(value for values in scores.values() for value in values)
    weight = {cause: float(np.mean(np.exp(np.array(values) - top))) for cause, values in scores.items()}
    first, second, *_ = sorted(weight, key=lambda cause: -weight[cause])
    return f"{first}; or: {second}" if weight[second] > SHARE * weight[first] else first


def _shapes(model: CurveModel, run: CurveRun, at: int) -> Iterator[Shape]:
    """The shapes that causes give to the excess of a run which begin up to its row `at`."""
    steps = run.steps.astype(float)
    sound = model.scatter(run)[0]
    falls = np.flatnonzero(run.rates < COOLING * np.maximum.accumulate(run.rates))
    if len(falls) and falls[0] <= run.steps[-1]:
        held = run.rates.copy()
        held[falls[0] :] = held[falls[0] - 1]
        yield Shape(HELD, model.scatter(replace(run, rates=held))[0] - sound, 1.0)
    for row in range(max(at - BEFORE, 0), at + 1):
        begin = run.steps[row - 1] + 1 if row else run.steps[0]
        gap = max((steps[min(row + 1, len(steps) - 1)] - steps[max(row - 1, 0)]) / 2, 1.0)
        for times in FACTORS:
            rates = run.rates.copy()
            rates[begin:] *= times
            text = f"as if its rate were about {times:g} times what is declared: was it changed?"
            yield Shape(text, model.scatter(replace(run, rates=rates))[0] - sound, 1.0)
        since = steps - begin + 1
        for lasts in GAPS:
            for decays in GAPS:
                rise = np.clip(since / (lasts * gap), 0, 1)
                yield Shape(PASSES, rise * np.exp(-np.maximum(since - lasts * gap, 0) / (decays * gap)))
        yield Shape(GROWS, np.maximum(since, 0) / since[-1])
        yield Shape(GROWS, (since > 0).astype(float))
    yield Shape(ABOVE, np.log(steps + 1) - np.log(steps[0] + 1))
    yield Shape(ABOVE, np.ones(len(steps)))
