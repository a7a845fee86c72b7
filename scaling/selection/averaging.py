"""Forecast averages: the forecasts of several laws as one distribution of ln loss, each with a weight."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from isoflop.scaling.laws.law import Array
from isoflop.scaling.laws.special_functions import gammaln, stdtr, stdtrit

BISECTIONS = 60  # equivalent: one more or less halves a bracket that is below rounding
ONE_SIGMA = 0.8413447460685429  # probability below one standard deviation above the mean of a normal distribution


@dataclass(frozen=True)
class Forecast:
    """One law's forecast of n losses: Student's t of ln loss.

    It has location `mean` (n,), scale `sd` (n,) and `freedom` degrees of freedom.
    """

    mean: Array
    sd: Array
    freedom: float

    def log_density(self, log_loss: Array) -> Array:
        """ln of the density of the measured ln loss, (n,)."""
        v, z = self.freedom, (log_loss - self.mean) / self.sd
        constant = gammaln((v + 1) / 2) - gammaln(v / 2) - 0.5 * np.log(v * np.pi)
        return constant - np.log(self.sd) - (v + 1) / 2 * np.log1p(z**2 / v)

    def widened(self, by: Array | float) -> "Forecast":
        """The same forecast with further independent scatter of standard deviation `by`, in ln loss."""
        return Forecast(self.mean, np.hypot(self.sd, by), self.freedom)


@dataclass(frozen=True)
class ForecastAverage:
    """Forecasts of the same n losses with weights that sum to 1: a distribution of ln loss at each.

    Its density is the weighted sum of the members' densities (linear pooling).
    """

    members: tuple[Forecast, ...]
    weights: Array

    @property
    def mean(self) -> Array:
        """Weighted mean of the members' locations, (n,)."""
        return np.einsum("m,mn->n", self.weights, self._parts[1])

    @property
    def sd(self) -> Array:
        """Standard deviation from the members' scales and the scatter of their means, (n,)."""
        _, means, sds = self._parts
        return np.sqrt(np.einsum("m,mn->n", self.weights, sds**2 + (means - self.mean) ** 2))

    @property
    def spread(self) -> Array:
        """Half the width of the central 68%, (n,): the standard deviation of a normal distribution that wide.

        A t of few degrees of freedom has a larger standard deviation than its scale, or none.
        """
        return 0.5 * (self.quantile(ONE_SIGMA) - self.quantile(1 - ONE_SIGMA))

    def cdf(self, log_loss: Array) -> Array:
        """Probability that ln loss lies at or below `log_loss`, (n,)."""
        freedom, means, sds = self._parts
        return np.einsum("m,mn->n", self.weights, stdtr(freedom, (log_loss - means) / sds))

    @cached_property
    def _parts(self) -> tuple[Array, Array, Array]:
        """Freedom, means and scales of the members, each (m, n)."""
        freedom = np.stack([np.broadcast_to(f.freedom, f.mean.shape) for f in self.members])
        return freedom, np.stack([f.mean for f in self.members]), np.stack([f.sd for f in self.members])

    def quantile(self, p: float) -> Array:
        """ln loss below which the average has probability p, (n,); of several members by bisection."""
        freedom, means, sds = self._parts
        if len(means) == 1:
            return means[0] + sds[0] * stdtrit(freedom[0], p)
        lo, hi = (means - 1e3 * sds).min(axis=0), (means + 1e3 * sds).max(axis=0)
        for _ in range(BISECTIONS):
            middle = 0.5 * (lo + hi)
            below = self.cdf(middle) < p  # equivalent: where both are equal, either side closes in on the middle
            lo, hi = np.where(below, middle, lo), np.where(below, hi, middle)
        return 0.5 * (lo + hi)

    def interval(self, level: float) -> tuple[Array, Array]:
        """Central interval of ln loss at a level such as 0.9: (lo, hi), each (n,)."""
        return self.quantile(0.5 - level / 2), self.quantile(0.5 + level / 2)

    def exp_interval(self, level: float) -> tuple[float, float]:
        """The same of the first quantity itself: its upper end is infinite where it lies beyond floating point."""
        lo, hi = self.interval(level)
        with np.errstate(over="ignore"):
            return float(np.exp(lo[0])), float(np.exp(hi[0]))


def average(forecasts: Sequence[Forecast], weights: ArrayLike, *, negligible: float = 1e-3) -> ForecastAverage:
    """The weighted average of forecasts. Those below the share `negligible` are left out, the rest rescaled to 1."""
    share = np.asarray(weights, dtype=float) / np.sum(weights)
    kept = np.flatnonzero(share >= negligible).tolist()
    return ForecastAverage(tuple(forecasts[i] for i in kept), share[kept] / share[kept].sum())


def softmax(scores: Array) -> Array:
    """exp(scores) scaled to sum to 1, without overflow."""
    power = np.exp(scores - np.max(scores))
    return power / power.sum()
