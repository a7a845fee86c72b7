"""A batched, damped Newton method for sums of Huber or squared residuals inside a box.

One call minimises many problems at once: starts, resamples, or points of a profile, all on the same rows with weights
of their own. The model of each is H = sum over inliers of w q q' (q is the residual's gradient), plus the exact
curvature where the form gives it and damping is light. The damping matrix is the majoriser of iteratively reweighted
least squares, so a heavily damped step is a short IRLS step and an undamped one is Newton's.

A problem has converged when the next step is predicted to lower the objective by less than `tolerance` of its value
with damping at most 1e-2: a test of the objective itself, not of a step length.

Along a valley that bends, straight steps are short. `curved` bends those that fail: what the residuals did beyond their
linear model tells the acceleration along the step (Transtrum and Sethna 2012, "geodesic acceleration"), and directions
of negative curvature are taken as if it were positive (Dauphin et al. 2014).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise

import numpy as np

from isoflop.scaling.fitting.objective import Anchor, Array, Problem, Solution, Task, huber

Bounds = tuple[Array, Array]  # lower and upper, (P,) each, of the coordinates

BLOCK, CELLS = 256, 80_000  # starts, and starts x rows, worked on at once: what stays in a processor's cache
LIGHT = 0.05  # damping up to which the exact curvature enters
TRUSTED = 1e-2  # damping up to which a predicted decrease is believed
RESTART = 2e-3  # least damping after a step that failed
SMALL, CURVED_SMALL = 1e-6, 1e-9  # damping below which a step that succeeds leaves none, straight or bent
CURVED_RESTART = 1e-8  # as RESTART, of bent steps: a flat valley is followed at the damping that last held there
POOR = 0.2  # of the predicted decrease: a step that gains less is a poor one
LOOK = 50  # steps between looks at which of the starts of one problem may still win
LATE = 20  # steps after which the curvature of a form of several basins is trusted
NEGLIGIBLE = 1e-9  # residuals of ln loss of the size of the digits of a table: what no step lowers is exact
HOPELESS = 1e9  # damping above which a problem is given up
ROUNDING = 1e-15  # of a log loss near 1: no residual is known better
EXACT = 30.0  # an objective within this many times its rounding noise is zero


@dataclass
class _Part:
    """What is known in each row of the data of one task's problems still being solved: arrays (B, ..., n)."""

    task: Task
    weights: Array
    residual: Array
    gradient: Array
    full: Array | None  # the gradient in every parameter of the form, None where that is `gradient`

    def __len__(self) -> int:
        return len(self.residual)

    def take(self, keep: Array) -> "_Part":
        if len(keep) == len(self):
            return self
        weights = self.weights[keep] if len(self.weights) == len(self) else self.weights
        full = None if self.full is None else self.full[keep]
        return _Part(self.task, weights, self.residual[keep], self.gradient[keep], full)


@dataclass
class _State:
    """Everything known of the B problems still being solved, one row each: the last accepted point and its derivatives.

    `total` (B,) is the objective with the anchor's part, `rows` (B,) the place of each problem in the whole batch. The
    problems of a task lie together, as do its `parts`.
    """

    theta: Array
    value: Array
    total: Array
    rows: Array
    parts: list[_Part]
    damping: Array

    @cached_property
    def places(self) -> list[slice]:
        """Where the problems of each part are."""
        return [slice(lo, hi) for lo, hi in pairwise(accumulate(map(len, self.parts), initial=0))]

    def split(self, at: Array) -> list[Array]:
        """Places `at` (K,), in order, as places in each part."""
        if len(self.parts) == 1:
            return [at]
        ends = [0, *accumulate(map(len, self.parts))]
        cuts = pairwise(np.searchsorted(at, ends).tolist())
        return [at[lo:hi] - start for (lo, hi), start in zip(cuts, ends, strict=False)]

    def take(self, keep: Array) -> "_State":
        parts = [part.take(own) for part, own in zip(self.parts, self.split(keep), strict=True) if len(own)]
        return _State(
            self.theta[keep], self.value[keep], self.total[keep], self.rows[keep], parts, self.damping[keep]
        )  # fmt: skip

    def accept(self, better: Array, other: "_State") -> None:
        """Move the problems in the mask `better` (B,) to where `other` is, whose arrays may be taken over."""
        if np.count_nonzero(better) == len(better):
            self.theta, self.value, self.total, self.parts = other.theta, other.value, other.total, other.parts
            return
        _accept(self, other, better, WHERE)
        if len(self.parts) == 1:
            _accept(self.parts[0], other.parts[0], better, IN_ROWS)
            return
        for part, new, place in zip(self.parts, other.parts, self.places, strict=True):
            _accept(part, new, better[place], IN_ROWS)

    def replace(self, at: Array, other: "_State", its: Array) -> None:
        """Put the problems at the places `at` where those of `other` at its places are."""
        _replace(self, at, other, its, WHERE)
        found = {id(part.task): (part, own) for part, own in zip(other.parts, other.split(its), strict=True)}
        for part, own in zip(self.parts, self.split(at), strict=True):
            if len(own):
                _replace(part, own, *found[id(part.task)], IN_ROWS)


