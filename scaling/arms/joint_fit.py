"""Joint fits of two arms: one form, with some parameters shared between the arms and each arm's own others.

What is shared is a claim: arms on the same data, tokenizer and context share E; equal exponents mean a gain that does
not change with compute. The fits under all claims are weighed against each other by AICc, which counts clusters. Few
runs cannot tell a constant gain from one that grows, however heavily AICc prefers the simpler claim: an interval that
took its word would be right only if the claim is (Leeb and Poetscher 2005). So `multiplier` says the weight of the
claim, and takes its intervals from those under which every arm has exponents of its own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
import pandas as pd

from isoflop.scaling.fitting.fit import Fit, FitError, Huber, fit, robust_scale
from isoflop.scaling.fitting.objective import huber
from isoflop.scaling.fitting.problem import FitProblem
from isoflop.scaling.fitting.solver.minimise import minimise
from isoflop.scaling.laws.chinchilla import Chinchilla
from isoflop.scaling.laws.cost import Cost
from isoflop.scaling.laws.law import Array, Law
from isoflop.scaling.laws.power import Power
from isoflop.scaling.selection.averaging import Forecast
from isoflop.scaling.table.conventions import REACH, Points

CONSTANT = "E and exponents"  # the claim under which a multiplier changes with compute only as costs of training do
SHARED: dict[type[Law], dict[str, tuple[str, ...]]] = {
    Chinchilla: {CONSTANT: ("E", "alpha", "beta"), "E": ("E",), "nothing": ()},
    Power: {CONSTANT: ("E", "g"), "E": ("E",), "nothing": ()},
}
MIN_DELTA = 1e-7
KNOTS, BELOW, ABOVE = 241, 1e3, 1e12  # of a frontier beyond the table: how many, and how far in size to either side
COLLINEAR = 0.98  # |correlation of ln N and ln D| beyond which a law of both is not identified


@dataclass(frozen=True)
class ArmsProblem:
    """The least-squares problem of all arms' rows, one arm after the other.

    Coordinates are the `shared` parameters, then each arm's own. It has the interface that `solver.minimise` takes.
    """

    parts: tuple[FitProblem, ...]
    shared: tuple[str, ...]
    log: bool = True

    @property
    def one_basin(self) -> bool:
        return all(part.one_basin for part in self.parts)

    @cached_property
    def places(self) -> tuple[Array, ...]:
        """For each arm, the positions of its coordinates in the joint vector."""
        places, following = [], len(self.shared)
        for part in self.parts:
            own = [p for p in part.free if p not in self.shared]
            at = {p: i for i, p in enumerate(self.shared)} | {p: following + i for i, p in enumerate(own)}
            places.append(np.array([at[p] for p in part.free]))
            following += len(own)
        return tuple(places)

    @property
    def size(self) -> int:
        """Number of joint coordinates."""
        return int(max(p.max() for p in self.places)) + 1

    def join(self, values: Sequence[Array]) -> Array:
        """The joint vector of each arm's coordinates, the mean for shared ones."""
        total, count = np.zeros(self.size), np.zeros(self.size)
        for at, v in zip(self.places, values, strict=True):
            total[at] += v
            count[at] += 1
        return total / count

    @cached_property
    def lower(self) -> Array:
        """Lower bounds of the joint coordinates."""
        return self.join([p.lower for p in self.parts])

    @cached_property
    def upper(self) -> Array:
        """Upper bounds of the joint coordinates."""
        return self.join([p.upper for p in self.parts])

    @cached_property
    def rows(self) -> tuple[slice, ...]:
        """For each arm, the positions of its rows."""
        ends = np.cumsum([0, *(len(p.loss) for p in self.parts)]).tolist()
        return tuple(slice(lo, hi) for lo, hi in pairwise(ends))

    def residuals(self, theta: Array) -> tuple[Array, Array, Array]:
        """As FitProblem.residuals, of all arms: (S, n), (S, P, n), and what `curvature` takes."""
        n = self.rows[-1].stop
        residual, gradient = np.empty((len(theta), n)), np.zeros((len(theta), self.size, n))
        full = np.empty((len(theta), len(self.parts[0].form.parameters()), n))
        for part, at, rows in zip(self.parts, self.places, self.rows, strict=True):
            residual[:, rows], gradient[:, at, rows], full[..., rows] = part.residuals(theta[:, at])
        return residual, gradient, full

    def curvature(self, theta: Array, full: Array, weight: Array) -> Array:
        """As FitProblem.curvature, of all arms: (S, P, P)."""
        second = np.zeros((len(theta), self.size, self.size))
        for part, at, rows in zip(self.parts, self.places, self.rows, strict=True):
            second[:, at[:, None], at] += part.curvature(theta[:, at], full[..., rows], weight[:, rows])
        return second


