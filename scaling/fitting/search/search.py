"""From starts to optima: least squares first, then Huber with delta falling in stages to its value."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from isoflop.scaling.fitting.objective import Objective, Solution, Task, huber
from isoflop.scaling.fitting.problem import FitProblem
from isoflop.scaling.fitting.search.starts import starts
from isoflop.scaling.fitting.solver.minimise import EXACT, ROUNDING, minimise_together
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


@dataclass(frozen=True)
class Requested:
    """A problem to search, with weights (n,) of its rows and their relative standard deviations `spread`, (n,) or 1.

    `weights` are divided by the square of `spread` already; Huber's delta is that of residuals divided by it.
    """

    problem: FitProblem
    weights: Array
    spread: Array | float = 1.0

    def from_starts(self, start: Array, delta: float, weights: Array | None = None) -> Task:
        """To be minimised from every row of start (B, P), under other weights where they are given."""
        own = delta if delta == np.inf else delta * self.spread
        return Task(self.problem, start, own, self.weights if weights is None else weights)


Found = tuple[Solution, float, Array]


def search(
    problem: FitProblem,
    weights: Array,
    objective: Objective,
    *,
    n_starts: int | None = None,
    seed: int = 0,
    patient: bool = True,
    spread: Array | float = 1.0,
) -> Found:
    """Minimise the objective from many starts.

    Returns where the distinct starts ended, the delta used, and for each start the row of the ends that it reached.
    Least squares go first because a smooth objective finds the basin. `n_starts` defaults to 8, 16 or 32 by the number
    of free parameters; `seed` is that of the random starts; `patient` goes on with ends that still move.
    `spread` (n,) are relative standard deviations of the rows, by which `weights` are divided twice already: Huber's
    delta is that of residuals divided by them.
    """
    (found,) = search_together(
        [Requested(problem, weights, spread)], objective, n_starts=n_starts, seed=seed, patient=patient
    )  # fmt: skip
    return found


def search_together(
    requested: Sequence[Requested],
    objective: Objective,
    *,
    n_starts: int | None = None,
    seed: int = 0,
    patient: bool = True,
) -> list[Found]:
    """What `search` finds for each of some problems of one box, to the bit; they take their steps together."""
    last = _patient if patient else minimise_together
    free = len(requested[0].problem.free)
    count = n_starts or (8 if free <= FEW_PARAMETERS else 16 if free <= 7 else 32)
    begin = [starts(a.problem, a.weights, count=count, seed=seed) for a in requested]
    squares = [a.from_starts(start, np.inf) for a, start in zip(requested, begin, strict=True)]
    if objective.delta == np.inf:
        return [(done, np.inf, np.arange(len(done.theta))) for done in last(squares)]
    ends, members, rough = [], [], []
    for a, done in zip(requested, minimise_together(squares, max_steps=40, tolerance=ROUGH), strict=True):
        exact = np.nanmin(done.value) <= EXACT * ROUNDING**2 * a.weights.sum()
        basin, member = _distinct(done.theta, done.value)
        ends.append(done.theta[basin])
        members.append(member)
        rough.append(not a.problem.one_basin and not exact)
    scattered = [_scattered(a, end[0], seed) for a, end, more in zip(requested, ends, rough, strict=True) if more]
    more = iter(minimise_together(scattered, max_steps=12) if scattered else ())
    for k in np.flatnonzero(rough).tolist():
        found = len(ends[k])
        ends[k] = np.concatenate([ends[k], begin[k], next(more).theta])
        members[k] = np.concatenate([members[k], np.arange(found, len(ends[k]))])
    delta = objective.delta if objective.delta != "auto" else None
    scales = [_scale(a, end[:1]) for a, end in zip(requested, ends, strict=True)]
    for stage in (30.0, 10.0, 3.0) if delta else (3.0,):
        wider: dict[int, Task] = {}
        for k, (a, scale) in enumerate(zip(requested, scales, strict=True)):
            wide = stage * (delta or HUBER_EFFICIENCY * scale)
            if wide < 20 * scale or stage == 3.0:
                wider[k] = a.from_starts(ends[k], max(wide, SMALLEST_DELTA))
        moved = minimise_together(list(wider.values()), max_steps=6, tolerance=ROUGH)
        for k, solution in zip(wider, moved, strict=True):
            ends[k] = solution.theta
    deltas, ends = _auto_deltas(requested, ends) if delta is None else ([delta] * len(requested), ends)
    tasks = [a.from_starts(end, own) for a, end, own in zip(requested, ends, deltas, strict=True)]
    return list(zip(last(tasks), deltas, members, strict=True))


def _patient(tasks: Sequence[Task]) -> list[Solution]:
    """Minimise from every end; of those that still move after the first steps and may win the lowest go on together."""
    done, late = minimise_together(tasks), []
    for solution in done:
        best = np.min(np.where(np.isfinite(solution.value), solution.value, np.inf))
        moves = ~solution.converged & (solution.value <= best * (1 + MAY_WIN))
        moves[np.argsort(np.where(moves, solution.value, np.inf), kind="stable")[LEADERS:]] = False
        late.append(moves)
    return go_on(tasks, done, late, curved=True, race=True)


def go_on(
    tasks: Sequence[Task],
    so_far: Sequence[Solution],
    which: Sequence[Array],
    *,
    tolerance: float = 1e-13,
    curved: bool = False,
    race: bool = False,
) -> list[Solution]:
    """The same solutions with the problems in the masks `which`, each (B,), minimised on from where they ended.

    `curved` and `race` are those of `minimise`.
    """
    late = [k for k, moves in enumerate(which) if moves.any()]
    further = []
    for k in late:
        task, moves = tasks[k], which[k]
        own = task.weights[moves] if np.ndim(task.weights) == 2 and len(task.weights) == len(moves) else task.weights
        further.append(Task(task.problem, so_far[k].theta[moves], task.delta, own))
    found = list(so_far)
    if not late:
        return found
    more = minimise_together(further, max_steps=MOST_STEPS, tolerance=tolerance, curved=curved, race=race)
    for k, solution in zip(late, more, strict=True):
        found[k] = _moved(so_far[k], which[k], solution)
    return found


def _moved(so_far: Solution, which: Array, more: Solution) -> Solution:
    """A solution in which those of the problems in the mask that went on to lower values are where they ended."""
    theta, value, converged, steps = (a.copy() for a in vars(so_far).values())
    better = np.zeros_like(which)
    better[which] = more.value <= value[which]
    theta[better], value[better] = more.theta[better[which]], more.value[better[which]]
    converged[better] = more.converged[better[which]]
    steps[which] += more.steps
    return Solution(theta, value, converged, steps)


def _scattered(requested: Requested, theta: Array, seed: int) -> Task:
    """From theta (P,) to least-squares optima under random row weights.

    A small delta may have many local optima inside one basin of least squares; these starts and the first find them.
    """
    lots = requested.weights * np.random.default_rng(seed).exponential(size=(SCATTERED, len(requested.weights)))
    return requested.from_starts(np.repeat(theta[None], SCATTERED, axis=0), np.inf, lots)


def _auto_deltas(requested: Sequence[Requested], ends: list[Array]) -> tuple[list[float], list[Array]]:
    """The delta that is 1.345 robust scales of the residuals of its own fit, and where the starts have moved to."""
    deltas = [np.inf] * len(requested)
    for _ in range(4):
        for k, (a, end) in enumerate(zip(requested, ends, strict=True)):
            with np.errstate(all="ignore"):  # the law may be infinite at an end
                value = huber(a.problem.residuals(end)[0], a.weights, deltas[k] * a.spread)
            deltas[k] = max(HUBER_EFFICIENCY * _scale(a, end[[int(np.nanargmin(value))]]), SMALLEST_DELTA)
        tasks = [a.from_starts(end, delta) for a, end, delta in zip(requested, ends, deltas, strict=True)]
        ends = [done.theta for done in minimise_together(tasks, max_steps=12, tolerance=ROUGH)]
    return deltas, ends


def _scale(requested: Requested, theta: Array) -> float:
    """Robust scale of the residuals over their spread at one point theta (1, P)."""
    with np.errstate(all="ignore"):
        residual = requested.problem.residuals(theta)[0][0] / requested.spread
    return robust_scale(residual, len(requested.problem.free), requested.weights * requested.spread * requested.spread)


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