WHERE, IN_ROWS = ("theta", "value", "total"), ("residual", "gradient", "full")  # what a step changes
DECOMPOSED = ("fixed", "size", "along")  # what other fixed parameters change


def _accept(mine: _State | _Part, new: _State | _Part, better: Array, names: tuple[str, ...]) -> None:
    """Move the rows in the mask `better` by copying the fewer: those that move, or into the new those that do not."""
    moved = np.count_nonzero(better)
    if 2 * moved <= len(better):
        if moved:
            at = np.flatnonzero(better)
            _replace(mine, at, new, at, names)
        return
    if moved < len(better):
        at = np.flatnonzero(~better)
        _replace(new, at, mine, at, names)
    for name in names:
        setattr(mine, name, getattr(new, name))


def _replace(mine: _State | _Part, at: Array, new: _State | _Part, its: Array, names: tuple[str, ...]) -> None:
    for name in names:
        if (own := getattr(mine, name)) is not None:
            own[at] = getattr(new, name)[its]


def minimise(
    problem: Problem,
    start: Array,
    *,
    delta: float | Array,
    weights: Array,
    max_steps: int = 100,
    tolerance: float = 1e-13,
    damping: float = 1e-2,
    anchor: Anchor | None = None,
    curved: bool = False,
    race: bool = False,
) -> Solution:
    """Minimise the sum of weights (n,) or (B, n) times Huber(residual) from every row of start (B, P).

    `delta` is Huber's, one for all rows or (n,), infinite for half squares. A problem ends when it has converged to the
    relative `tolerance`, after `max_steps`, or when no damping helps; `converged` says which. `damping` is that of the
    first step. `curved` bends steps that fail: dearer steps, and fewer in a valley that bends. `race` is for starts
    of one problem: after every LOOK steps those alone go on that at the rate of these steps reach the lowest value of
    all in the steps left.
    """
    task = Task(problem, start, delta, weights)
    (solution,) = minimise_together(
        [task], max_steps=max_steps, tolerance=tolerance, damping=damping, anchor=anchor, curved=curved, race=race
    )
    return solution


