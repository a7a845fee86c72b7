"""The compute multiplier at a target from pairs of runs: a line in ln compute, with bounds that hold at every look.

    -d_i = slope_i (mu + tau ln(C_i / target)) + noise_i,        d = ln loss of the arm - ln loss of the baseline

mu is ln m at the target, tau its drift. Runs of one cluster (a seed, a trunk) share their noise and count as one
observation. Without a `Discrepancy` the drift is what the pairs show (a flat prior); with one it has the learnt prior,
and what stays unknown of it widens the bounds however many pairs there are.
"""

from dataclasses import dataclass

import numpy as np

from isoflop.scaling.arms.pairs import SAME_BUDGET
from isoflop.scaling.gate.discrepancy import Discrepancy
from isoflop.scaling.gate.sequence import critical
from isoflop.scaling.laws.law import Array
from isoflop.scaling.laws.special_functions import stdtr, stdtrit

TINY = 1e-9
FEW = 1e-4  # of the learnt scatter: what a pair adds to it where it holds the noise of one already


@dataclass(frozen=True)
class Observations:
    """Pairs (n,): `gain` = -d, `slope` = -d ln loss / d ln compute > 0, `x` = ln(compute / target), and `cluster`."""

    gain: Array
    slope: Array
    x: Array
    cluster: Array

    def first(self, n: int) -> "Observations":
        """The first n pairs."""
        return Observations(self.gain[:n], self.slope[:n], self.x[:n], self.cluster[:n])


@dataclass(frozen=True)
class Estimate:
    """ln m at the target: `mean`, and the standard error of its noise with `freedom`; NaN where nothing shows it.

    `spread` is the scale of what is not known of the drift, with `spread_freedom` (0 without a discrepancy, inf).
    `information` is the variance of a pair over that of the mean, `sigma` the standard deviation of a pair in ln loss.
    `drift` and `drift_error` are tau, NaN where computes do not vary. `needs_drift` says that pairs lie away from
    the target.
    """

    mean: float
    error: float
    freedom: float
    information: float
    sigma: float
    spread: float = 0.0
    spread_freedom: float = float("inf")
    drift: float = float("nan")
    drift_error: float = float("nan")
    needs_drift: bool = False

    @property
    def total(self) -> tuple[float, float]:
        """Standard error of all that is uncertain, and its degrees of freedom (Satterthwaite)."""
        parts = [(s, v) for s, v in ((self.error, self.freedom), (self.spread, self.spread_freedom)) if s > 0]
        square = sum(s**2 for s, _ in parts)
        below = sum(s**4 / v for s, v in parts if v > 0)
        return float(np.sqrt(square)), float(square**2 / below) if below > 0 else float("inf")

    def above(self, value: float = 0.0) -> float:
        """Probability that ln m at the target exceeds a value, from the pairs alone; NaN where they do not tell."""
        error, freedom = self.total
        if not np.isfinite(self.mean) or error <= 0 or (self.freedom < 1 and self.error > 0):
            return float("nan")
        return float(stdtr(freedom, (self.mean - value) / error))

    def bounds(self, error: float) -> tuple[float, float]:
        """Lower and upper bound of ln m at the target; each is wrong with probability `error` at most, at any look."""
        if not np.isfinite(self.mean):
            return -np.inf, np.inf
        noise = 0.0
        if self.error > 0:
            noise = float(critical(self.information, self.freedom, error)) * self.error
        half = float(np.hypot(noise, self.spread * stdtrit(self.spread_freedom, 1 - error) if self.spread else 0.0))
        return self.mean - half, self.mean + half


NOTHING = Estimate(float("nan"), float("nan"), 0.0, 0.0, float("nan"), needs_drift=True)


def estimate(pairs: Observations, discrepancy: Discrepancy | None = None) -> Estimate:
    """ln m at the target from pairs; `mean` is NaN where they cannot show it."""
    pairs, lines = by_cluster(pairs)
    if not len(pairs.gain):
        return NOTHING
    if lines:
        return _from_lines(pairs)
    away = bool(np.abs(pairs.x).max() > SAME_BUDGET)
    if discrepancy is None:
        return _from_data(pairs, away)
    return _with_prior(pairs, discrepancy, away)


def by_cluster(pairs: Observations) -> tuple[Observations, bool]:
    """A pair a cluster, the mean of its pairs; or unchanged, where every cluster shows the drift by itself.

    A mean keeps what varies between clusters alone, whatever their pairs share. True for the second.
    """
    names, label = np.unique(pairs.cluster, return_inverse=True)
    if len(names) == len(label):
        return pairs, False
    count = np.bincount(label)
    means = [np.bincount(label, v) / count for v in (pairs.gain, pairs.slope, pairs.x)]
    inside = np.bincount(label, (pairs.x - means[2][label]) ** 2)
    if (inside / count > SAME_BUDGET**2).all() and means[2].var() < inside.sum() / count.sum():
        return pairs, True
    return Observations(means[0], means[1], means[2], np.arange(len(names))), False