@dataclass(frozen=True)
class Frontier:
    """L(C) = E + K c^-g, the lowest loss of an arm at compute C in FLOPs.

    c is C itself, unless `bent` has knots of ln C, rising, and of ln c there, which are straight between; beyond the
    knots c / C stays.
    """

    E: float
    K: float
    g: float
    bent: tuple[Array, Array] | None = None

    def loss(self, C: Array) -> Array:
        """Lowest loss at a compute."""
        if self.bent is not None:
            C = _along(C, *self.bent)
        return self.E + self.K * np.power(C, -self.g)

    def compute(self, loss: Array) -> Array:
        """FLOPs to reach a loss; NaN at or below E, infinite beyond floating point."""
        with np.errstate(all="ignore"):
            c = np.where(loss > self.E, np.power(self.K / (loss - self.E), 1.0 / self.g), np.nan)
        return c if self.bent is None else _along(c, *self.bent[::-1])


def _along(value: Array, log_from: Array, log_to: Array) -> Array:
    """A value carried from one scale to another, both known at knots of its logarithm."""
    with np.errstate(all="ignore"):
        x = np.log(value)
        return np.exp(np.interp(x, log_from, log_to) + (x - np.clip(x, log_from[0], log_from[-1])))


def frontier(law: Law, cost: Cost | None, within: tuple[float, float] = (0.0, np.inf)) -> Frontier:
    """The frontier of a Chinchilla law under a cost, or a Power law of C itself.

    `within` are computes that the table reaches down and up to. Between them training costs what the power law through
    their sizes says, whose frontier is a power law too; beyond, the frontier goes on as it does under the cost itself.
    """
    if isinstance(law, Power):
        return Frontier(law.E, law.K, law.g)
    assert isinstance(law, Chinchilla)
    assert cost is not None
    g = law.exponents(cost.power)["frontier"]
    at = 1e15
    straight = Frontier(law.E, float((law.optimal(at, cost.power).loss - law.E) * at**g), g)
    return straight if cost.is_power else replace(straight, bent=_bent(law, cost, straight, np.log(within)))


def _bent(law: Chinchilla, cost: Cost, straight: Frontier, within: Array) -> tuple[Array, Array]:
    """Knots of ln C, and of the ln C at which the straight frontier has the loss that the law has under its cost.

    Between the ends `within` they are the same, beyond them their ratio is what it became since the end.
    """
    with np.errstate(all="ignore"):  # of a refit without a best size no quantity is a number
        least, most = law.optimal(np.exp(within), cost).N
        N = np.geomspace(least / BELOW, most * ABOVE, KNOTS)
        D = np.power(cost.growth(N) * law.beta * law.B / (law.alpha * law.A) * N**law.alpha, 1 / law.beta)
        log_flops, log_power = np.log([cost.flops(N, D), straight.compute(law(N, D))])
    log_flops, log_power = np.maximum.accumulate([log_flops, log_power], axis=1)  # a rate may end in a step
    knots = np.union1d(log_flops, within)
    ahead = [np.interp(x, log_flops, log_power - log_flops) for x in (knots, np.clip(knots, *within))]
    return knots, knots + ahead[0] - ahead[1]


Quantity = Callable[[Frontier, Frontier], Array]  # of the arm's frontier and the baseline's


@dataclass(frozen=True)
class ArmsFit:
    """A joint fit under one claim of what the arms share (`sharing`).

    `fronts` are the arms' frontiers, `without` the same with each cluster left out in turn (the jackknife), `laws` the
    arms' laws, `n_free` the number of joint coordinates.
    """

    sharing: str
    fronts: tuple[Frontier, ...]
    without: tuple[tuple[Frontier, ...], ...]
    aicc: float
    n_free: int
    laws: tuple[Law, ...]

    @property
    def freedom(self) -> float:
        """Degrees of freedom of the jackknife."""
        return max(len(self.without) - 1, 1)

    @property
    def constant(self) -> bool:
        """Whether the arms share E and exponents: the multiplier changes with compute only as their costs do."""
        return self.sharing == CONSTANT

    def forecast(self, quantity: Quantity) -> Forecast:
        """A quantity of the arms' frontiers (n,) as Student's t with its jackknife error; NaN where one has none."""
        with np.errstate(all="ignore"):
            centre = np.atleast_1d(quantity(*self.fronts))
            draws = np.array([np.atleast_1d(quantity(*fronts)) for fronts in self.without])
        error = np.sqrt((len(draws) - 1) * np.mean((draws - draws.mean(axis=0)) ** 2, axis=0))
        return Forecast(centre, error + 1e-12, self.freedom)


