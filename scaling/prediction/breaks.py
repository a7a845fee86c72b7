"""Exponents that change: what a table says of a break in the power law of size or of data, and what follows far out.

A law with one exponent for all sizes may hold inside a table and not beyond. So every law is joined by itself with a
break: above a place x0 the exponent of N (or of D) is 1 - c times what it was, as if size were counted as
N (N/x0)^-c. Places lie evenly over the data up to their end; c has a normal prior with the scatter of published
exponents, and the prior odds of any break are even. The posterior of each is Laplace's, with the other parameters
refitted. Forecasts and best sizes are averaged over it, so that one posterior widens both: little where the data object
to a break, and by all that it may be where they show one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from isoflop.scaling.fitting.fit import EXACT_NOISE, Fit, law_inputs
from isoflop.scaling.fitting.noise_model import NoiseModel, clipped, noise_model, orthonormal
from isoflop.scaling.laws.law import Array, Law
from isoflop.scaling.laws.published import exponent_drift
from isoflop.scaling.selection.averaging import Forecast

PRIOR = 0.5  # probability of a break, shared evenly by the inputs and the places of each
CHANGE = 4 * exponent_drift().sd  # sd of c: near a = 1/2, an exponent that is 1 - c times as large moves a by c/4
PLACES = {"N": 12, "D": 4}  # at most, along each input; the exponent of N decides the best size far out
FEWEST = 5  # distinct values, to look for a break
NEGLIGIBLE = 0.01  # weight of a law below which its breaks are not looked for
LEAST = 2e-3  # probability of a break that has a part in a forecast
STEPS, ENOUGH = 25, 1e-2  # of the search, and the decrease of -2 ln posterior that ends it where no step promises more
LIGHT = 1e-3  # damping of the first step
DIFFERENCE = 1e-5  # of c, for the derivative of the residuals
FAR = 3.0  # standard deviations of noise from the law beyond which a row counts for less
DIRECTIONS = 4  # in which breaks move the residuals, that are taken out before the noise is estimated
SHIFTS = (0.0, 1.0, -1.0)  # of c, in standard deviations, at which a forecast is made


@dataclass(frozen=True)
class Broken:
    """A law, its parameters arrays (K,), with breaks (K,): its exponent is 1 - `change` times as large above a place.

    `on_size` says whether of N, `place` is ln x0. Called like the law, with arrays (..., K).
    """

    law: Law
    on_size: Array
    place: Array
    change: Array

    @property
    def inputs(self) -> tuple[str, ...]:
        """Those of the law."""
        return self.law.inputs

    def __call__(self, N: Any, D: Any, *others: Any) -> Any:
        size = np.where(self.on_size, self._worth(N), N)
        data = np.where(self.on_size, D, self._worth(D))
        return self.law(size, data, *others)

    def _worth(self, x: Any) -> Any:
        far = np.log(x) - self.place
        return x * np.exp(np.where(np.real(far) > 0, -self.change * far, 0.0))


@dataclass(frozen=True)
class Breaks:
    """The breaks (K,) tried on one fit, as in `Broken`, and what the data say of each.

    `change` is the mode of c and `error` its posterior sd; `theta` (K, P) are the law's coordinates at that mode and
    `along` (K, P) how they move with c; `odds` is the posterior probability of each, and `straight` that of none.
    """

    fit: Fit
    on_size: Array
    place: Array
    change: Array
    error: Array
    theta: Array
    along: Array
    odds: Array
    straight: float

    def laws(self) -> Broken:
        """The broken laws at all SHIFTS of c, one after the other, the other parameters moving with it."""
        problem = self.fit.problem
        moves = [shift * self.error for shift in SHIFTS]
        theta = np.concatenate([self.theta + move[:, None] * self.along for move in moves])
        many = len(SHIFTS)
        return Broken(
            problem.family(np.clip(theta, problem.lower, problem.upper)), np.tile(self.on_size, many),
            np.tile(self.place, many), np.concatenate([self.change + move for move in moves]),
        )  # fmt: skip

    def forecasts(self, straight: Forecast, values: Array) -> tuple[list[Forecast], list[float]]:
        """A forecast of n quantities without a break and with each, and their probabilities.

        `values` (n, SHIFTS x K) are the quantities under `laws`; where one is not finite the break is left out.
        """
        middle, up, down = np.split(values, len(SHIFTS), axis=1)
        known = np.flatnonzero(np.isfinite(values).reshape(len(values), len(SHIFTS), -1).all(axis=(0, 1)))
        sd = np.hypot(np.reshape(straight.sd, (-1, 1)), 0.5 * (up - down))
        made = [straight, *(Forecast(middle[:, k], sd[:, k], straight.freedom) for k in known)]
        odds = np.array([self.straight, *self.odds[known]])
        return made, (odds / odds.sum()).tolist()


def breaks(fit: Fit) -> Breaks | None:
    """The likely breaks of a fit, kept with it; None without any, as where a law reads more than size and tokens."""
    if "breaks" not in fit.__dict__:
        fit.__dict__["breaks"] = _breaks(fit)
    return fit.__dict__["breaks"]


def runs_with_breaks(
    fits: Mapping[str, Fit], weights: Mapping[str, float], straight: Mapping[str, Forecast], frame: pd.DataFrame
) -> tuple[list[Forecast], list[float]]:
    """Forecasts of the runs of a frame by every law, straight as given and with each likely break; their weights."""
    forecasts, share = [], []
    for law, alone in straight.items():
        found = breaks(fits[law]) if weights[law] >= NEGLIGIBLE else None
        made, odds = [alone], [1.0]
        if found is not None:
            columns = [column[:, None] for column in law_inputs(type(fits[law].law), frame).values()]
            with np.errstate(all="ignore"):
                made, odds = found.forecasts(alone, np.log(found.laws()(*columns)))
        forecasts += made
        share += [weights[law] * p for p in odds]
    return forecasts, share


def _breaks(fit: Fit) -> Breaks | None:
    problem, noise = fit.problem, fit.noise
    if tuple(problem.form.inputs) not in (("N", "D"), ("N", "D", "U")) or not problem.log or noise < EXACT_NOISE:
        return None
    names = ("N",) if "U" in problem.columns else ("N", "D")  # tokens that repeat are not counted anew
    tried = {k: _places(problem.x[k], PLACES[k]) for k in names}
    if not all(map(len, tried.values())) or len(problem.loss) <= len(fit.free) + DIRECTIONS + 1:
        return None
    on_size = np.repeat([k == "N" for k in names], [len(tried[k]) for k in names])
    prior = np.concatenate([np.full(len(at), PRIOR / len(names) / len(at)) for at in tried.values()])
    place = np.concatenate(list(tried.values()))
    theta, change, error, along, gain = _modes(fit, noise, on_size, place)
    odds = prior * np.exp(gain - max(gain.max(), 0.0))
    straight = (1 - PRIOR) * np.exp(-max(gain.max(), 0.0))
    odds, straight = odds / (odds.sum() + straight), straight / (odds.sum() + straight)
    unit = np.where(on_size, np.log(problem.units.get("N", 1.0)), np.log(problem.units.get("D", 1.0)))
    kept = odds >= LEAST
    if not kept.any():
        return None
    return Breaks(
        fit, on_size[kept], (place + unit)[kept], change[kept], error[kept], theta[kept], along[kept], odds[kept],
        float(straight),
    )  # fmt: skip


def _places(x: Array, most: int) -> Array:
    """Where a break is tried along ln of an input: evenly over the data, the last of them at their end."""
    values = np.unique(x.round(6))
    return np.linspace(values[1], values[-1], min(most, len(values) - 1)) if len(values) >= FEWEST else np.zeros(0)


def _modes(fit: Fit, noise: float, on_size: Array, place: Array) -> tuple[Array, Array, Array, Array, Array]:
    """Of every break (K,) the mode (theta, c), the posterior sd of c, how theta moves with it, and ln of its Bayes
    factor against none, by damped Gauss-Newton steps that all breaks take together."""
    rows, free = _Rows.of(fit, noise, on_size, place), len(fit.free)
    lower, upper = np.append(fit.problem.lower, -np.inf), np.append(fit.problem.upper, np.inf)
    point = np.column_stack([np.repeat(fit.theta[None], len(place), axis=0), np.zeros(len(place))])
    pull = np.append(np.zeros(free), CHANGE**-2)
    residual, gradient = rows.residuals(point)
    value = none = 0.5 * np.sum(residual**2, axis=1)
    damping = np.full(len(place), LIGHT)
    for _ in range(STEPS):
        hessian = gradient @ gradient.swapaxes(1, 2) + np.diag(pull)
        slope = (gradient @ residual[..., None])[..., 0] + pull * point
        damped = hessian + (damping[:, None] * np.diagonal(hessian, axis1=1, axis2=2))[..., None] * np.eye(free + 1)
        moved = np.clip(point - np.linalg.solve(damped, slope[..., None])[..., 0], lower, upper)
        if np.all(np.sum(slope * (point - moved), axis=1) < ENOUGH):
            break
        there, slopes = rows.residuals(moved)
        reached = 0.5 * np.sum(there**2, axis=1) + 0.5 * np.sum(pull * moved**2, axis=1)
        better = reached < value
        point = np.where(better[:, None], moved, point)
        residual = np.where(better[:, None], there, residual)
        gradient = np.where(better[:, None, None], slopes, gradient)
        value, damping = np.where(better, reached, value), damping * np.where(better, 0.2, 5.0)
    covariance = np.linalg.pinv(gradient @ gradient.swapaxes(1, 2) + np.diag(pull), rcond=1e-12, hermitian=True)
    error = np.sqrt(covariance[:, -1, -1])
    least = np.finfo(float).tiny  # of exact data nothing is left for a break to take up
    ratio = np.maximum(none, least) / np.maximum(value, least)
    with np.errstate(divide="ignore", invalid="ignore"):  # a break whose change is not identified has no odds
        gain = 0.5 * (len(fit.points) - free) * np.log(ratio) + np.log(error / CHANGE)
        return point[:, :-1], point[:, -1], error, covariance[:, :-1, -1] / error[:, None] ** 2, gain


@dataclass(frozen=True)
class _Rows:
    """The rows of a fit under breaks (K,): `above` (K, n) is how far ln of the input lies beyond the place, `sd` the
    noise of ln loss at a row where the model of it says 1."""

    fit: Fit
    noise: NoiseModel
    sd: float
    on_size: Array
    above: Array

    @classmethod
    def of(cls, fit: Fit, noise: float, on_size: Array, place: Array) -> "_Rows":
        """With the noise of what neither the law nor a break takes up: a break looks like noise that trunks share."""
        frame, gradient = fit.points.frame, fit.problem.residuals(fit.theta[None])[1][0]
        label = np.unique(frame["cluster"].astype(str), return_inverse=True)[1]
        left = -fit.problem.residuals(fit.theta[None])[0][0]
        far = np.maximum(np.abs(left) / (FAR * noise * fit.spread), 1.0)
        weights = np.maximum(fit.weights / far, 1e-9 * fit.weights.max())
        even = NoiseModel(np.sqrt(weights.mean() / weights), 0.0, label)
        x = np.where(on_size[:, None], fit.problem.x["N"], fit.problem.x["D"])
        rows = cls(fit, even, 1.0, on_size, np.maximum(x - place[:, None], 0.0))
        bent = rows.by_change(np.repeat(fit.theta[None], len(place), axis=0), np.zeros((len(place), 1)))
        columns = np.column_stack([gradient.T, np.linalg.svd(bent.T, full_matrices=False)[0][:, :DIRECTIONS]])
        residual = clipped(left, even.sd, len(fit.free))
        model = noise_model(residual, columns, np.zeros(len(frame)), weights, label)  # weights know how it falls
        white = model.whiten(np.column_stack([residual, columns]))
        known, _ = orthonormal(white[:, 1:])
        left = white[:, 0] - known @ (known.T @ white[:, 0])
        sd = float(np.sqrt(left @ left / max(len(left) - known.shape[1], 1)))
        return cls(fit, model, max(sd, EXACT_NOISE), on_size, rows.above)

    def residuals(self, point: Array) -> tuple[Array, Array]:
        """Residuals (K, n) in standard deviations of noise, and their gradient (K, P + 1, n) in (theta, c)."""
        theta, change = point[:, :-1], point[:, -1:]
        log_loss, gradient = self._at(theta, change)
        whole = np.concatenate([gradient, self.by_change(theta, change, log_loss)[:, None]], axis=1)
        return self._white(log_loss - self.fit.problem.log_loss), self._white(whole)

    def by_change(self, theta: Array, change: Array, log_loss: Array | None = None) -> Array:
        """The derivative (K, n) of ln loss in c."""
        here = self._at(theta, change)[0] if log_loss is None else log_loss
        return (self._at(theta, change + DIFFERENCE)[0] - here) / DIFFERENCE

    def _at(self, theta: Array, change: Array) -> tuple[Array, Array]:
        """ln loss (K, n) and its gradient (K, P, n) in theta."""
        problem, less, x = self.fit.problem, change * self.above, self.fit.problem.x
        of_size = self.on_size[:, None]
        columns = dict(x) | {"N": x["N"] - np.where(of_size, less, 0.0), "D": x["D"] - np.where(of_size, 0.0, less)}
        loss, full = problem.form.evaluate(problem.expand(theta), columns)
        with np.errstate(all="ignore"):  # a trial far off may have no positive loss: it is not taken
            return np.log(loss), problem.gathered(full / loss[:, None])

    def _white(self, values: Array) -> Array:
        flat = self.noise.whiten(values.reshape(-1, values.shape[-1]).T).T
        return flat.reshape(values.shape) / self.sd
