"""The distribution of ln loss that a registered forecast states, and how a measured loss scores it.

PIT (probability integral transform) is F(y), the probability that the forecast gave to a loss at or below the measured
one: uniform between 0 and 1 where forecasts are as sure as they should be. CRPS is the integral over x of
(F(x) - 1{x >= y})^2, in ln loss, so that .01 is about 1% of the loss and forecasts of any size compare; less is better,
and it is the absolute error where a forecast is a single value (Gneiting and Raftery 2007, section 4.2, eq. 20).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol, TypedDict

import numpy as np

from isoflop.scaling.selection.averaging import Forecast, ForecastAverage

ACCURACY = 1e-10  # of a CRPS, absolute, in ln loss


class Component(TypedDict):
    """One Student's t of ln loss, with its weight in the forecast average."""

    weight: float
    mean: float
    sd: float
    freedom: float


class Predictive(Protocol):
    """A distribution of ln loss."""

    def cdf(self, log_loss: float) -> float:
        """Probability of a value at or below `log_loss`."""

    def crps(self, log_loss: float) -> float:
        """The score of the measured `log_loss`."""


def components(average: ForecastAverage) -> list[Component]:
    """A forecast average of one loss as JSON keeps it."""
    return [
        {
            "weight": float(w),
            "mean": float(f.mean[0]),  # equivalent: the last of one is the first
            "sd": float(f.sd[0]),  # equivalent: likewise
            "freedom": float(f.freedom),
        }
        for f, w in zip(average.members, average.weights, strict=True)
    ]


def check_components(found: list[Component] | None, source: str) -> None:
    """Raise ValueError naming `source` unless these are the parts of a distribution; None is no statement."""
    if found is None:
        return
    good = bool(found) and all(c["weight"] > 0 and c["sd"] > 0 and c["freedom"] > 0 for c in found)
    if not good or abs(sum(c["weight"] for c in found) - 1) > 1e-6:  # equivalent: no sum is off by just that
        raise ValueError(f"{source}: its distribution must have weights that sum to 1 and positive sd and freedom")


def predictive(registration: Mapping[str, Any]) -> Predictive:
    """The distribution of a registration: its mixture, or of one that states none, its quantiles."""
    if parts := registration.get("distribution"):
        members = tuple(
            Forecast(np.array([part["mean"]]), np.array([part["sd"]]), part["freedom"]) for part in parts
        )  # fmt: skip
        return Mixture(ForecastAverage(members, np.array([part["weight"] for part in parts])))
    known = {0.5: float(np.log(registration["loss"]))}
    for level, ends in registration["intervals"].items():
        sides = zip((-1, 1), ends, strict=True)
        known |= {0.5 + side * float(level) / 2: float(np.log(end)) for side, end in sides if _closed(end)}
    order = sorted(known)
    return Quantiles(np.array(order), np.array([known[p] for p in order]))


def _closed(end: float | None) -> bool:
    return end is not None and 0 < end < np.inf


@dataclass(frozen=True)
class Mixture:
    """A forecast average of one loss: weighted Student's t. Its CRPS is the integral, by adaptive quadrature."""

    average: ForecastAverage

    def cdf(self, log_loss: float) -> float:
        """Probability of a value at or below `log_loss`."""
        return float(self.average.cdf(np.array([log_loss]))[0])  # equivalent: the last of one is the first

    def crps(self, log_loss: float) -> float:
        """The integral of F^2 below the measured value and of (1 - F)^2 above it."""
        from scipy.integrate import quad  # slow to import, and only this needs it

        marks = (0.001, 0.05, 0.25, 0.5, 0.75, 0.95, 0.999)
        knots = sorted({float(self.average.quantile(p)[0]) for p in marks})  # equivalent: the last of one is the first
        below = [-np.inf, *(x for x in knots if x < log_loss), log_loss]  # equivalent: an empty interval adds nothing
        above = [log_loss, *(x for x in knots if x > log_loss), np.inf]  # equivalent: likewise
        total = 0.0
        for edges, squared in ((below, lambda x: self.cdf(x) ** 2), (above, lambda x: (1 - self.cdf(x)) ** 2)):
            for lo, hi in pairwise(edges):
                total += quad(squared, lo, hi, epsabs=ACCURACY, limit=200)[0]  # equivalent: fewer parts are enough
        return total


@dataclass(frozen=True)
class Quantiles:
    """The distribution through stated quantiles: F is straight between `values` (K,), where it is `levels` (K,).

    What lies outside the widest interval is put at its two ends, so that nothing is claimed of tails that were not
    stated: beyond them PIT is 0 or 1. The CRPS of this distribution is exact.
    """

    levels: np.ndarray
    values: np.ndarray

    def cdf(self, log_loss: float) -> float:
        """Probability of a value at or below `log_loss`."""
        return float(np.interp(log_loss, self.values, self.levels, left=0.0, right=1.0))

    def crps(self, log_loss: float) -> float:
        """The sum of the integrals between quantiles; from the ends to a measured value beyond them, its distance."""
        inside = float(np.clip(log_loss, self.values[0], self.values[-1]))
        x = np.sort(np.append(self.values, inside))
        above = (x[:-1] >= inside).astype(float)
        p = np.interp(x, self.values, self.levels)
        a, b = p[:-1] - above, p[1:] - above
        return float(np.sum(np.diff(x) * (a * a + a * b + b * b) / 3)) + abs(log_loss - inside)
