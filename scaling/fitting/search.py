"""From starts to optima: least squares first, then Huber with delta falling in stages to its value."""

import numpy as np

from isoflop.scaling.fitting.objective import Objective
from isoflop.scaling.fitting.problem import FitProblem
from isoflop.scaling.fitting.solver import EXACT, ROUNDING, Problem, Solution, huber, minimise
from isoflop.scaling.fitting.starts import starts
from isoflop.scaling.laws.law import Array

HUBER_EFFICIENCY = 1.345  # in noise scales: 95% of least squares' efficiency under Gaussian noise
SMALLEST_DELTA = 1e-7
FEW_PARAMETERS = 5  # up to here 8 starts, up to 7 parameters 16, above 32
SCATTERED = 24  # more starts for a form of several basins
ROUGH = 1e-7  # tolerance of the stages before the last
MOST_STEPS = 1000  # of what still moves after the solver's usual number of steps
LEADERS = 12  # of the ends that still move after the usual steps: the others creep along the same valleys behind
NEAR = 1e-3  # ends whose coordinates differ by less, relative to 1 and to themselves, are one
MAY_WIN = 0.1  # of the best value: an end this close to it is worth those steps


def search(
    problem: FitProblem,
    weights: Array,
    objective: Objective,
    *,
    n_starts: int | None = None,
    seed: int = 0,
    patient: bool = True,
    spread: Array | float = 1.0,
) -> tuple[Solution, float, Array]:
    """Minimise the objective from many starts.

    Returns where the distinct starts ended, the delta used, and for each start the row of the ends that it reached.
    Least squares go first because a smooth objective finds the basin. `n_starts` defaults to 8, 16 or 32 by the number
    of free parameters; `seed` is that of the random starts; `patient` goes on with ends that still move.
    `spread` (n,) are relative standard deviations of the rows, by which `weights` are divided twice already: Huber's
    delta is that of residuals divided by them.
    """
    last = _patient if patient else minimise
    count = n_starts or (8 if len(problem.free) <= FEW_PARAMETERS else 16 if len(problem.free) <= 7 else 32)
    begin = starts(problem, weights, count=count, seed=seed)
    if objective.delta == np.inf:
        return last(problem, begin, delta=np.inf, weights=weights), np.inf, np.arange(len(begin))
    squares = minimise(problem, begin, delta=np.inf, weights=weights, max_steps=40, tolerance=ROUGH)
    exact = np.nanmin(squares.value) <= EXACT * ROUNDING**2 * weights.sum()
    basin, members = _distinct(squares.theta, squares.value)
    ends = squares.theta[basin]
    if not problem.one_basin and not exact:
        ends = np.concatenate([ends, begin, _scatter(problem, weights, ends[0], seed)])
        members = np.concatenate([members, np.arange(len(basin), len(ends))])
    delta = objective.delta if objective.delta != "auto" else None
    scale = _scale(problem, ends[:1], weights, spread)
    for stage in (30.0, 10.0, 3.0) if delta else (3.0,):
        wide = stage * (delta or HUBER_EFFICIENCY * scale)
        if wide < 20 * scale or stage == 3.0:
            wide = max(wide, SMALLEST_DELTA)
            ends = minimise(problem, ends, delta=wide * spread, weights=weights, max_steps=6, tolerance=ROUGH).theta
    if delta is None:
        delta, ends = _auto_delta(problem, weights, ends, spread)
    return last(problem, ends, delta=delta * spread, weights=weights), delta, members


def _patient(problem: FitProblem, ends: Array, *, delta: float | Array, weights: Array) -> Solution:
    """Minimise from every end; of those that still move after the first steps and may win the lowest go on together."""
    done = minimise(problem, ends, delta=delta, weights=weights)
    best = np.min(np.where(np.isfinite(done.value), done.value, np.inf))
    late = ~done.converged & (done.value <= best * (1 + MAY_WIN))
    late[np.argsort(np.where(late, done.value, np.inf), kind="stable")[LEADERS:]] = False
    return go_on(problem, done, late, delta=delta, weights=weights, curved=True, race=True)


