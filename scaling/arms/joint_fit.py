"""Two arms fitted together: one form, some parameters shared between the arms and the others each arm's own.

What is shared is a claim: E belongs to data, tokenizer and context, so arms on the same data share it; equal exponents
mean a gain that does not change with compute. All claims are fitted and weighed against each other by AICc.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import pandas as pd

from isoflop.scaling.fitting.fit import Fit, FitError, Huber, fit, robust_scale
from isoflop.scaling.fitting.problem import FitProblem
from isoflop.scaling.fitting.solver import huber, minimise
from isoflop.scaling.laws.chinchilla import Chinchilla
from isoflop.scaling.laws.law import Array, Cost, Law
from isoflop.scaling.laws.power import Power
from isoflop.scaling.selection.averaging import Forecast
from isoflop.scaling.table.conventions import Points

SHARED: dict[type[Law], dict[str, tuple[str, ...]]] = {
    Chinchilla: {"E and exponents": ("E", "alpha", "beta"), "E": ("E",), "nothing": ()},
    Power: {"E and exponents": ("E", "g"), "E": ("E",), "nothing": ()},
}
MIN_DELTA = 1e-7
COLLINEAR = 0.98  # |correlation of ln N and ln D|: beyond, a law of N and D has nothing to tell them apart by


@dataclass(frozen=True)
class ArmsProblem:
    """Residuals of every arm's rows, arms one after the other; coordinates are the shared ones, then each arm's own."""

    parts: tuple[FitProblem, ...]
    shared: tuple[str, ...]
    log: bool = True

    @property
    def has_curvature(self) -> bool:
        return all(part.has_curvature for part in self.parts)

    @cached_property
    def places(self) -> tuple[Array, ...]:
        """For each arm, where its coordinates stand in the joint vector."""
        places, following = [], len(self.shared)
        for part in self.parts:
            own = [p for p in part.free if p not in self.shared]
            at = {p: i for i, p in enumerate(self.shared)} | {p: following + i for i, p in enumerate(own)}
            places.append(np.array([at[p] for p in part.free]))
            following += len(own)
        return tuple(places)

    @property
    def size(self) -> int:
        return int(max(p.max() for p in self.places)) + 1

    def join(self, values: Sequence[Array]) -> Array:
        """One vector from each arm's coordinates, the mean where they share."""
        total, count = np.zeros(self.size), np.zeros(self.size)
        for at, v in zip(self.places, values, strict=True):
            total[at] += v
            count[at] += 1
        return total / count

    @cached_property
    def lower(self) -> Array:
        return self.join([p.lower for p in self.parts])

    @cached_property
    def upper(self) -> Array:
        return self.join([p.upper for p in self.parts])

    @cached_property
    def rows(self) -> tuple[slice, ...]:
        """Where each arm's rows stand."""
        ends = np.cumsum([0, *(len(p.loss) for p in self.parts)]).tolist()
        return tuple(slice(lo, hi) for lo, hi in pairwise(ends))

    def residuals(self, theta: Array) -> tuple[Array, Array, Array]:
        n = self.rows[-1].stop
        residual, gradient = np.empty((len(theta), n)), np.zeros((len(theta), self.size, n))
        full = np.empty((len(theta), len(self.parts[0].form.parameters()), n))
        for part, at, rows in zip(self.parts, self.places, self.rows, strict=True):
            residual[:, rows], gradient[:, at, rows], full[..., rows] = part.residuals(theta[:, at])
        return residual, gradient, full

    def curvature(self, theta: Array, full: Array, weight: Array) -> Array:
        second = np.zeros((len(theta), self.size, self.size))
        for part, at, rows in zip(self.parts, self.places, self.rows, strict=True):
            second[:, at[:, None], at] += part.curvature(theta[:, at], full[..., rows], weight[:, rows])
        return second


