"""Profile likelihood: the objective as a function of one quantity, minimised over everything else.

The quantity is pulled to a grid of targets by a quadratic anchor. The minimiser of objective + anchor is also the
minimiser of the objective alone among laws with the quantity it reaches, so every point is exactly on the profile,
whatever the stiffness, and a derived quantity costs no more than a parameter.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from isoflop.scaling.fitting.fit import Fit
from isoflop.scaling.fitting.objective import Anchor, huber
from isoflop.scaling.fitting.solver.minimise import minimise
from isoflop.scaling.laws.law import Array, Law
from isoflop.scaling.laws.special_functions import fdtri

REACH = 12.0  # standard errors to either side of the estimate
STEP = 1e-6  # of the differences that give the quantity's gradient


@dataclass(frozen=True)
class Profile:
    """Interval [lo, hi] of a quantity at `level`; a side is infinite where the rise never exceeds `cut`.

    `frame` has the profile: value of the quantity, objective, and `rise`, the scaled rise of the objective above its
    minimum, to be compared with `cut`.
    """

    name: str
    estimate: float
    lo: float
    hi: float
    level: float
    cut: float
    frame: pd.DataFrame

    @property
    def open_below(self) -> bool:
        """Whether the data give no lower bound."""
        return not np.isfinite(self.lo)

    @property
    def open_above(self) -> bool:
        """Whether the data give no upper bound."""
        return not np.isfinite(self.hi)


def profile(
    fit: Fit, quantity: Callable[[Law], float] | str, *, level: float = 0.9, points: int = 41, reach: float = REACH
) -> Profile:
    """Profile likelihood of a parameter (by name) or of any scalar function of a law.

    The quantity is moved to `points` targets within `reach` standard errors of the estimate. The cut is the F quantile
    with (1, n - P) degrees of freedom; for Huber's objective the rise is divided by the variance of psi over the share
    of inliers, which for least squares is the residual variance. Rows count as independent: with several rows in a
    cluster use the jackknife. Raises ValueError for an unknown name.
    """
    measure = _Measure(fit, quantity)
    centre, slope = (v[0] for v in measure(fit.theta[None]))
    residual, gradient, _ = fit.problem.residuals(fit.theta[None])
    spread = _spread(fit, residual[0])
    curve = (gradient[0] * fit.weights * (np.abs(residual[0]) <= fit.deltas)) @ gradient[0].T
    error = np.sqrt(max(slope @ np.linalg.pinv(curve, rcond=1e-10, hermitian=True) @ slope * spread, 1e-30))
    targets = centre + np.linspace(-reach, reach, points) * error
    theta = _walk(fit, measure, targets, spread / error**2)
    reached, _ = measure(theta)
    value = huber(fit.problem.residuals(theta)[0], fit.weights, fit.deltas)
    rise = 2.0 * np.maximum(value - fit.value, 0.0) / spread
    cut = float(fdtri(1.0, max(len(residual[0]) - len(fit.free), 1), level))
    order = np.argsort(reached, kind="stable")
    frame = pd.DataFrame({"value": reached[order], "objective": value[order], "rise": rise[order]})
    lo, hi = _crossing(frame, centre, cut, -1), _crossing(frame, centre, cut, +1)
    return Profile(measure.name, float(centre), lo, hi, level, cut, frame)


class _Measure:
    """A scalar quantity of a law and its gradient, as functions of coordinates (B, P)."""

    def __init__(self, fit: Fit, quantity: Callable[[Law], float] | str) -> None:
        self.fit = fit
        self.name = quantity if isinstance(quantity, str) else getattr(quantity, "__name__", "quantity")
        self.of = self._named(quantity) if isinstance(quantity, str) else self._of_each(quantity)

    def _named(self, name: str) -> Callable[[Array], Array]:
        exponents = self.fit.exponents()
        if name in self.fit.law.parameters():
            return lambda theta: getattr(self.fit.problem.family(theta), name)
        if name in exponents:
            return self._of_each(lambda law: self.fit.exponents_of(law)[name])
        raise ValueError(f"no parameter or exponent {name!r}; there are {', '.join([*self.fit.free, *exponents])}")

    def _of_each(self, quantity: Callable[[Law], float]) -> Callable[[Array], Array]:
        return lambda theta: np.array([quantity(law) for law in self.fit.problem.laws(theta)], dtype=float)

    def __call__(self, theta: Array) -> tuple[Array, Array]:
        count = theta.shape[1]
        shift = STEP * np.eye(count)
        all_ = np.concatenate([theta[:, None], theta[:, None] + shift, theta[:, None] - shift], axis=1)
        values = self.of(all_.reshape(-1, count)).reshape(len(theta), -1)
        return values[:, 0], (values[:, 1 : 1 + count] - values[:, 1 + count :]) / (2 * STEP)


def _spread(fit: Fit, residual: Array) -> float:
    """Variance of psi over the share of inliers: what a unit of objective is worth."""
    weights = fit.weights
    psi = np.clip(residual, -fit.deltas, fit.deltas)
    inliers = np.sum(weights * (np.abs(residual) <= fit.deltas)) / np.sum(weights)
    used = max(int(np.sum(weights > 0)) - len(fit.free), 1)
    return float(np.sum(weights * psi**2) / used / max(inliers, 1e-3)) + 1e-300


def _walk(fit: Fit, measure: Any, targets: Array, stiffness: float) -> Array:
    """Coordinates of the anchored optimum at every target, walking outwards so that each starts from its neighbour."""
    middle = len(targets) // 2
    theta = np.repeat(fit.theta[None], len(targets), axis=0)
    for offset in range(1, middle + 1):
        pair = np.array([i for i in (middle - offset, middle + offset) if 0 <= i < len(targets)])
        inner = np.where(pair < middle, pair + 1, pair - 1)
        anchor = Anchor(measure, targets[pair], np.full(len(pair), 30.0 * stiffness))
        solved = minimise(
            fit.problem,
            theta[inner],
            delta=fit.deltas,
            weights=fit.weights,
            anchor=anchor,
            tolerance=1e-9,
            max_steps=60,
        )
        theta[pair] = solved.theta
    return theta


def _crossing(frame: pd.DataFrame, centre: float, cut: float, side: int) -> float:
    """Where the rise passes the cut for good, going out from the estimate; infinite if it never does."""
    value, rise = frame["value"].to_numpy(), frame["rise"].to_numpy()
    keep = (value - centre) * side >= 0
    distance, rise = np.abs(value[keep] - centre), rise[keep]
    order = np.argsort(distance, kind="stable")
    distance, signed = distance[order], np.sqrt(rise[order])
    # The outermost point below the cut counts, so that a dip beyond a first crossing is not cut off.
    below = np.flatnonzero(signed < np.sqrt(cut))
    last = int(below[-1]) if len(below) else -1
    if last + 1 == len(signed):
        return side * np.inf
    if last < 0:
        return centre
    # The square root of the rise is nearly linear in the quantity: interpolate there.
    share = (np.sqrt(cut) - signed[last]) / (signed[last + 1] - signed[last])
    return centre + side * float(distance[last] + share * (distance[last + 1] - distance[last]))
