"""Exponents that change: what a table says of a break in the power law of size or of data, and what follows far out.

A law with one exponent for all sizes may hold inside a table and not beyond. So every law is joined by itself with a
break: above a place x0 the exponent of N (or of D) is 1 - c times what it was, as if size were counted as
N (N/x0)^-c; or the exponent of D drifts with size, by the factor (N/N0)^-c around the middle of the data (as the
surface of Farseer, 2506.10972, has it), where D is counted from a pivot. Places and pivots lie evenly along the data; c
has a normal prior with the scatter of published exponents, and a break is taken to be twice as likely as none. The
posterior of each is Laplace's, with the other parameters refitted. Forecasts and best sizes are averaged over it, so
that one posterior widens both: little where the data object to a break, and by all that it may be where they show one.

Laws are weighed with their breaks too: one that needs a break to fit, and one that fits without, count by what the runs
say of them with all their breaks (`probabilities`). The odds of the breaks of one law are Laplace's, of noise that its
trunks may share; between laws, whose noise differs, they are by BIC on one scale.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from isoflop.scaling.fitting.fit import EXACT_NOISE, Fit
from isoflop.scaling.fitting.noise_model import NoiseModel, clipped, noise_model, orthonormal
from isoflop.scaling.fitting.objective import huber
from isoflop.scaling.fitting.problem import law_inputs
from isoflop.scaling.laws.law import Array, Law
from isoflop.scaling.laws.published import exponent_drift
from isoflop.scaling.selection.averaging import Forecast, softmax

PRIOR = 2 / 3  # probability of a break, shared evenly by the kinds and the places of each
CHANGE = 4 * exponent_drift().sd  # sd of c: near a = 1/2, an exponent that is 1 - c times as large moves a by c/4
SIZE, DATA, DRIFT = "size", "data", "drift"  # kinds of breaks: the exponent of N, that of D, that of D with the size
PLACES = 24  # along each input: closer than the sizes of a sweep, as a break may lie between two
PIVOTS = (-0.5, 0.0, 0.5)  # of a drift, from the least tokens on, in spans of ln D
FEWEST = 5  # distinct values, to look for a break
LEAST = 2e-3  # probability of a break that has a part in a forecast
STEPS, ENOUGH = 25, 1e-2  # of the search, and the decrease of -2 ln posterior that ends it where no step promises more
LIGHT, TINY = 1e-3, 1e-12  # damping of the first step, and the least
DIFFERENCE = 1e-5  # of c, for the derivative of the residuals
FAR = 3.0  # standard deviations of noise from the law beyond which a row counts for less
DIRECTIONS = 4  # in which breaks move the residuals, that are taken out before the noise is estimated
HELD = 1e-3  # of its posterior sd: how closely c is held where the other parameters are fitted at a shift of it
SHIFTS = (0.0, 1.0, -1.0)  # of c, in standard deviations, at which a forecast is made


@dataclass(frozen=True)
class Broken:
    """A law, its parameters arrays (K,), with breaks (K,) by `change`, the c of each. Called like it, arrays (..., K).

    `place` is ln of where the exponent breaks, or of the tokens from which a drift counts; `middle` ln of the size
    around which exponents drift.
    """

    law: Law
    kind: Array
    place: Array
    change: Array
    middle: float

    @property
    def inputs(self) -> tuple[str, ...]:
        """Those of the law."""
        return self.law.inputs

    def __call__(self, N: Any, D: Any, *others: Any) -> Any:
        size, data = worth(np.log(N), np.log(D), self.kind, self.place, self.change, self.middle)
        return self.law(np.exp(size), np.exp(data), *others)


def worth(size: Any, data: Any, kind: Array, place: Array, change: Array, middle: float) -> tuple[Any, Any]:
    """ln of the size and of the tokens that count, given ln of N and of D; the arrays broadcast together."""
    past_size, past_data = (np.where(np.real(x) > place, x - place, 0.0) for x in (size, data))
    drifted = (data - place) * np.expm1(-change * (size - middle))
    return (
        size - np.where(kind == SIZE, change * past_size, 0.0),
        data - np.where(kind == DATA, change * past_data, 0.0) + np.where(kind == DRIFT, drifted, 0.0),
    )


@dataclass(frozen=True)
class Breaks:
    """The breaks (K,) tried on one fit, as in `Broken`, and what the data say of each.

    `change` is the mode of c and `error` its posterior sd; `theta` (SHIFTS, K, P) are the law's coordinates that fit
    best at each shift of c; `odds` is the posterior probability of each, and `straight` that of none. Those
    that hardly count are left out; `prior` (T,) and `missed` (T, n), ln predicted less ln loss, are of every one tried.
    """

    fit: Fit
    kind: Array
    place: Array
    change: Array
    error: Array
    theta: Array
    odds: Array
    straight: float
    middle: float
    prior: Array
    missed: Array

    def laws(self) -> Broken:
        """The broken laws at all SHIFTS of c, one after the other, the other parameters fitted again at each."""
        many = len(SHIFTS)
        with np.errstate(over="ignore"):  # parameters beyond floating point: its values are not finite, and left out
            law = self.fit.problem.family(np.concatenate(self.theta))
        return Broken(
            law, np.tile(self.kind, many), np.tile(self.place, many),
            np.concatenate([self.change + shift * self.error for shift in SHIFTS]), self.middle,
        )  # fmt: skip

    def forecasts(self, straight: Forecast, values: Array) -> tuple[list[Forecast], list[float]]:
        """A forecast of n quantities without a break and with each, and their probabilities.

        `values` (n, SHIFTS x K) are the quantities under `laws`; where one is not finite the break is left out.
        """
        known = np.flatnonzero(np.isfinite(values).reshape(len(values), len(SHIFTS), -1).all(axis=(0, 1)))
        middle, up, down = (part[:, known] for part in np.split(values, len(SHIFTS), axis=1))
        sd = np.hypot(np.reshape(straight.sd, (-1, 1)), 0.5 * (up - down))
        made = [straight, *(Forecast(*both, straight.freedom) for both in zip(middle.T, sd.T, strict=True))]
        odds = np.array([self.straight, *self.odds[known]])
        return made, (odds / odds.sum()).tolist()


def breaks(fit: Fit) -> Breaks | None:
    """The breaks of a fit, kept with it; None where none can be looked for, as where a law reads other columns."""
    if "breaks" not in fit.__dict__:
        with np.errstate(all="ignore"):  # a trial far off may have no positive loss, or none at all: it is not taken
            fit.__dict__["breaks"] = _breaks(fit)
    return fit.__dict__["breaks"]


def probabilities(fits: Mapping[str, Fit]) -> dict[str, float]:
    """The posterior probability of each of some laws fitted to the same runs, straight or broken; they sum to 1.

    Forecasts of held-out runs choose a law to quote, but know nothing of breaks: weighed by them, a law that no break
    could mend kept its share of a forecast, and one that a break mends did not gain.
    """
    delta = min((fitted.delta for fitted in fits.values()), default=np.inf)
    evidence = np.array([_evidence(fitted, delta) for fitted in fits.values()])
    if not np.isfinite(evidence).any():  # no law gives these runs a loss
        return dict.fromkeys(fits, 1.0 / len(fits))
    return dict(zip(fits, softmax(evidence).tolist(), strict=True))


def _evidence(fit: Fit, delta: float) -> float:
    """ln of the evidence of a law with its breaks, less what laws of the same runs share.

    By BIC (Schwarz 1978) from Huber's sum at `delta`, which all laws share, with clusters for observations; weights
    count as the noise that they state.
    """
    found, clusters = breaks(fit), fit.n_clusters
    missed, prior = fit.residuals[None], np.ones(1)
    if found is not None:
        missed, prior = np.concatenate([missed, found.missed]), np.append(1 - PRIOR, found.prior)
    with np.errstate(over="ignore", invalid="ignore"):  # a break whose loss is beyond floating point
        mean = 2 * huber(missed, fit.weights, delta * fit.spread) / len(fit.points)
    mean = np.maximum(np.where(np.isfinite(mean), mean, np.inf), EXACT_NOISE**2)
    stated = float(np.mean(np.log(fit.weights[fit.weights > 0])))
    free = len(fit.free) + 1 + (np.arange(len(prior)) > 0)
    score = np.log(prior) - 0.5 * (clusters * (np.log(mean) - stated) + free * np.log(clusters))
    return float(np.logaddexp.reduce(score))


def runs_with_breaks(
    fits: Mapping[str, Fit], weights: Mapping[str, float], straight: Mapping[str, Forecast], frame: pd.DataFrame
) -> tuple[list[Forecast], list[float]]:
    """Forecasts of the runs of a frame by every law, straight as given and with each likely break; their weights."""
    forecasts, share = [], []
    for law, alone in straight.items():
        found = breaks(fits[law])
        made, odds = [alone], [1.0]
        if found is not None and len(found.place):
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
    tried = _tried(problem.x)
    if not all(map(len, tried.values())) or len(problem.loss) <= len(fit.free) + DIRECTIONS + 1:
        return None
    kind = np.repeat(list(tried), list(map(len, tried.values())))
    prior = np.concatenate([np.full(len(at), PRIOR / len(tried) / len(at)) for at in tried.values()])
    place = np.concatenate(list(tried.values()))
    rows = _Rows.of(fit, noise, kind, place)
    found = _modes(rows)
    most = max(found.gain.max(), 0.0)
    odds, straight = prior * np.exp(found.gain - most), (1 - PRIOR) * np.exp(-most)
    odds, straight = odds / (odds.sum() + straight), straight / (odds.sum() + straight)
    kept = odds >= LEAST
    point, error = found.point[kept], found.error[kept]
    theta = _along(replace(rows, kind=kind[kept], place=place[kept]), point, error, found.along[kept])
    units = {name: np.log(problem.units.get(name, 1.0)) for name in ("N", "D")}
    place = place + np.where(kind == SIZE, units["N"], units["D"])
    return Breaks(
        fit, kind[kept], place[kept], point[:, -1], error, theta, odds[kept], float(straight),
        float(problem.x["N"].mean() + units["N"]), prior, found.missed,
    )  # fmt: skip


def _tried(x: Mapping[str, Array]) -> dict[str, Array]:
    """Where breaks of each kind are tried, along ln of its input; tokens that repeat are not counted anew."""
    tried = {SIZE: _places(x["N"])}
    if "U" in x:
        return tried
    return tried | {DATA: _places(x["D"]), DRIFT: x["D"].min() + np.array(PIVOTS) * np.ptp(x["D"])}


def _places(x: Array) -> Array:
    """Where a break is tried along ln of an input: evenly over the data, the last of them at their end."""
    values = np.unique(x.round(6))
    return np.linspace(values[1], values[-1], PLACES) if len(values) >= FEWEST else np.zeros(0)


@dataclass(frozen=True)
class _Modes:
    """Of every break (K,): the mode `point` (K, P + 1) of (theta, c), the posterior sd of c, how theta moves with it
    (K, P), ln of its Bayes factor against none, and ln predicted less ln loss at the mode (K, n)."""

    point: Array
    error: Array
    along: Array
    gain: Array
    missed: Array


def _modes(rows: "_Rows") -> _Modes:
    """The modes of all breaks, from the law without any."""
    problem, free = rows.fit.problem, len(rows.fit.free)
    scale = np.where(rows.kind == DRIFT, CHANGE / np.ptp(problem.x["N"]), CHANGE)  # a drift is by e-folds of size
    start = np.column_stack([np.repeat(rows.fit.theta[None], len(scale), axis=0), np.zeros(len(scale))])
    none = 0.5 * np.sum(rows.residuals(start)[0] ** 2, axis=1)
    point, value, gradient = _descend(rows, start, np.zeros(len(scale)), scale)
    hessian = gradient @ gradient.swapaxes(1, 2)
    hessian[:, -1, -1] += scale**-2.0
    covariance = np.linalg.pinv(hessian, rcond=1e-12, hermitian=True)
    error = np.sqrt(covariance[:, -1, -1])
    least = np.finfo(float).tiny  # of exact data nothing is left for a break to take up
    ratio = np.maximum(none, least) / np.maximum(value, least)
    gain = 0.5 * (len(rows.fit.points) - free) * np.log(ratio) + np.log(error / scale)
    along = covariance[:, :-1, -1] / error[:, None] ** 2
    gain = np.where(np.isnan(gain), -np.inf, gain)  # a break whose change is not identified has no odds
    missed = rows.log_loss(point[:, :-1], point[:, -1:])[0] - problem.log_loss
    return _Modes(point, error, along, gain, missed)


def _along(rows: "_Rows", point: Array, error: Array, along: Array) -> Array:
    """The coordinates (SHIFTS, K, P) that fit best at each shift of c, from their tangent at the mode on."""
    if not len(point):
        return np.zeros((len(SHIFTS), *point[:, :-1].shape))
    found: list[Array] = []
    for shift in SHIFTS:
        c = point[:, -1] + shift * error
        tangent = np.column_stack([point[:, :-1] + (shift * error)[:, None] * along, c])
        found.append(_descend(rows, tangent, c, HELD * error)[0][:, :-1] if shift else point[:, :-1])
    return np.stack(found)


def _descend(rows: "_Rows", start: Array, centre: Array, scale: Array) -> tuple[Array, Array, Array]:
    """From points (K, P + 1) of (theta, c) to the modes, c being normal about `centre` with sd `scale`, (K,) each.

    Damped Gauss-Newton steps that all breaks take together. Returns the points, -ln of their posterior and the
    gradient (K, P + 1, n) of the residuals there.
    """
    problem, size = rows.fit.problem, start.shape[1]
    lower, upper = np.append(problem.lower, -np.inf), np.append(problem.upper, np.inf)
    pull, middle = np.zeros(start.shape), np.zeros(start.shape)
    pull[:, -1], middle[:, -1] = scale**-2.0, centre
    point = np.clip(start, lower, upper)
    residual, gradient = rows.residuals(point)
    value = 0.5 * np.sum(residual**2, axis=1) + 0.5 * np.sum(pull * (point - middle) ** 2, axis=1)
    damping = np.full(len(point), LIGHT)
    for _ in range(STEPS):
        hessian = gradient @ gradient.swapaxes(1, 2) + pull[:, None] * np.eye(size)
        slope = (gradient @ residual[..., None])[..., 0] + pull * (point - middle)
        diagonal = np.diagonal(hessian, axis1=1, axis2=2)
        unit = np.sqrt(np.maximum(diagonal, TINY * diagonal.max(axis=1, keepdims=True)))
        damped = hessian / (unit[:, :, None] * unit[:, None]) + (damping + TINY)[:, None, None] * np.eye(size)
        moved = np.clip(point - np.linalg.solve(damped, (slope / unit)[..., None])[..., 0] / unit, lower, upper)
        if np.all(np.sum(slope * (point - moved), axis=1) < ENOUGH):
            break
        there, slopes = rows.residuals(moved)
        reached = 0.5 * np.sum(there**2, axis=1) + 0.5 * np.sum(pull * (moved - middle) ** 2, axis=1)
        better = (reached < value) & np.isfinite(slopes).all(axis=(1, 2))
        point = np.where(better[:, None], moved, point)
        residual = np.where(better[:, None], there, residual)
        gradient = np.where(better[:, None, None], slopes, gradient)
        value, damping = np.where(better, reached, value), damping * np.where(better, 0.2, 5.0)
    return point, value, gradient


@dataclass(frozen=True)
class _Rows:
    """The rows of a fit under breaks (K,); `sd` is the noise of ln loss at a row where the model of it says 1."""

    fit: Fit
    noise: NoiseModel
    sd: float
    kind: Array
    place: Array

    @classmethod
    def of(cls, fit: Fit, noise: float, kind: Array, place: Array) -> "_Rows":
        """With the noise of what neither the law nor a break takes up: a break looks like noise that trunks share."""
        frame, gradient = fit.points.frame, fit.problem.residuals(fit.theta[None])[1][0]
        label = np.unique(frame["cluster"].astype(str), return_inverse=True)[1]
        left = -fit.problem.residuals(fit.theta[None])[0][0]
        far = np.maximum(np.abs(left) / (FAR * noise * fit.spread), 1.0)
        weights = np.maximum(fit.weights / far, 1e-9 * fit.weights.max())
        even = NoiseModel(np.sqrt(weights.mean() / weights), 0.0, label)
        rows = cls(fit, even, 1.0, kind, place)
        bent = rows.by_change(np.repeat(fit.theta[None], len(place), axis=0), np.zeros((len(place), 1)))
        columns = np.column_stack([gradient.T, np.linalg.svd(bent.T, full_matrices=False)[0][:, :DIRECTIONS]])
        residual = clipped(left, even.sd, len(fit.free))
        model = noise_model(residual, columns, np.zeros(len(frame)), weights, label)  # weights know how it falls
        white = model.whiten(np.column_stack([residual, columns]))
        known, _ = orthonormal(white[:, 1:])
        left = white[:, 0] - known @ (known.T @ white[:, 0])
        sd = float(np.sqrt(left @ left / max(len(left) - known.shape[1], 1)))
        return cls(fit, model, max(sd, EXACT_NOISE), kind, place)

    def residuals(self, point: Array) -> tuple[Array, Array]:
        """Residuals (K, n) in standard deviations of noise, and their gradient (K, P + 1, n) in (theta, c)."""
        theta, change = point[:, :-1], point[:, -1:]
        log_loss, gradient = self.log_loss(theta, change)
        whole = np.concatenate([gradient, self.by_change(theta, change, log_loss)[:, None]], axis=1)
        return self._white(log_loss - self.fit.problem.log_loss), self._white(whole)

    def by_change(self, theta: Array, change: Array, log_loss: Array | None = None) -> Array:
        """The derivative (K, n) of ln loss in c."""
        here = self.log_loss(theta, change)[0] if log_loss is None else log_loss
        return (self.log_loss(theta, change + DIFFERENCE)[0] - here) / DIFFERENCE

    def log_loss(self, theta: Array, change: Array) -> tuple[Array, Array]:
        """ln loss (K, n) and its gradient (K, P, n) in theta."""
        problem, x = self.fit.problem, self.fit.problem.x
        size, data = worth(x["N"], x["D"], self.kind[:, None], self.place[:, None], change, x["N"].mean())
        columns = dict(x) | {"N": size, "D": data}
        loss, full = problem.form.evaluate(problem.expand(theta), columns)
        return np.log(loss), problem.gathered(full / loss[:, None])

    def _white(self, values: Array) -> Array:
        flat = self.noise.whiten(values.reshape(-1, values.shape[-1]).T).T
        return flat.reshape(values.shape) / self.sd
