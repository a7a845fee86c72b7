"""Several forecasts of one loss as one distribution: a weighted mixture of Student's t on ln loss."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import gammaln, stdtr

from isoflop.scaling.laws.law import Array

BISECTIONS = 60


@dataclass(frozen=True)
class Forecast:
    """What one law says of n losses: ln loss is Student's t around `mean` (n,) with scale `sd` (n,)."""

    mean: Array
    sd: Array
    freedom: float

    def log_density(self, log_loss: Array) -> Array:
        """ln of the density of the measured ln loss, (n,)."""
        v, z = self.freedom, (log_loss - self.mean) / self.sd
        constant = gammaln((v + 1) / 2) - gammaln(v / 2) - 0.5 * np.log(v * np.pi)
        return constant - np.log(self.sd) - (v + 1) / 2 * np.log1p(z**2 / v)

    def widened(self, by: Array | float) -> "Forecast":
        """The same with further independent scatter of standard deviation `by`."""
        return Forecast(self.mean, np.hypot(self.sd, by), self.freedom)


@dataclass(frozen=True)
class Mixture:
    """Forecasts with weights that sum to 1."""

    members: tuple[Forecast, ...]
    weights: Array

    @property
    def mean(self) -> Array:
        return np.einsum("m,mn->n", self.weights, np.stack([f.mean for f in self.members]))

    @property
    def sd(self) -> Array:
        """Scatter of the members' scales and of their means together, (n,)."""
        means, sds = np.stack([f.mean for f in self.members]), np.stack([f.sd for f in self.members])
        return np.sqrt(np.einsum("m,mn->n", self.weights, sds**2 + (means - self.mean) ** 2))

    def cdf(self, log_loss: Array) -> Array:
        terms = [stdtr(f.freedom, (log_loss - f.mean) / f.sd) for f in self.members]
        return np.einsum("m,mn->n", self.weights, np.stack(terms))

    def quantile(self, p: float) -> Array:
        """ln loss below which the mixture has probability p, (n,), by bisection."""
        means, sds = np.stack([f.mean for f in self.members]), np.stack([f.sd for f in self.members])
        lo, hi = (means - 1e3 * sds).min(axis=0), (means + 1e3 * sds).max(axis=0)
        for _ in range(BISECTIONS):
            middle = 0.5 * (lo + hi)
            below = self.cdf(middle) < p
            lo, hi = np.where(below, middle, lo), np.where(below, hi, middle)
        return 0.5 * (lo + hi)

    def interval(self, level: float) -> tuple[Array, Array]:
        """Central interval of ln loss, (lo, hi)."""
        return self.quantile(0.5 - level / 2), self.quantile(0.5 + level / 2)


def mixture(forecasts: Sequence[Forecast], weights: Any, *, negligible: float = 1e-3) -> Mixture:
    """Forecasts stacked with weights, those below `negligible` left out and the rest rescaled to sum to 1."""
    weights = np.asarray(weights, dtype=float) / np.sum(weights)
    kept = np.flatnonzero(weights >= negligible).tolist()
    return Mixture(tuple(forecasts[i] for i in kept), weights[kept] / weights[kept].sum())


def softmax(scores: Array) -> Array:
    """exp(scores) scaled to sum to 1."""
    power = np.exp(scores - np.max(scores))
    return power / power.sum()