def _from_lines(pairs: Observations) -> Estimate:
    """Each cluster's own line, and the scatter of what they say at the target (Ibragimov and Mueller 2010)."""
    found = []
    for name in np.unique(pairs.cluster):
        own = pairs.cluster == name
        design = pairs.slope[own, None] * np.column_stack([np.ones(own.sum()), pairs.x[own]])
        found.append(np.linalg.lstsq(design, pairs.gain[own], rcond=None)[0])
    lines = np.array(found)
    n = len(lines)
    deviation = lines.std(axis=0, ddof=1) if n > 1 else np.full(2, np.nan)
    sigma = float(deviation[0] * pairs.slope.mean())
    errors = deviation / np.sqrt(n)
    if n < 2:
        return Estimate(float(lines[0, 0]), float("inf"), 0.0, 1.0, float("nan"), needs_drift=True)
    return Estimate(
        float(lines[:, 0].mean()), float(errors[0]), n - 1.0, float(n), sigma, drift=float(lines[:, 1].mean()),
        drift_error=float(errors[1]), needs_drift=True,
    )  # fmt: skip


def _design(pairs: Observations, drift: bool) -> Array:
    ones = np.ones(len(pairs.x))
    return pairs.slope[:, None] * np.column_stack([ones, pairs.x] if drift else [ones])


def _from_data(pairs: Observations, away: bool) -> Estimate:
    """By least squares, with a drift where the pairs lie away from the target."""
    n = len(pairs.x)
    varies = bool(np.ptp(pairs.x) > SAME_BUDGET)
    if away and not varies:
        return Estimate(float("nan"), float("nan"), 0.0, 0.0, float("nan"), needs_drift=True)
    design = _design(pairs, away)
    spread = np.linalg.inv(design.T @ design)
    value = spread @ design.T @ pairs.gain
    freedom = n - design.shape[1]
    scale = float(np.mean(pairs.slope**2))
    information = 1.0 / float(spread[0, 0]) / scale
    if freedom < 1:
        drift = float(value[1]) if away else float("nan")
        return Estimate(float(value[0]), float("inf"), 0.0, information, float("nan"), drift=drift, needs_drift=away)
    sigma = float(np.sqrt(np.sum((pairs.gain - design @ value) ** 2) / freedom)) + TINY
    errors = sigma * np.sqrt(np.diag(spread))
    return Estimate(
        float(value[0]), float(errors[0]), float(freedom), information, sigma,
        drift=float(value[1]) if away else float("nan"), drift_error=float(errors[1]) if away else float("nan"),
        needs_drift=away,
    )  # fmt: skip


def _with_prior(pairs: Observations, learnt: Discrepancy, away: bool) -> Estimate:
    """By least squares, with the learnt prior on the drift."""
    share = -pairs.x / learnt.span  # of the span that was learnt
    target = pairs.slope * learnt.shrink**-share
    design = np.column_stack([target, -target * share])
    sigma, freedom = _noise(pairs, learnt)
    prior = np.diag([0.0, 1.0 / max(learnt.sd, TINY) ** 2])
    inverse = np.linalg.inv(design.T @ design / sigma**2 + prior)
    weights = inverse[0] @ design.T / sigma**2
    mean = float(weights @ pairs.gain)
    noise = float(np.linalg.norm(weights))
    information = 1.0 / noise**2 / float(np.mean(target**2))
    spread = float(abs(weights @ design[:, 1])) * learnt.sd
    error = sigma * noise if freedom else 0.0
    drift = float(inverse[1] @ design.T @ pairs.gain) / sigma**2 / learnt.span
    drift_error = float(np.sqrt(inverse[1, 1])) / learnt.span
    lost = np.log(learnt.shrink) / learnt.span * mean  # of the drift that the shrink expects
    return Estimate(
        mean, error, float(freedom), information, sigma if freedom else float("nan"), spread, learnt.freedom,
        drift=drift + lost if away else float("nan"), drift_error=drift_error if away else float("nan"),
        needs_drift=away,
    )  # fmt: skip


def _noise(pairs: Observations, learnt: Discrepancy) -> tuple[float, float]:
    """Standard deviation of a pair in ln loss, with its degrees of freedom: of the pairs and the learnt one, pooled.

    0 degrees, and next to nothing, for one pair where the learnt scatter holds the noise of one already.
    """
    varies = bool(np.ptp(pairs.x) > SAME_BUDGET)
    design = _design(pairs, varies)
    own = max(len(pairs.x) - design.shape[1], 0)
    left = pairs.gain - design @ np.linalg.lstsq(design, pairs.gain, rcond=None)[0]
    known = learnt.noise_freedom > 0
    if not own and not known:
        scale = learnt.sd * float(np.mean(pairs.slope))
        return (FEW * scale, 0.0) if len(pairs.x) == 1 else (scale, learnt.freedom)
    squares = float(left @ left) + (learnt.noise_freedom * learnt.noise**2 if known else 0.0)
    freedom = own + learnt.noise_freedom
    return float(np.sqrt(squares / freedom)) + TINY, float(freedom)
