"""Fit a law to data: `fit(form, table) -> Fit`.

A fit minimises the weighted sum (never the mean) of Huber's function, or of half squares, over residuals of ln loss or
of loss, from many starts, all of which are kept. Nothing here prints, draws or writes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Real
from typing import Any, Literal

import numpy as np
import pandas as pd

from isoflop.answer import Answer
from isoflop.arguments import NOT_NEGATIVE, SEED, check, whole
from isoflop.scaling.fitting.noise_model import falling_power
from isoflop.scaling.fitting.objective import Huber, LeastSquares, Objective, Solution
from isoflop.scaling.fitting.problem import FitError, FitProblem, fit_problem, law_inputs
from isoflop.scaling.fitting.row_weights import (
    checked_weights,
    search_weights,
    spread_of,
    stated_spread,
    typical_weight,
    with_weights,
)
from isoflop.scaling.fitting.search.kept_searches import search_ahead, search_once
from isoflop.scaling.fitting.search.search import Requested, robust_scale
from isoflop.scaling.laws import columns_read
from isoflop.scaling.laws.cost import Cost
from isoflop.scaling.laws.law import Allocation, Array, Law
from isoflop.scaling.table.conventions import FORECAST_ERROR, Points, counted_by, is_measured, points
from isoflop.scaling.table.formats.data_frame import as_frame
from isoflop.scaling.table.json_plain import plain

__all__ = ["Fit", "FitError", "Huber", "LeastSquares", "fit", "predict_loss", "robust_scale"]

EXACT_NOISE = 1e-9  # of ln loss: below, the data lie on the law
SAME_BASIN = 1e-9  # relative difference of the objective between starts that found the same optimum


@dataclass(frozen=True, repr=False, eq=False)
class Fit(Answer):
    """A fitted law with everything needed to judge it.

    `value` is the objective, a sum in squared residual units, `delta` that of Huber (infinite for least squares).
    `starts` has a row per start: its value, whether it converged, and the parameters where it ended. `weights` (n,)
    belong to the rows of `points.frame`; `theta` (P,) are the coordinates of the law in `problem`, one per parameter
    in `free`. `bounds_hit` names the parameters that ended at the bound of their search box. `falls` is the power of N
    that the noise falls with, as the fit assumes: `weights` are then those of the table over its square. `typical` is
    the weight of a row whose noise `noise` is, where weights differ; see `typical_weight`.
    """

    law: Law
    status: Literal["converged", "not_converged", "at_bound"]
    message: str
    objective: Objective
    delta: float
    value: float
    starts: pd.DataFrame
    points: Points
    weights: Array
    bounds_hit: tuple[str, ...]
    free: tuple[str, ...]
    problem: FitProblem
    theta: Array
    falls: float = 0.0
    typical: float | None = None

    @property
    def converged(self) -> bool:
        """Whether the solver reached its tolerance, at a bound or not."""
        return self.status != "not_converged"

    @property
    def share_at_best(self) -> float:
        """Share of the starts that ended within 1e-9 of the best value."""
        return float(np.mean(self.starts["value"] <= self.value * (1 + SAME_BASIN) + 1e-25))

    @cached_property
    def predicted(self) -> Array:
        """Loss (n,) of the law at the points fitted, nats/token."""
        return predict_loss(self.law, self.points.frame)

    @cached_property
    def residuals(self) -> Array:
        """ln loss - ln predicted (n,), aligned with `points.frame`."""
        return np.log(self.points.frame["loss"].to_numpy(float)) - np.log(self.predicted)

    @property
    def cost(self) -> Cost:
        """Training compute as a function of N and D, fitted to these points."""
        return self.points.cost

    @property
    def n_clusters(self) -> int:
        """Number of clusters: runs, trunks or rows that count as independent."""
        return int(self.points.frame["cluster"].nunique())

    @cached_property
    def spread(self) -> Array | float:
        """Standard deviation of the noise of each row (n,) relative to `noise`; 1.0 for all."""
        return spread_of(self.points.frame, self.falls) * stated_spread(self.points.frame, self.typical)

    @property
    def table_weights(self) -> Array:
        """The weights (n,) of the table, or as given, before those by the noise that falls with size."""
        return self.weights * spread_of(self.points.frame, self.falls) ** 2

    @property
    def deltas(self) -> Array | float:
        """Huber's delta of each row (n,), or one for all."""
        return self.delta * self.spread

    @cached_property
    def noise(self) -> float:
        """Robust standard deviation of the residuals of ln loss, corrected for the parameters fitted.

        Where the noise falls with size it is that at the geometric mean size, where rows weigh differently that of a
        row of weight `typical`; see `noise_at`.
        """
        return robust_scale(self.residuals / self.spread, len(self.free), self.weights * self.spread * self.spread)

    def noise_at(self, frame: pd.DataFrame) -> Array | float:
        """Standard deviation of ln loss of one run at the size of each row of a frame: (n,), or one for all.

        A row with a column `weight` has the noise that it states.
        """
        noise = self.noise * stated_spread(frame, self.typical)
        if not self.falls:
            return noise
        middle = np.log(self.points.frame["n_params"].to_numpy(float)).mean()
        return noise * np.exp(-self.falls * (np.log(frame["n_params"].to_numpy(float)) - middle))

    @property
    def inliers(self) -> int:
        """Number of points whose residual lies within delta."""
        residual, _, _ = self.problem.residuals(self.theta[None])
        return int(np.sum(np.abs(residual[0]) <= self.deltas))

    @property
    def condition(self) -> float:
        """Condition number of the column-scaled J'WJ at the optimum: above 1e8 some combination is not identified."""
        gradient = self.weighted_design.T
        size = np.sqrt(np.sum(gradient**2, axis=1))
        if not np.all(size > 0):
            return np.inf
        return float(np.linalg.cond(gradient / size[:, None]) ** 2)

    @property
    def weighted_design(self) -> Array:
        """The derivatives (n, P) of the residuals in the free coordinates at the optimum, on rows of equal variance."""
        return (self.problem.residuals(self.theta[None])[1][0] * np.sqrt(self.weights)).T

    def predict(self, table: pd.DataFrame) -> Array:
        """Loss (n,) at every row of a table with the columns that the law reads, under the conventions of the points.

        Of a run table that is a loss at each evaluation. Raises FitError naming a column that the table lacks,
        TableError for sizes that it cannot count.
        """
        return predict_loss(self.law, counted_by(self.points, as_frame(table)))

    def optimal(self, C: Any, **kwargs: Any) -> Allocation:
        """The law's compute-optimal allocation at C FLOPs, under the cost of these points.

        Further arguments are those of the law's own `optimal`. Raises ValueError for a law without one.
        """
        return self.law.optimal(C, self.cost, **kwargs)

    def exponents(self) -> dict[str, float]:
        """Derived exponents of the fitted law under the cost of these points; empty where it has none."""
        return self.exponents_of(self.law)

    def exponents_of(self, law: Law) -> dict[str, float]:
        """Derived exponents of another law of this form, under the same cost."""
        return law.exponents(self.cost) if {"N", "D"} <= set(law.inputs) else law.exponents()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values with stable keys, those of `isoflop fit --json`; numbers, infinities null.

        Without intervals and findings, which `Draws` and `diagnose` have.
        """
        return {
            "law": self.law.name,
            "formula": self.law.formula,
            "params": dict(zip(self.law.parameters(), self.law.values().tolist(), strict=True)),
            "fixed": {k: float(v) for k, v in self.problem.pinned.items()},
            "tied": self.problem.tied,
            "objective": str(self.objective),
            "residual": self.objective.residual,
            "delta": plain(self.delta),
            "value": self.value,
            "n_points": len(self.points.frame),
            "n_clusters": self.n_clusters,
            "cluster": self.points.cluster,
            "conventions": self.points.conventions,
            "cost": {k: getattr(self.cost, k) for k in ("k", "slope", "limit")} if "D" in self.law.inputs else None,
            "status": self.status,
            "message": self.message,
            "bounds_hit": list(self.bounds_hit),
            "starts": {"n": len(self.starts), "share_at_best": self.share_at_best},
            "noise": plain(self.noise),
            "noise_falls": self.falls,
            "noise_of_weight": self.typical,
            "derived": self.exponents(),
            "interval_kind": None,
            "intervals": {},
            "level": None,
            "findings": [],
            "notes": list(self.points.notes),
        }

    def __str__(self) -> str:
        """Parameters, status, residual scale and delta in a few lines; `fit_text.fit_text` adds intervals."""
        values = dict(zip(self.law.parameters(), self.law.values().tolist(), strict=True)) | self.exponents()
        fixed = dict.fromkeys(self.problem.pinned, " (fixed)")
        delta = "" if np.isinf(self.delta) else f", delta {self.delta:.3g}"
        return "\n".join([
            f"{self.law.name}: {self.law.formula}".removesuffix(": "),
            "  " + ", ".join(f"{name} = {number(v)}{fixed.get(name, '')}" for name, v in values.items()),
            f"  {self.status}: {self.message}",
            f"  {self.objective}{delta}; residual scale {self.noise:.2g} of ln loss{noise_text(self)}; "
            f"{len(self.points)} points in {self.n_clusters} clusters by {self.points.cluster}",
        ])  # fmt: skip


def noise_text(fit: Fit) -> str:
    """What to say of noise that falls with size or with the weight of a row; empty where it does not."""
    weight = "" if fit.typical is None else f" of a row of weight {fit.typical:.3g}, falling as weight^-.5"
    return weight + (f" at the middle size, falling as N^-{fit.falls:.2f}" if fit.falls else "")


def number(x: float) -> str:
    """Enough digits for an amplitude to be refitted from: rounding A and B is a known trap."""
    return f"{x:.5g}" if abs(x) < 0.1 or abs(x) >= 100 else f"{x:.4f}"


def predict_loss(law: Law, frame: pd.DataFrame) -> Array:
    """Loss (n,) of a law at the rows of a frame, infinite or NaN where the law has none.

    Raises FitError naming a column that it reads and the frame lacks.
    """
    with np.errstate(all="ignore"):
        return np.asarray(law(*law_inputs(type(law), frame).values()), dtype=float)


def fit(
    form: "type[Law] | str | pd.DataFrame | Points",
    data: "pd.DataFrame | Points | type[Law] | str",
    *,
    objective: Objective = Huber("auto"),  # noqa: B008
    params: str | None = None,
    compute: str | None = None,
    cluster: str | None = None,
    fixed: Mapping[str, float] | None = None,
    tied: bool = False,
    free: Sequence[str] | str = (),
    weights: Any = None,
    falls: float | None = None,
    n_starts: int | None = None,
    seed: int = 0,
) -> Fit:
    """Fit a form (class, catalogue name or "module:Class") to a table of runs, a plain one or Points, in either order.

    `objective` is `isoflop.Huber` or `isoflop.LeastSquares`.
    `fixed` holds parameters at values, `free` frees ones that have a default, `tied` makes the form's two exponents
    one; a name of the catalogue may say so itself ("chinchilla-kappa"). `params`, `compute` and `cluster` are the
    conventions of `points`, which Points have already. `weights` (n,) multiply each point's term; the default is the
    table's `weight` column, or 1: a weight is an inverse variance, and Huber's delta and the noise of a row follow it.
    A Series is matched with the table by its index, and is that column. `falls` is the power of N that the noise falls
    with; None: as the table shows (`noise_model.falling_power`) where delta is "auto" and no weights differ, else 0.
    The forecast of a run that stopped lacks the noise of an end: it counts as one, or by its standard error where that
    exceeds their noise. `n_starts` and `seed` are those of `search`.
    Raises FitError when the data cannot determine a law, ValueError on a wrong name, TableError on a bad table.

    >>> import isoflop
    >>> fitted = isoflop.fit("chinchilla", isoflop.example("quick"))
    >>> fitted.status
    'converged'
    >>> round(fitted.law.alpha, 2), round(fitted.exponents()["a"], 2)
    (0.44, 0.57)
    """
    check(NOT_NEGATIVE, falls=falls)
    check(whole(1), n_starts=n_starts)
    check(SEED, seed=seed)
    _check_choices(objective, fixed)
    form, data = _in_order(form, data)
    free = (free,) if isinstance(free, str) else tuple(free)
    if isinstance(weights, pd.Series) and not isinstance(data, Points):
        data, weights = with_weights(as_frame(data), weights), None
    data = points(data, params=params, compute=compute, cluster=cluster, inputs=columns_read([form]))
    if FORECAST_ERROR in data.frame:
        given, weights = weights, None if weights is None else np.asarray(weights)[is_measured(data.frame)]
        alone = fit(
            form, data.measured, objective=objective, fixed=fixed, tied=tied, free=free, weights=weights, falls=falls,
            n_starts=n_starts, seed=seed,
        )  # fmt: skip
        relative = data.frame[FORECAST_ERROR] / max(alone.noise, EXACT_NOISE)
        excess = np.sqrt((relative**2 - 1).clip(lower=0.0))  # a forecast lacks the noise that an end has
        data, weights, falls = replace(data, frame=data.frame.assign(excess=excess)), given, alone.falls
    weights = checked_weights(weights, data.frame)
    typical = typical_weight(weights)
    if typical is not None:
        data = replace(data, frame=data.frame.assign(weight=weights))
    estimate = falls is None and objective.delta == "auto" and np.ptp(weights) == 0
    problem = fit_problem(form, data, weights, objective, fixed or {}, tied, free)

    def solve(falls: float) -> Fit:
        own, spread = search_weights(data.frame, weights, falls)
        found = search_once(problem, own, objective, n_starts=n_starts, seed=seed, spread=spread)
        return _conclude(problem, *found, objective, data, own, falls, typical)

    first = solve(falls or 0.0)
    power = _falls(first) if estimate else 0.0
    return solve(power) if power else first


def _in_order(one: Any, other: Any) -> tuple[type[Law] | str, Any]:
    """A law and its table, given in either order."""
    return (other, one) if isinstance(other, str | type) and not isinstance(one, str | type) else (one, other)


def _check_choices(objective: object, fixed: object) -> None:
    """Raise ValueError for an objective or fixed parameters that are none."""
    if not isinstance(objective, Objective):
        raise ValueError(f"objective={objective!r}: it must be isoflop.Huber(...) or isoflop.LeastSquares(...)")
    if not isinstance(fixed, Mapping | None):
        raise ValueError(f"fixed={fixed!r}: it must hold numbers by parameter, as {{'E': 0.0}} does")
    for name, value in (fixed or {}).items():
        if isinstance(value, bool) or not isinstance(value, Real):
            raise ValueError(f"fixed={{{name!r}: {value!r}}}: it must be a number")


def search_for_fits(pairs: Iterable[tuple[str, Points]], objective: Objective, *, falls: float = 0.0) -> None:
    """Search together, while searches are kept, for fits of laws to tables, with noise that `falls` so.

    What cannot be fitted is passed over: `fit` says why.
    """
    requested = []
    for law, data in pairs:
        if FORECAST_ERROR in data.frame:
            continue
        try:
            weights = checked_weights(None, data.frame)
            problem = fit_problem(law, data, weights, objective, {}, False, ())
        except ValueError:
            continue
        requested.append(Requested(problem, *search_weights(data.frame, weights, falls)))
    search_ahead(requested, objective)


def _falls(fitted: Fit) -> float:
    """The power of N that the residuals of a fit show their noise to fall with."""
    frame = fitted.points.frame
    if frame["n_params"].isna().any() or fitted.noise < EXACT_NOISE:
        return 0.0
    with np.errstate(all="ignore"):  # of a form at the end of floating point
        gradient = fitted.problem.residuals(fitted.theta[None])[1][0]
    if not (np.isfinite(gradient).all() and np.isfinite(fitted.residuals).all()):
        return 0.0
    log_n = np.log(frame["n_params"].to_numpy(float))
    return falling_power(fitted.residuals, gradient.T, log_n, pd.factorize(frame["cluster"])[0])


def _conclude(
    problem: FitProblem,
    solution: Solution,
    delta: float,
    members: Array,
    objective: Objective,
    data: Points,
    weights: Array,
    falls: float,
    typical: float | None,
) -> Fit:
    value = np.where(np.isfinite(solution.value), solution.value, np.inf)
    if not np.isfinite(value).any():
        raise FitError(f"{problem.form.name}: no start reached a finite objective on these {len(problem.loss)} points")
    best = int(np.argmin(value))
    theta = solution.theta[best]
    ends = problem.values(solution.theta)
    names = problem.form.parameters()
    outcome = {"value": value[members], "converged": solution.converged[members]}
    table = pd.DataFrame(outcome | dict(zip(names, ends[members].T, strict=True)))
    at_bound = tuple(
        p
        for p, t, lo, hi in zip(problem.free, theta, problem.lower, problem.upper, strict=True)
        if t <= lo + 1e-9 * max(1.0, abs(lo)) or t >= hi - 1e-9 * max(1.0, abs(hi))
    )
    converged = bool(solution.converged[best])
    status: Literal["converged", "not_converged", "at_bound"] = "converged"
    message = f"the next step would lower the objective by less than 1e-13 of it (after {solution.steps[best]} steps)"
    if not converged:
        status = "not_converged"
        message = f"the objective still falls after {solution.steps[best]} steps: some parameter is not identified"
    elif at_bound:
        status = "at_bound"
        message = f"converged with {', '.join(at_bound)} at the bound of the search box"
    return Fit(
        problem.form(*ends[best].tolist()), status, message, objective, float(delta), float(value[best]), table, data,
        weights, at_bound, problem.free, problem, theta, falls, typical,
    )  # fmt: skip
