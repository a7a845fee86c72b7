"""A straight line through points of which both coordinates are estimates, with errors that may go together.

Seen along a direction, what a point lies off the line has a variance that its errors give, whatever its true place is
(York et al. 2004, doi 10.1119/1.1632486). A regression on x as if it were known takes errors that x and y share for a
slope.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from isoflop.scaling.laws.law import Array
from isoflop.scaling.laws.special_functions import stdtrit

DIRECTIONS = 91  # of lines tried at once, first from one vertical to the other, then about the best of them
ZOOMS = 6
BISECTIONS = 40
HALF_TURN = np.linspace(-np.pi / 2, np.pi / 2, 721)
SPREAD = 3.0
FEWEST = 3  # groups of points: two numbers are fitted to them


def slope(
    x: Array, y: Array, covariance: Array, level: float, groups: int | None = None
) -> tuple[float, tuple[float, float]]:
    """The slope of y in x and its interval at a level, of n points with errors `covariance` (n, n, 2, 2) of x and y.

    Points scatter about the line by their errors, and in y by as much more as they turn out to; the interval is by
    Student's t with the degrees of freedom of that scatter, the `groups` of points that count as independent (None:
    every point) less 2. Its ends are infinite where x scatters by less than SPREAD times its errors, or no slope is
    excluded; all is NaN for fewer than FEWEST groups.
    """
    freedom = (len(x) if groups is None else groups) - 2
    if freedom < FEWEST - 2:
        return np.nan, (np.nan, np.nan)
    squares, spare = _Squares(x, y, covariance), len(x) - 2
    scatter = _least_scatter(lambda s: squares.best(s)[1] <= spare, float(np.sum((y - y.mean()) ** 2)) / spare)
    best, least = squares.best(scatter)
    farthest = float(stdtrit(freedom, 0.5 + level / 2))
    angles = np.append(HALF_TURN, best)
    off = np.sqrt(np.maximum(np.append(squares.of(HALF_TURN, scatter), least) - least, 0.0))
    order = np.argsort(angles)
    angles, off = angles[order], off[order]
    if off[0] <= farthest or off[0] ** 2 + least <= SPREAD**2 * len(x):
        return float(np.tan(best)), (-np.inf, np.inf)
    at = int(np.flatnonzero(angles == best)[0])
    low, high = np.flatnonzero(off[:at] > farthest)[-1], at + np.flatnonzero(off[at:] > farthest)[0]
    ends = [np.interp(farthest, off[[i, o]], angles[[i, o]]) for i, o in ((low + 1, low), (high - 1, high))]
    return float(np.tan(best)), (float(np.tan(ends[0])), float(np.tan(ends[1])))


@dataclass(frozen=True)
class _Squares:
    """The squares off the best line of a direction, by the inverse of their covariance, of points with errors."""

    x: Array
    y: Array
    covariance: Array

    def of(self, angles: Array, scatter: float) -> Array:
        """Of lines at these angles to the x axis, with further scatter of this variance in y."""
        across = np.stack([-np.sin(angles), np.cos(angles)], axis=1)
        errors = np.einsum("ai,nmij,aj->anm", across, self.covariance, across)
        errors[:, *np.diag_indices(len(self.x))] += scatter * across[:, 1:] ** 2
        off = across @ np.stack([self.x, self.y])
        both = np.stack([off, np.ones_like(off)], axis=2)
        (square, sum_), (_, weight) = np.moveaxis(both.swapaxes(1, 2) @ np.linalg.solve(errors, both), 0, -1)
        return square - sum_**2 / weight

    def best(self, scatter: float) -> tuple[float, float]:
        """The angle of the least squares, and those."""
        angles = np.linspace(-np.pi / 2, np.pi / 2, DIRECTIONS)
        for _ in range(ZOOMS):
            squares = self.of(angles, scatter)
            at, step = angles[int(np.argmin(squares))], angles[1] - angles[0]
            angles = np.linspace(at - step, at + step, DIRECTIONS)
        return float(at), float(squares.min())


def _least_scatter(enough: Callable[[float], bool], most: float) -> float:
    """The least variance that is enough, at most `most`; 0 where the errors are."""
    if enough(0.0):
        return 0.0
    low, high = 0.0, most
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