def fit_arms(data: Sequence[Points], labels: Sequence[Array]) -> list[ArmsFit]:
    """Joint fits of the arms, one under every claim in SHARED. `labels` holds the cluster of each row of each arm.

    Raises FitError when an arm cannot be fitted by itself, or there are fewer than three clusters.
    """
    form = choose_form(data)
    single = [fit(form, d, objective=Huber("auto")) for d in data]
    cluster, groups = pd.factorize(np.concatenate(list(labels)))
    if len(groups) < 3:
        raise FitError(f"{len(groups)} clusters of runs in these arms: an interval needs at least three")
    fronts = [_frontiers_of(form, d) for d in data]
    weights = np.concatenate([f.weights for f in single])
    spread = np.concatenate([np.broadcast_to(f.spread / np.sqrt(_noise_weight(f)), len(f.weights)) for f in single])
    fits, delta = [], None
    for name, shared in reversed(SHARED[form].items()):  # nothing shared first: its residuals set delta for all
        problem = ArmsProblem(tuple(f.problem for f in single), shared)
        theta, delta, value = _solve(problem, single, weights, spread, delta)
        without = _without(problem, theta, delta * spread, weights, cluster, len(groups))
        laws = _laws(problem, theta)
        fits.append(
            ArmsFit(
                name,
                tuple(front(law) for law, front in zip(laws, fronts, strict=True)),
                tuple(tuple(front(law) for law, front in zip(_laws(problem, t), fronts, strict=True)) for t in without),
                _aicc(value, len(cluster), sum(f.n_clusters for f in single), problem.size),
                problem.size,
                laws,
            )
        )
    return fits[::-1]


def _noise_weight(fitted: Fit) -> float:
    """The weight of a row that has the noise of a fit: one ruler for arms whose rows weigh differently."""
    if fitted.typical is not None:
        return fitted.typical
    frame = fitted.points.frame
    return float(frame["weight"].max()) if "weight" in frame else 1.0


def _frontiers_of(form: type[Law], data: Points) -> Callable[[Law], Frontier]:
    """The frontier of an arm's law as a function of the law; the table reaches a factor REACH to either side."""
    cost = data.cost if form is Chinchilla else None
    within = float(data.frame["flops"].min()) / REACH, float(data.frame["flops"].max()) * REACH
    return lambda law: frontier(law, cost, within)


def choose_form(data: Sequence[Points]) -> type[Law]:
    """Chinchilla's form where every arm identifies it, else a power law of compute."""
    for d in data:
        frame = d.frame
        if frame[["n_params", "tokens"]].isna().any(axis=None) or frame["n_params"].nunique() < 3:
            return Power
        x, y = np.log(frame["n_params"]), np.log(frame["tokens"])
        if y.nunique() < 3 or abs(np.corrcoef(x, y)[0, 1]) > COLLINEAR or len(frame) < 7:
            return Power
    return Chinchilla


def _solve(
    problem: ArmsProblem, single: Sequence[Fit], weights: Array, spread: Array, delta: float | None
) -> tuple[Array, float, float]:
    start = problem.join([f.theta for f in single])
    squares = minimise(problem, start[None], delta=np.inf, weights=weights)
    if delta is None:
        delta = np.inf
        for _ in range(3):
            residual = problem.residuals(squares.theta)[0][0]
            delta = max(1.345 * robust_scale(residual / spread, problem.size, weights * spread**2), MIN_DELTA)
            squares = minimise(problem, squares.theta, delta=delta * spread, weights=weights)
    done = minimise(problem, squares.theta, delta=delta * spread, weights=weights)
    return done.theta[0], delta, float(huber(problem.residuals(done.theta)[0][0], weights, delta * spread))


def _without(problem: ArmsProblem, theta: Array, delta: Array, weights: Array, cluster: Array, n: int) -> Array:
    keep = weights * (cluster[None] != np.arange(n)[:, None])
    return minimise(
        problem, np.repeat(theta[None], n, axis=0), delta=delta, weights=keep, tolerance=1e-9, damping=1e-3
    ).theta


def _laws(problem: ArmsProblem, theta: Array) -> tuple[Law, ...]:
    return tuple(part.laws(theta[at][None])[0] for part, at in zip(problem.parts, problem.places, strict=True))


def _aicc(value: float, n: int, clusters: int, free: int) -> float:
    """AICc of a joint fit of n rows. The clusters of each arm are counted, as `compare` does."""
    g, k = clusters, free + 1
    return g * float(np.log(max(2 * value / n, 1e-30))) + (2 * k * g / (g - k - 1) if g > k + 1 else np.inf)
