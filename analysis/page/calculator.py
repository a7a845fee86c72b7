"""The budget calculator in numbers: the law's optimum for a given compute, size or number of tokens.

The page interpolates these rows linearly in logarithms, so it serves every law that has an optimum, and each of its
numbers is one of Python's.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from isoflop.analysis.style import LEVEL
from isoflop.scaling.fitting.draws import Draws, family
from isoflop.scaling.fitting.fit import Fit
from isoflop.scaling.laws.law import Law

QUANTITIES = ("flops", "n_params", "tokens", "loss")
GIVEN = QUANTITIES[:3]
BELOW, ABOVE = 10.0, 1e4  # how far around the fitted compute the calculator goes
STEPS = 50  # per decade, on round logarithms: every second stop of the slider is a row, the others lie between two
FURTHER = 20  # equivalent: per decade, of the budgets around these from which a law's own are read off, and asked
STRAIGHT = 1e-4  # in ln C: so short a way from an optimum the others lie along its slopes, to 1e-9 of them
LOOKS = 3  # equivalent: how often a reading may be further off than that; a law without bends needs one
# Laws that are asked at once: their numbers stay in a processor's cache.
TOGETHER = 64  # equivalent: the numbers are the same, however many
SLACK = 1e3  # how much further a resampled law is followed, to find the compute at which a given size is best


def calculator_frame(fit: Fit, draws: Draws) -> pd.DataFrame:
    """A row per value: `given` (which quantity is), then flops, n_params, tokens, loss, each with _low and _high.

    In the rows with given = "n_params" that column is the size given, and the others follow from the compute at which
    the law calls it best; likewise for tokens. Raises ValueError for a law without an optimum.
    """
    known = fit.points.frame["flops"]
    budgets = _grid(known.min() / BELOW, known.max() * ABOVE)
    wide = _grid(budgets[0] / SLACK, budgets[-1] * SLACK, FURTHER)  # equivalent: of so wide a grid a step more or less
    along = np.concatenate([wide[wide < budgets[0]], budgets, wide[wide > budgets[-1]]])
    own = slice(first := int(np.sum(wide < budgets[0])), first + len(budgets))
    ends = fit.optimal(budgets[[0, -1]])
    values = [budgets, _grid(*ends.N), _grid(*ends.D)]

    def answers(laws: Sequence[Law]) -> np.ndarray:
        """Of each law the four quantities in every row, (laws, 4, n)."""
        law = family(laws)
        best = _optimum(law, fit, np.broadcast_to(along, (len(laws), len(along))))
        found = _inverse(law, fit, values[1:], best)
        return np.concatenate([best[:, :, own], found], axis=2).swapaxes(0, 1)

    each = np.concatenate([answers(draws.laws[k : k + TOGETHER]) for k in range(0, len(draws), TOGETHER)])
    (middle,) = answers([fit.law])
    low, high = draws.band(lambda law: middle, LEVEL, values=each)
    frame = pd.DataFrame({"given": np.repeat(GIVEN, [len(v) for v in values])})
    for k, name in enumerate(QUANTITIES):
        frame[name], frame[f"{name}_low"], frame[f"{name}_high"] = middle[k], low[k], high[k]
    return frame


def _grid(low: float, high: float, steps: int = STEPS) -> np.ndarray:
    first, last = np.floor(np.log10([low, high]) * steps)
    return 10 ** (np.arange(first, last + 2) / steps)


def _optimum(law: Law, fit: Fit, budgets: np.ndarray) -> np.ndarray:
    best = law.optimal(budgets, fit.cost)
    return np.stack([budgets, best.N, best.D, best.loss])


def _inverse(law: Law, fit: Fit, given: Sequence[np.ndarray], along: np.ndarray) -> np.ndarray:
    """The optima (4, laws, n) of which each of the `given` sizes, then of the given numbers of tokens, is the best one.

    Read off the optima `along` a grid of budgets (4, laws, m), where the line between two is not quite the optimum's;
    there the law is asked, and the rest of the way is so short that all quantities go along their slopes, in
    logarithms. No further than the grid goes.
    """
    with np.errstate(all="ignore"):  # an optimum may be beyond floating point
        logs, wanted = np.log(along), [np.log(values) for values in given]
        budgets, sizes = logs[0, 0], len(given[0])  # equivalent: every law has the same budgets
        slopes = np.gradient(logs, budgets, axis=2)
        pairs = list(zip(wanted, logs[1:3], strict=True))  # equivalent: sizes and tokens, two of each
        compute = np.concatenate([[np.interp(w, b, budgets) for b in rows] for w, rows in pairs], axis=1)
        for _ in range(LOOKS):
            best = np.log(_optimum(law, fit, np.exp(compute)))
            slope = _between(budgets, slopes, compute)
            reached, pace = (np.concatenate([x[1, :, :sizes], x[2, :, sizes:]], axis=1) for x in (best, slope))
            move = np.clip(compute + (np.concatenate(wanted) - reached) / pace, budgets[0], budgets[-1]) - compute
            if not (np.abs(move) > STRAIGHT).any():  # equivalent: no move is just that
                break
            compute = compute + move
        return np.exp(best + slope * move)


def _between(grid: np.ndarray, values: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Values (4, laws, m) on a grid (m,), interpolated at (laws, n): (4, laws, n)."""
    left = np.minimum(np.searchsorted(grid, at, side="right") - 1, len(grid) - 2)
    share = (at - grid[left]) / (grid[left + 1] - grid[left])
    low, high = (np.take_along_axis(values, k[None], axis=2) for k in (left, left + 1))
    return low + share * (high - low)