@dataclass(frozen=True)
class Frontier:
    """L(C) = E + K C^-g, the lowest loss of an arm at compute C; closed form in both directions."""

    E: float
    K: float
    g: float

    def loss(self, C: Array) -> Array:
        return self.E + self.K * np.power(C, -self.g)

    def compute(self, loss: Array) -> Array:
        """FLOPs to reach a loss; NaN at or below E."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(loss > self.E, np.power(self.K / (loss - self.E), 1.0 / self.g), np.nan)


def frontier(law: Law, cost: Cost | None) -> Frontier:
    """The frontier of a Chinchilla law under a cost, or a Power law of C itself."""
    if isinstance(law, Power):
        return Frontier(law.E, law.K, law.g)
    assert isinstance(law, Chinchilla)
    assert cost is not None
    g = law.exponents(cost)["frontier"]
    at = 1e15
    return Frontier(law.E, float((law.optimal(at, cost).loss - law.E) * at**g), g)


Quantity = Callable[[Frontier, Frontier], Array]  # of the arm's frontier and the baseline's


@dataclass(frozen=True)
class ArmsFit:
    """A joint fit: each arm's frontier, and the same without each cluster in turn (the jackknife)."""

    sharing: str
    fronts: tuple[Frontier, ...]
    without: tuple[tuple[Frontier, ...], ...]
    aicc: float
    n_free: int
    laws: tuple[Law, ...]

    @property
    def freedom(self) -> float:
        return max(len(self.without) - 1, 1)

    def forecast(self, quantity: Quantity) -> Forecast:
        """A quantity of the arms' frontiers, array-valued, as Student's t with its jackknife error."""
        centre = np.atleast_1d(quantity(*self.fronts))
        draws = np.array([np.atleast_1d(quantity(*fronts)) for fronts in self.without])
        error = np.sqrt((len(draws) - 1) * np.mean((draws - draws.mean(axis=0)) ** 2, axis=0))
        return Forecast(centre, error + 1e-12, self.freedom)


def fit_arms(data: Sequence[Points], labels: Sequence[Array]) -> list[ArmsFit]:
    """The arms fitted together under every claim of what they share. `labels` names each row's cluster, in all arms.

    Raises FitError when an arm cannot be fitted by itself.
    """
    form = choose_form(data)
    single = [fit(form, d, objective=Huber("auto")) for d in data]
    cluster, groups = pd.factorize(np.concatenate(list(labels)))
    if len(groups) < 3:
        raise FitError(f"{len(groups)} clusters of runs in these arms: an interval needs at least three")
    costs = [d.cost if form is Chinchilla else None for d in data]
    fits, delta = [], None
    for name, shared in reversed(SHARED[form].items()):  # nothing shared first: its residuals set delta for all
        problem = ArmsProblem(tuple(f.problem for f in single), shared)
        theta, delta, value = _solve(problem, single, delta)
        without = _without(problem, theta, delta, cluster, len(groups))
        laws = _laws(problem, theta)
        fits.append(
            ArmsFit(
                name,
                tuple(frontier(law, cost) for law, cost in zip(laws, costs, strict=True)),
                tuple(
                    tuple(frontier(law, cost) for law, cost in zip(_laws(problem, t), costs, strict=True))
                    for t in without
                ),
                _aicc(value, len(cluster), problem.size),
                problem.size,
                laws,
            )
        )
    return fits[::-1]


def choose_form(data: Sequence[Points]) -> type[Law]:
    """Chinchilla's form where every arm tells N from D, else a power law of compute."""
    for d in data:
        frame = d.frame
        if frame[["n_params", "tokens"]].isna().any(axis=None) or frame["n_params"].nunique() < 3:
            return Power
        x, y = np.log(frame["n_params"]), np.log(frame["tokens"])
        if y.nunique() < 3 or abs(np.corrcoef(x, y)[0, 1]) > COLLINEAR or len(frame) < 7:
            return Power
    return Chinchilla


def _solve(problem: ArmsProblem, single: Sequence[Fit], delta: float | None) -> tuple[Array, float, float]:
    ones = np.ones(sum(len(p.loss) for p in problem.parts))
    start = problem.join([f.theta for f in single])
    squares = minimise(problem, start[None], delta=np.inf, weights=ones)
    if delta is None:
        delta = np.inf
        for _ in range(3):
            residual = problem.residuals(squares.theta)[0][0]
            delta = max(1.345 * robust_scale(residual, problem.size), MIN_DELTA)
            squares = minimise(problem, squares.theta, delta=delta, weights=ones)
    done = minimise(problem, squares.theta, delta=delta, weights=ones)
    return done.theta[0], delta, float(huber(problem.residuals(done.theta)[0][0], ones, delta))


def _without(problem: ArmsProblem, theta: Array, delta: float, cluster: Array, n: int) -> Array:
    keep = (cluster[None] != np.arange(n)[:, None]).astype(float)
    return minimise(
        problem, np.repeat(theta[None], n, axis=0), delta=delta, weights=keep, tolerance=1e-9, damping=1e-3
    ).theta


def _laws(problem: ArmsProblem, theta: Array) -> tuple[Law, ...]:
    return tuple(part.laws(theta[at][None])[0] for part, at in zip(problem.parts, problem.places, strict=True))


def _aicc(value: float, n: int, free: int) -> float:
    k = free + 1
    return n * float(np.log(max(2 * value / n, 1e-30))) + (2 * k * n / (n - k - 1) if n > k + 1 else np.inf)
