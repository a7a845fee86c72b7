"""The budget calculator in numbers: the law's optimum for a given compute, size or number of tokens.

The page interpolates these rows linearly in logarithms, so it serves every law that has an optimum, and each of its
numbers is one of Python's.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from isoflop.analysis.style import LEVEL
from isoflop.scaling.fitting.fit import Fit
from isoflop.scaling.fitting.uncertainty import Draws
from isoflop.scaling.laws.law import Law

QUANTITIES = ("flops", "n_params", "tokens", "loss")
GIVEN = QUANTITIES[:3]
BELOW, ABOVE = 10.0, 1e4  # how far around the fitted compute the calculator goes
STEPS = 50  # per decade, on round logarithms: every second stop of the slider is a row, the others lie between two
# Steps of Newton's method, which make a reading between two budgets exact.
POLISH = 2  # equivalent: a third moves nothing
# Laws that are asked at once: their numbers stay in a processor's cache.
TOGETHER = 16  # equivalent: the numbers are the same, however many
SLACK = 1e3  # how much further a resampled law is followed, to find the compute at which a given size is best


def calculator_frame(fit: Fit, draws: Draws) -> pd.DataFrame:
    """A row per value: `given` (which quantity is), then flops, n_params, tokens, loss, each with _low and _high.

    In the rows with given = "n_params" that column is the size given, and the others follow from the compute at which
    the law calls it best; likewise for tokens. Raises ValueError for a law without an optimum.
    """
    known = fit.points.frame["flops"]
    budgets = _grid(known.min() / BELOW, known.max() * ABOVE)
    wide = _grid(budgets[0] / SLACK, budgets[-1] * SLACK)  # equivalent: of so wide a grid a step more or less
    ends = fit.optimal(budgets[[0, -1]])
    values = [budgets, _grid(*ends.N), _grid(*ends.D)]

    def answers(laws: Sequence[Law]) -> np.ndarray:
        """Of each law the four quantities in every row, (laws, 4, n)."""
        law = _family(laws)
        budgets, further = (np.broadcast_to(grid, (len(laws), len(grid))) for grid in (values[0], wide))
        found = _inverse(law, fit, values[1:], _optimum(law, fit, further))
        return _optimum(law, fit, np.concatenate([budgets, found], axis=1)).swapaxes(0, 1)

    each = np.concatenate([answers(draws.laws[k : k + TOGETHER]) for k in range(0, len(draws), TOGETHER)])
    (middle,) = answers([fit.law])
    low, high = draws.band(lambda law: middle, LEVEL, values=each)
    frame = pd.DataFrame({"given": np.repeat(GIVEN, [len(v) for v in values])})
    for k, name in enumerate(QUANTITIES):
        frame[name], frame[f"{name}_low"], frame[f"{name}_high"] = middle[k], low[k], high[k]
    return frame


def _family(laws: Sequence[Law]) -> Law:
    """Laws of one form as one whose parameters are arrays (laws, 1)."""
    form = type(laws[0])  # equivalent: they are of one form
    return form(*np.array([law.values() for law in laws]).T[..., None])


def _grid(low: float, high: float) -> np.ndarray:
    first, last = np.floor(np.log10([low, high]) * STEPS)
    return 10 ** (np.arange(first, last + 2) / STEPS)


def _optimum(law: Law, fit: Fit, budgets: np.ndarray) -> np.ndarray:
    best = law.optimal(budgets, fit.cost)
    return np.stack([budgets, best.N, best.D, best.loss])


def _inverse(law: Law, fit: Fit, given: Sequence[np.ndarray], along: np.ndarray) -> np.ndarray:
    """The budgets (laws, n) at which each of the `given` sizes, then of the given numbers of tokens, is the best one.

    Read off the optima `along` a grid of budgets (4, laws, m), where the line between two is not quite the optimum's,
    then by Newton's method in logarithms, inside the grid.
    """
    budgets = np.log(along[0, 0])  # equivalent: every law has the same budgets
    wanted = [np.log(values) for values in given]
    pairs = list(zip(wanted, np.log(along[1:3]), strict=True))  # equivalent: sizes and tokens, two of each
    compute, slope = (
        np.concatenate([[np.interp(w, b, of(b)) for b in rows] for w, rows in pairs], axis=1)
        for of in (lambda b: budgets, lambda b: np.gradient(budgets, b))
    )
    sizes = len(wanted[0])
    for _ in range(POLISH):
        best = law.optimal(np.exp(compute), fit.cost)
        reached = np.log(np.concatenate([best.N[:, :sizes], best.D[:, sizes:]], axis=1))
        off = np.concatenate(wanted) - reached
        compute = np.clip(compute + slope * off, budgets[0], budgets[-1])
    return np.exp(compute)