def go_on(
    problem: Problem,
    so_far: Solution,
    which: Array,
    *,
    delta: float | Array,
    weights: Array,
    tolerance: float = 1e-13,
    curved: bool = False,
    race: bool = False,
) -> Solution:
    """The same solution with the problems in the mask `which` (B,) minimised on from where they ended, in one batch.

    `curved` and `race` are those of `minimise`.
    """
    if not which.any():
        return so_far
    weights = weights[which] if np.ndim(weights) == 2 and len(weights) == len(which) else weights
    more = minimise(
        problem, so_far.theta[which], delta=delta, weights=weights, max_steps=MOST_STEPS, tolerance=tolerance,
        curved=curved, race=race,
    )  # fmt: skip
    theta, value, converged, steps = (a.copy() for a in vars(so_far).values())
    better = np.zeros_like(which)
    better[which] = more.value <= value[which]
    theta[better], value[better] = more.theta[better[which]], more.value[better[which]]
    converged[better] = more.converged[better[which]]
    steps[which] += more.steps
    return Solution(theta, value, converged, steps)


def _scatter(problem: FitProblem, weights: Array, theta: Array, seed: int) -> Array:
    """Least-squares optima (S, P) under random row weights, near theta.

    A small delta may have many local optima inside one basin of least squares; these starts and the first find them.
    """
    lots = weights * np.random.default_rng(seed).exponential(size=(SCATTERED, len(weights)))
    begin = np.repeat(theta[None], SCATTERED, axis=0)
    return minimise(problem, begin, delta=np.inf, weights=lots, max_steps=12).theta


def _auto_delta(problem: FitProblem, weights: Array, ends: Array, spread: Array | float) -> tuple[float, Array]:
    """The delta that is 1.345 robust scales of the residuals of its own fit, and where the starts have moved to."""
    delta = np.inf
    for _ in range(4):
        with np.errstate(all="ignore"):  # the law may be infinite at an end
            value = huber(problem.residuals(ends)[0], weights, delta * spread)
        scale = _scale(problem, ends[[int(np.nanargmin(value))]], weights, spread)
        delta = max(HUBER_EFFICIENCY * scale, SMALLEST_DELTA)
        ends = minimise(problem, ends, delta=delta * spread, weights=weights, max_steps=12, tolerance=ROUGH).theta
    return delta, ends


def _scale(problem: FitProblem, theta: Array, weights: Array, spread: Array | float) -> float:
    """Robust scale of the residuals over their spread at one point theta (1, P)."""
    with np.errstate(all="ignore"):
        residual = problem.residuals(theta)[0][0] / spread
    return robust_scale(residual, len(problem.free), weights * spread * spread)


def _distinct(theta: Array, value: Array) -> tuple[Array, Array]:
    """Indices of the distinct of ends theta (B, P), lowest value (B,) first, and for each which of them it is near."""
    order = np.argsort(value, kind="stable")
    kept: list[int] = []
    members = np.empty(len(order), dtype=int)
    for i in order:
        known = theta[kept]
        same = np.flatnonzero((np.abs(theta[i] - known) <= NEAR * (1 + np.abs(known))).all(axis=1))
        if not len(same):
            kept.append(int(i))
        members[i] = same[0] if len(same) else len(kept) - 1
    return np.array(kept), members


def robust_scale(residuals: Array, n_free: int, weights: Array | None = None) -> float:
    """A standard deviation that outliers hardly move: 1.4826 x the median absolute residual x sqrt(n / (n - P)).

    With `weights` (n,) the median is weighted and rows of weight 0 do not count; only ratios of weights matter.
    """
    size = np.abs(residuals)
    if weights is None:
        n, middle = len(size), float(np.median(size))
    else:
        n, middle = int(np.sum(weights > 0)), weighted_median(size, weights)
    return float(1.4826 * middle * np.sqrt(n / max(n - n_free, 1)))


def weighted_median(values: Array, weights: Array) -> float:
    """The value (of (n,)) with half the weight on either side: the mean of two where the halves meet between them."""
    order = np.argsort(values, kind="stable")
    order = order[weights[order] > 0]
    ordered, total = values[order], np.cumsum(weights[order])
    half = total[-1] / 2
    at = int(np.searchsorted(total, half * (1 - 1e-12)))
    meets = at + 1 < len(ordered) and abs(total[at] - half) <= 1e-12 * half
    return float((ordered[at] + ordered[at + 1]) / 2 if meets else ordered[at])
