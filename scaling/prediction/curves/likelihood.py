"""How large the deviations of runs from a law of curves are: what is likeliest of all runs (quasi-Newton, BFGS).

The likelihood is the restricted one (Patterson and Thompson 1971): theta, the coordinates of the law with the misfit
that all runs share, is integrated out of it at the derivatives of the law. Each logarithm of a deviation is pulled to
DEFAULT with a standard deviation of WEAK, so that what no row tells stays where it is.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np

from isoflop.scaling.laws.curves.sums import Array
from isoflop.scaling.prediction.curves.deviation import DEFAULT, Deviation, Places, Trunks

LEAST = 1e-5  # a standard deviation of ln loss
LARGEST = float(np.exp(5.0))
LENGTHS = (0.05, 100.0)
WEAK = 3.0  # standard deviation of a logarithm before any row is seen
STEPS = 300  # at most
SHARES = 0.5 ** np.arange(12)  # of a step, the first that lowers the cost
FURTHEST = 1.0  # that a step moves any logarithm
NEAR = 1e-5  # of twice the log-likelihood: a step that would gain less is not made


@dataclass(frozen=True, eq=False)
class Likelihood:
    """The likelihood of deviations at one theta (P,) of a law.

    `columns` (n, P + 1) are the derivatives of ln loss in theta at the rows of all trunks, and last what theta leaves
    of ln loss; `away` (P,) is what theta is pulled to, less theta, and `precision` how strongly (P, P) under a
    deviation; the last `misfit` of the P are the misfit that all runs share.
    """

    trunks: Trunks
    every: Places
    columns: Array
    away: Array
    precision: Callable[[Deviation], Array]
    misfit: int

    def likeliest(self, start: Deviation) -> Deviation:
        """The deviation of greatest likelihood, climbed to from `start`."""
        at = _logs(start)
        cost, slope = self.score(at)
        curvature, fresh = self.expected(at), True
        for _ in range(STEPS):
            free = ~(((at <= _LOWER) & (slope > 0)) | ((at >= _UPPER) & (slope < 0)))
            move = np.zeros_like(at)
            move[free] = -np.linalg.solve(curvature[np.ix_(free, free)], slope[free])
            gain = -slope @ move
            move *= FURTHEST / max(FURTHEST, np.abs(move).max())
            tries = (np.clip(at + share * move, _LOWER, _UPPER) for share in SHARES if gain > NEAR)
            found = next(((tried, *own) for tried in tries if (own := self.score(tried))[0] < cost), None)
            if found is None:
                if fresh:
                    break
                curvature, fresh = self.expected(at), True
                continue
            moved, turned = found[0] - at, found[2] - slope
            if moved @ turned > 0:
                bent = curvature @ moved
                curvature += np.outer(turned, turned) / (moved @ turned) - np.outer(bent, bent) / (moved @ bent)
            at, cost, slope = found
            fresh = False
        return _deviation(at)

    def score(self, logs: Array) -> tuple[float, Array]:
        """Minus twice the log-likelihood at logarithms (6,) of a deviation but for a constant, and its derivatives."""
        deviation, first = _deviation(logs), len(self.away) - self.misfit
        precision, pulled = self.precision(deviation), (logs - _logs(DEFAULT)) / WEAK**2
        shared, places = precision[first:, first:], self.trunks.places(self.every)
        covariances = [deviation.covariance(some) for some in places]
        try:
            factors = [np.linalg.cholesky(some) for some in covariances]
        except np.linalg.LinAlgError:
            return np.inf, np.zeros(len(logs))
        grams, slopes, squares = self.trunks.products(factors, self.columns)
        gram, slope = precision + grams.sum(axis=0), precision @ self.away + slopes.sum(axis=0)
        known = np.linalg.inv(gram)
        theta = known @ slope  # less where it is linearised
        total = self.away @ precision @ self.away + squares.sum() - slope @ theta + (logs - _logs(DEFAULT)) @ pulled
        total += np.linalg.slogdet(gram)[1] - np.linalg.slogdet(shared)[1]
        total += 2 * sum(np.log(np.diagonal(some, axis1=1, axis2=2)).sum() for some in factors)
        derivatives = 2 * pulled
        for (_, rows), covariance, place in zip(self.trunks.alike, covariances, places, strict=True):
            inverse = np.linalg.inv(covariance)
            columns = inverse @ self.columns[rows]
            design = columns[..., :-1]
            left = columns[..., -1] - design @ theta
            weight = inverse - design @ known @ design.swapaxes(1, 2) - left[..., :, None] * left[..., None, :]
            derivatives[_OF_ROWS] += np.einsum("gij,kgij->k", weight, deviation.derivatives(place))
        if self.misfit:
            misfit = (theta - self.away)[first:]
            freedom = self.misfit - (known[first:, first:] * shared).sum()  # degrees of freedom
            derivatives[_SHARED] += 2 * (freedom - misfit @ shared @ misfit)
        return (float(total) if np.isfinite(total) else np.inf), derivatives

    def expected(self, logs: Array) -> Array:
        """How fast the derivatives of `score` are expected to grow (6, 6) were theta known: where a climb begins."""
        found = np.eye(len(logs)) * 2 / WEAK**2
        found[_SHARED, _SHARED] += 2 * self.misfit
        deviation = _deviation(logs)
        for place in self.trunks.places(self.every):
            scaled = np.linalg.solve(deviation.covariance(place), deviation.derivatives(place))
            found[np.ix_(_OF_ROWS, _OF_ROWS)] += np.einsum("kgij,lgji->kl", scaled, scaled)
        return found


_NAMES = [one.name for one in fields(Deviation)]
_SHARED = _NAMES.index("shared")
_OF_ROWS = [_NAMES.index(name) for name in Deviation.OF_ROWS]


def _logs(deviation: Deviation) -> Array:
    return np.log([getattr(deviation, name) for name in _NAMES])


def _deviation(logs: Array) -> Deviation:
    return Deviation(**{name: float(value) for name, value in zip(_NAMES, np.exp(logs), strict=True)})


_LOWER = np.log([LENGTHS[0] if name == "length" else LEAST for name in _NAMES])
_UPPER = np.log([LENGTHS[1] if name == "length" else LARGEST for name in _NAMES])
