"""Departures of the data from a fitted law, each a direction that residuals of ln loss would lean to, tested together.

The statistic of a direction is its t in the regression of the residuals on the law's own derivatives and that column,
under noise that may fall with size and be shared by clusters (`noise_model`). One level holds for all directions: the p
of each over its weight is held against the smallest of all under the law (single-step min-p, Westfall and Young 1993).
The weights give most of the level to the faults that are hard to see: a law whose kappa is not 1 needs little of it.

Level and power, and the most power that any test of that level could have: docs/calibration.md.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from isoflop.scaling.approaches.isoflop_profiles import budget_groups
from isoflop.scaling.findings.finding import Case
from isoflop.scaling.fitting.fit import predict_loss
from isoflop.scaling.fitting.noise_model import NoiseModel, clipped, noise_model, orthonormal
from isoflop.scaling.laws.inputs import STANDARD, Column
from isoflop.scaling.laws.law import Array
from isoflop.scaling.laws.special_functions import stdtr
from isoflop.scaling.table.law_inputs import unlike

LEVEL = 0.08  # of all departures together: the share of studies without a fault in which one is named
FREEDOM = 4  # degrees of freedom that must be left
SMALLEST = 3  # sizes that may be mistuned, or a fifth of them where there are many
FEWEST_SIZES = 6  # to look at the smallest of them
DRAWS = 4000  # of the smallest p
STEP = 1e-4  # of ln N and ln D, for the slope of the law


@dataclass(frozen=True)
class Departure:
    """One direction: the code of its Finding, a name, the column (n,), and whether only a raised loss counts.

    `weight` is its part of the level, of which only ratios matter.
    """

    code: str
    name: str
    column: Array
    raised: bool = False
    weight: float = 1.0


@dataclass(frozen=True)
class Tested:
    """A departure's size (in its column's unit), t, and p corrected for the number of departures."""

    departure: Departure
    size: float
    t: float
    p: float


@dataclass(frozen=True)
class Departures:
    """The tests of every departure that a table can show, and the noise model that they were made under."""

    tested: tuple[Tested, ...]
    noise: NoiseModel
    residual: Array
    design: Array
    freedom: float

    @cached_property
    def found(self) -> tuple[Tested, ...]:
        """Those whose corrected p is below LEVEL, the surest first."""
        return tuple(sorted((t for t in self.tested if t.p < LEVEL), key=lambda t: t.p))


def departures(case: Case) -> Departures:
    """The tests of a fit; without any where the residuals are rounding errors or too few runs are left to judge by."""
    problem, fit = case.fit.problem, case.fit
    _, gradient, full = (v[0] for v in problem.residuals(fit.theta[None]))
    if not problem.log:
        gradient, full = gradient / fit.predicted, full / fit.predicted
    sized = case.frame["n_params"].notna().all()
    log_n = np.log(case.frame["n_params"].to_numpy(float)) if sized else np.zeros(len(case.frame))
    label = np.unique(case.frame["cluster"].astype(str), return_inverse=True)[1]
    weights = np.where(fit.weights > 0, fit.weights, fit.weights[fit.weights > 0].min())
    known = list(_directions(case, full)) if case.joint and fit.noise > 1e-9 else []
    known += list(_bends(case, unlike(fit.law.reads().values()))) if fit.noise > 1e-9 else []
    known = known[: max(len(log_n) - len(fit.free) - FREEDOM, 0)]
    columns = np.stack([*gradient, *(d.column for d in known)], axis=1)
    residual = clipped(fit.residuals, np.sqrt(weights.mean() / weights), len(fit.free))
    model = noise_model(residual, columns, log_n, weights, label)
    residual = clipped(fit.residuals, model.sd, len(fit.free))
    tested, freedom = _test(known, columns, residual, model, len(fit.free))
    return Departures(tested, model, residual, columns, freedom)


def _directions(case: Case, full: Array) -> Iterator[Departure]:
    """What the table can show, the most telling first."""
    fit, frame = case.fit, case.frame
    names = fit.law.parameters()
    pinned, defaults = fit.problem.pinned, fit.law.defaults()
    for parameter in dict.fromkeys(p for preset in fit.law.presets.values() for p in preset.free):
        if pinned.get(parameter) == defaults[parameter]:
            yield Departure(f"{parameter}_matters", parameter, full[names.index(parameter)], weight=0.3)
    groups = budget_groups(case.points)
    if len(groups) >= 3 and groups[-1]["n_params"].nunique() >= 3:
        largest = frame["flops"].to_numpy() >= groups[-1]["flops"].min()
        yield Departure("hold_out_missed", "largest budget", largest.astype(float), weight=3.0)
    sizes, rank = np.unique(frame["n_params"].to_numpy(float), return_inverse=True)
    if len(sizes) >= FEWEST_SIZES:
        count = max(SMALLEST, len(sizes) // 5)
        yield Departure("residual_trend", "smallest sizes", np.maximum(1 - rank / count, 0.0), True, 3.0)
    yield from _bends(case, [STANDARD["N"], STANDARD["D"]])
    centred = [x - x.mean() for x in (np.log(frame[name].to_numpy(float)) for name in ("n_params", "tokens"))]
    yield Departure("exponents_drift", "ln n_params x ln tokens", centred[0] * centred[1], weight=0.3)


def _bends(case: Case, columns: Iterable[Column]) -> Iterator[Departure]:
    """Exponents that change half-way along an input, for each input of at least 4 values that is read by logarithm."""
    fit, frame = case.fit, case.frame
    for column in columns:
        name = column.name
        x = np.log(frame[name].to_numpy(float)) if column.transform == "log" else np.zeros(0)
        if len(np.unique(x.round(6))) >= 4:
            moved = frame.assign(**{name: frame[name] * np.exp(STEP)})
            with np.errstate(all="ignore"):  # a law that is not positive somewhere has no slope there
                slope = np.log(predict_loss(fit.law, moved) / fit.predicted) / STEP
            if not np.isfinite(slope).all():
                continue
            bend = -slope * np.maximum(x - np.median(np.unique(x)), 0.0)
            yield Departure("residual_trend", f"ln {name}", bend, weight=2.0 if name == "n_params" else 0.5)


def _test(
    known: list[Departure], columns: Array, residual: Array, model: NoiseModel, n_free: int
) -> tuple[tuple[Tested, ...], float]:
    """Each departure with its t and corrected p, and the degrees of freedom."""
    white, y = model.whiten(columns), model.whiten(residual[:, None])[:, 0]
    basis, _ = orthonormal(white[:, :n_free])
    extra = white[:, n_free:] - basis @ (basis.T @ white[:, n_free:])
    norm = np.linalg.norm(extra, axis=0)
    kept = np.flatnonzero(norm > 1e-4 * np.linalg.norm(white[:, n_free:], axis=0))
    both, _ = orthonormal(white)
    freedom = float(len(y) - both.shape[1])
    if model.shared:  # rows of a cluster say little anew
        freedom = min(freedom, max(float(model.label.max() + 1 - n_free), FREEDOM))
    if not len(kept) or freedom < 1:
        return (), freedom
    directions = extra[:, kept] / norm[kept]
    squares = float(y @ y - np.sum((both.T @ y) ** 2)) / max(len(y) - both.shape[1], 1)
    t = directions.T @ y / np.sqrt(max(squares, 1e-300))
    one_sided, weight = (np.array([getattr(known[k], name) for k in kept]) for name in ("raised", "weight"))
    smallest = _smallest(directions.T @ directions, one_sided, weight, freedom)
    seen = _single(t, one_sided, freedom) / weight
    p = (1 + np.sum(smallest[:, None] <= seen, axis=0)) / (1 + DRAWS)
    tested = [
        Tested(known[k], float(directions[:, i] @ y / norm[k]), float(t[i]), float(p[i])) for i, k in enumerate(kept)
    ]
    return tuple(tested), freedom


def _single(t: Array, one_sided: Array, freedom: float) -> Array:
    """p of each t by itself, (..., k)."""
    return np.where(one_sided, 1.0, 2.0) * stdtr(freedom, np.where(one_sided, -t, -np.abs(t)))


def _smallest(correlation: Array, one_sided: Array, weight: Array, freedom: float) -> Array:
    """Draws (DRAWS,) of the smallest p over weight of all directions where none is there."""
    rng = np.random.default_rng(0)
    normal = rng.multivariate_normal(np.zeros(len(correlation)), correlation, size=DRAWS, method="svd")
    t = normal / np.sqrt(rng.chisquare(freedom, DRAWS) / freedom)[:, None]
    return (_single(t, one_sided, freedom) / weight).min(axis=1)