def minimise_together(
    tasks: Sequence[Task],
    *,
    max_steps: int = 100,
    tolerance: float = 1e-13,
    damping: float = 1e-2,
    anchor: Anchor | None = None,
    curved: bool = False,
    race: bool = False,
) -> list[Solution]:
    """The solutions of `minimise` of problems of one box on different rows, to the bit, in fewer calls of numpy.

    What is of the size of the rows is done task by task, the rest of a step for all at once.
    """
    solutions: list[Solution] = []
    together: list[Task] = []
    cells = 0
    for task in tasks:
        start = np.clip(np.atleast_2d(np.asarray(task.start, dtype=float)), task.problem.lower, task.problem.upper)
        task = Task(task.problem, start, task.delta, np.atleast_2d(task.weights))
        together.append(task)
        cells += len(start) * task.weights.shape[-1]
    solver = _Block(tolerance, anchor, curved, race)
    with np.errstate(all="ignore"):
        if len(tasks) > 1 and cells <= CELLS:
            found = solver.run(together, np.arange(sum(len(t.start) for t in together)), max_steps, damping)
            ends = np.cumsum([len(t.start) for t in together])[:-1]
            return [Solution(*columns) for columns in zip(*(np.split(column, ends) for column in found), strict=True)]
        for task in together:
            parts, count = [], len(task.start)
            block = min(BLOCK, max(CELLS // task.weights.shape[-1], 1))
            for lo in range(0, count, block):
                rows = np.arange(lo, min(lo + block, count))
                weights = task.weights[rows] if len(task.weights) == count else task.weights
                piece = Task(task.problem, task.start[rows], task.delta, weights)
                parts.append(solver.run([piece], rows, max_steps, damping))
            solutions.append(Solution(*(np.concatenate(columns) for columns in zip(*parts, strict=True))))
    return solutions


@dataclass
class _Damped:
    """Damped quadratic models (B, P, P) made ready to be solved for the parameters that are not `fixed` (B, P).

    `matrix` is the model over the roots of its diagonal, `scale` (B, P), with the unit matrix in the rows and columns
    of what is fixed; `size` (B, P) and `along` (B, P, P) are its eigenvalues and vectors, where steps may bend.
    """

    model: Array
    fixed: Array
    scale: Array
    matrix: Array
    size: Array | None = None
    along: Array | None = None

    @classmethod
    def of(cls, model: Array, fixed: Array, *, curved: bool) -> "_Damped":
        scale = np.sqrt(np.maximum(np.abs(_diagonal(model)), 1e-200))
        matrix = model / (scale[:, :, None] * scale[:, None, :])
        diagonal = _diagonal(matrix)
        if np.count_nonzero(fixed):
            free = ~fixed
            matrix = np.where(free[:, :, None] & free[:, None, :], matrix, 0.0)
            diagonal = _diagonal(matrix)
            diagonal += np.where(fixed, 1.0, 1e-14)
        else:
            diagonal += 1e-14
        if not math.isfinite(np.add.reduce(matrix, axis=None)):
            matrix = np.where(np.isfinite(matrix), matrix, 0.0)
        size, along = np.linalg.eigh(matrix) if curved else (None, None)
        return cls(model, fixed, scale, matrix, size, along)

    def take(self, keep: Array) -> "_Damped":
        if len(keep) == len(self.model):
            return self
        return _Damped(*(None if a is None else a[keep] for a in vars(self).values()))

    def solve(self, right: Array, held: Array | None = None) -> Array:
        """What solves model x = right (B, P) over the parameters not fixed, those being held at these values, or at 0.

        With eigenvalues every negative one is taken as if it were positive.
        """
        if held is not None and np.count_nonzero(held):
            right = right - np.einsum("bpq,bq->bp", self.model, held)
        if some_fixed := np.count_nonzero(self.fixed):
            right = np.where(self.fixed, 0.0, right)
        right = right / self.scale
        if not math.isfinite(np.add.reduce(right, axis=None)):
            right = np.nan_to_num(right)
        if self.size is None or self.along is None:
            solved = _plain_solve(self.matrix, right)
        else:
            part = np.einsum("bpq,bp->bq", self.along, right) / np.maximum(np.abs(self.size), 1e-14)
            solved = np.einsum("bpq,bq->bp", self.along, part)
        solved /= self.scale
        return np.where(self.fixed, 0.0 if held is None else held, solved) if some_fixed else solved


@dataclass(frozen=True)
class _Block:
    """A part of the batch small enough to stay in a processor's cache."""

    tolerance: float
    anchor: Anchor | None
    curved: bool = False
    race: bool = False

    def run(self, tasks: list[Task], rows: Array, max_steps: int, damping: float) -> tuple[Array, ...]:
        offset, count = rows[0], len(rows)
        problem = tasks[0].problem
        box = (problem.lower, problem.upper)
        start = tasks[0].start if len(tasks) == 1 else np.concatenate([task.start for task in tasks])
        state = self._evaluate(start, [_Part(t, t.weights, t.start, t.start, t.start) for t in tasks], rows)
        state.damping = np.where(np.isfinite(state.value), damping, np.inf)
        theta, value = state.theta.copy(), state.value.copy()
        converged, steps = np.zeros(count, dtype=bool), np.full(count, max_steps)
        weight = np.concatenate([np.broadcast_to(t.weights.sum(axis=-1), len(t.start)) for t in tasks])
        lowest, last = np.full(len(tasks), np.inf), np.full(count, np.inf)
        of = np.repeat(np.arange(len(tasks)), [len(task.start) for task in tasks])
        noise = ROUNDING**2 * np.maximum(weight, 1.0)  # what rounding of the residuals makes of an objective of zero
        for step in range(max_steps):
            exact = problem.one_basin or step >= LATE
            damped, move, predicted = self._step(state, exact, box)
            done = np.abs(predicted) <= self.tolerance * (now := state.total) + noise
            done &= state.damping <= TRUSTED
            done |= now <= EXACT * noise
            leave, stuck = done, state.damping > HOPELESS
            if np.count_nonzero(stuck):
                done |= stuck & (state.value <= NEGLIGIBLE**2 * weight)
                leave = done | stuck
            if self.race and step and step % LOOK == 0:
                at = state.rows - offset
                np.fmin.at(lowest, of[at], now)
                leave = leave | (now - lowest[of[at]] > (last[at] - now) * (max_steps - step) / LOOK)
                last[at] = now
            if left := np.count_nonzero(leave):
                at = state.rows[leave] - offset
                theta[at], value[at] = state.theta[leave], state.value[leave]
                np.fmin.at(lowest, of[at], value[at])
                converged[at], steps[at] = done[leave], step
                if left == len(leave):
                    return theta, value, converged, steps
                stay = np.flatnonzero(~leave)
                state, move, predicted = state.take(stay), move[stay], predicted[stay]
                damped = damped.take(stay) if self.curved else damped
                weight, noise = weight[stay], noise[stay]
            self._advance(state, damped, move, predicted, box)
        at = state.rows - offset
        theta[at], value[at] = state.theta, state.value
        return theta, value, converged, steps

    def _evaluate(self, theta: Array, parts: list[_Part], rows: Array) -> _State:
        made, values, lo = [], [], 0
        for part in parts:
            own = theta[lo : (lo := lo + len(part))] if len(parts) > 1 else theta
            residual, gradient, full = part.task.problem.residuals(own)
            values.append(huber(residual, part.weights, part.task.delta))
            made.append(_Part(part.task, part.weights, residual, gradient, None if full is gradient else full))
        value = _joined(values)
        total = value if self.anchor is None else value + self._pull(self.anchor, theta, rows)
        return _State(theta, value, total, rows, made, value)

    def _pull(self, anchor: Anchor, theta: Array, rows: Array) -> Array:
        quantity, _ = anchor.quantity(theta)
        return 0.5 * anchor.stiffness[rows] * (quantity - anchor.target[rows]) ** 2

    def _advance(self, state: _State, damped: _Damped, move: Array, predicted: Array, box: Bounds) -> None:
        trial = self._evaluate(state.theta + move, state.parts, state.rows)
        hoped = np.maximum(predicted, 1e-300)
        gain = state.total - trial.total
        if self.curved:
            self._bend(state, trial, damped, move, box, gain < POOR * hoped)
            gain = state.total - trial.total
        better, ratio, now = gain > 0, gain / hoped, state.damping
        least, small = (CURVED_RESTART, CURVED_SMALL) if self.curved else (RESTART, SMALL)
        eased = np.where(now < small, 0.0, now * 0.1)
        if np.count_nonzero(ratio > 0.7) == len(now):
            state.damping = eased
        else:
            slower = np.where(ratio < POOR, np.maximum(now * 3.0, least), now)
            eased = np.where(ratio > 0.7, eased, slower)
            state.damping = np.where(better, eased, np.maximum(now * 6.0, least))
        state.accept(better, trial)

    def _bend(self, state: _State, trial: _State, damped: _Damped, move: Array, box: Bounds, poor: Array) -> None:
        """Move the trials in the mask `poor` (B,) by the acceleration along their step, where that is better."""
        at = np.flatnonzero(poor & np.isfinite(trial.value))
        if not len(at):
            return
        pushes, before, step, lo = [], [], move[at], 0
        for part, new, own in zip(state.parts, trial.parts, state.split(at), strict=True):
            if not len(own):
                continue
            old, along = part.take(own), step[lo : (lo := lo + len(own))]
            missed = new.residual[own] - old.residual - np.einsum("bpn,bp->bn", old.gradient, along)
            inlier = np.where(np.abs(old.residual) <= part.task.delta, old.weights, 0.0)
            pushes.append((old.gradient @ (inlier * missed)[..., None])[..., 0])
            before.append(old)
        (lower, upper), ended = box, state.theta[at] + step
        again, fixed = damped.take(at), (ended <= lower) | (ended >= upper)
        if np.count_nonzero(fixed != again.fixed):
            again = _Damped.of(again.model, fixed, curved=True)
        further = again.solve(-_joined(pushes))
        bent = self._evaluate(np.minimum(np.maximum(ended + further, lower), upper), before, state.rows[at])
        gains = np.flatnonzero(bent.total < trial.total[at])
        if len(gains):
            trial.replace(at[gains], bent, gains)

    def _step(self, state: _State, exact: bool, box: Bounds) -> tuple[_Damped, Array, Array]:
        """The damped quadratic model, its step inside the box, (B, P), and half the predicted decrease (B,)."""
        model, slope = self._model(state, exact)
        (lower, upper), theta = box, state.theta
        at_lower, at_upper = theta <= lower, theta >= upper
        fixed = at_lower | at_upper
        if np.count_nonzero(fixed):
            fixed = (at_lower & (slope >= 0)) | (at_upper & (slope <= 0))
        damped = _Damped.of(model, fixed, curved=self.curved)
        move = damped.solve(-slope)
        for _ in range(3):
            ended = theta + move
            beyond_lo = ended < lower
            beyond = beyond_lo | (ended > upper)
            if np.count_nonzero(beyond):
                beyond &= ~fixed
            if not np.count_nonzero(beyond):
                break
            # Parameters that would leave the box stop at its wall; the others step again, knowing that.
            at = np.flatnonzero(beyond.any(axis=1))
            fixed = fixed | beyond
            held = np.where(beyond, np.where(beyond_lo, lower - theta, upper - theta), np.where(fixed, move, 0.0))[at]
            again = _Damped.of(model[at], fixed[at], curved=self.curved)
            move[at] = again.solve(-slope[at], held)
            if self.curved:
                _replace(damped, at, again, slice(None), DECOMPOSED)
        else:
            move = np.minimum(np.maximum(move, lower - theta), upper - theta)
        return damped, move, -0.5 * np.einsum("bp,bp->b", slope, move)

    def _model(self, state: _State, exact: bool) -> tuple[Array, Array]:
        """Matrix (B, P, P) and slope (B, P) of the damped quadratic model; `exact` adds the curvature."""
        made = [
            self._of_rows(part, state.theta[place], state.damping[place], exact)
            for part, place in zip(state.parts, state.places, strict=True)
        ]
        model, slope = (_joined(arrays) for arrays in zip(*made, strict=True))
        if self.anchor is not None:
            quantity, direction = self.anchor.quantity(state.theta)
            stiffness = self.anchor.stiffness[state.rows]
            slope = slope + (stiffness * (quantity - self.anchor.target[state.rows]))[:, None] * direction
            model = model + stiffness[:, None, None] * direction[:, :, None] * direction[:, None, :]
        diagonal = _diagonal(model)
        diagonal += np.abs(diagonal) * state.damping[:, None]
        return model, slope

    def _of_rows(self, part: _Part, theta: Array, damping: Array, exact: bool) -> tuple[Array, Array]:
        """Matrix (B, P, P) and slope (B, P) from the rows of one part's data, before the diagonal is damped."""
        r, q, w, delta = part.residual, part.gradient, part.weights, part.task.delta
        problem, size = part.task.problem, np.abs(r)
        psi = w * np.minimum(np.maximum(r, -delta), delta)
        weight = np.where(size <= delta, w, 0.0)
        if np.count_nonzero(damping):
            irls = w * (delta / np.maximum(size, delta)) if part.task.robust else w
            weight += damping[:, None] * irls
        light = damping <= LIGHT
        curved = np.count_nonzero(light) if exact else 0
        whole = curved == len(light)
        if problem.log and curved:
            weight -= psi if whole else np.where(light[:, None], psi, 0.0)
        model = (q * weight[:, None]) @ q.swapaxes(1, 2)
        slope = (q @ psi[..., None])[..., 0]
        if curved:
            second = problem.curvature(theta, q if part.full is None else part.full, psi)
            model += second if whole else np.where(light[:, None, None], second, 0.0)
        return model, slope


def _joined(arrays: Sequence[Array]) -> Array:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _diagonal(matrix: Array) -> Array:
    """The diagonals (B, P) of matrices (B, P, P) that lie in one piece, to be read and written."""
    return matrix.reshape(len(matrix), -1)[:, :: matrix.shape[-1] + 1]


def _plain_solve(matrix: Array, right: Array) -> Array:
    """Solve with those matrices (B, P, P) alone that are singular made regular."""
    try:
        return np.linalg.solve(matrix, right[..., None])[..., 0]
    except np.linalg.LinAlgError:
        if len(matrix) > 1:
            return np.concatenate([_plain_solve(matrix[k : k + 1], right[k : k + 1]) for k in range(len(matrix))])
        return np.linalg.solve(matrix + 1e-8 * np.eye(matrix.shape[-1]), right[..., None])[..., 0]
