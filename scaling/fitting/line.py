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

DIRECTIONS = 721  # of lines tried at once, first from one vertical to the other, then ZOOMS times about the best
ZOOMS = 4
BISECTIONS = 60
HALF_TURN = np.linspace(-np.pi / 2, np.pi / 2, DIRECTIONS)
SPREAD = 3.0
FEWEST = 3  # points: two numbers are fitted to them


def slope(x: Array, y: Array, covariance: Array, level: float) -> tuple[float, tuple[float, float]]:
    """The slope of y in x and its interval at a level, of n points with errors `covariance` (n, 2, 2) of x and y.

    Points scatter about the line by their errors, and in y by as much more as they turn out to; the interval is by
    Student's t with the n - 2 degrees of freedom of that scatter. Its ends are infinite where x scatters by less than
    SPREAD times its errors, or no slope is excluded; all is NaN for fewer than FEWEST points.
    """
    freedom = len(x) - 2
    if len(x) < FEWEST:
        return np.nan, (np.nan, np.nan)
    squares = _Squares(x, y, covariance)
    scatter = _least_scatter(lambda s: squares.best(s)[1] <= freedom, float(np.var(y)))
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
    """The squares off the best line of a direction, each over its variance, of points with errors."""

    x: Array
    y: Array
    covariance: Array

    def of(self, angles: Array, scatter: float) -> Array:
        """Of lines at these angles to the x axis, with further scatter of this variance in y."""
        across = np.stack([-np.sin(angles), np.cos(angles)], axis=1)
        errors = np.einsum("ai,nij,aj->an", across, self.covariance, across)
        weight = 1 / (errors + scatter * across[:, 1:] ** 2)
        off = across @ np.stack([self.x, self.y])
        off = off - np.sum(weight * off, axis=1, keepdims=True) / np.sum(weight, axis=1, keepdims=True)
        return np.sum(weight * off**2, axis=1)

    def best(self, scatter: float) -> tuple[float, float]:
        """The angle of the least squares, and those."""
        angles = HALF_TURN
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
