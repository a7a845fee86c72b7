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

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from isoflop.scaling.fitting.objective import Anchor, Array, Problem, Solution, Task, huber_of, within
from isoflop.scaling.fitting.solver.damped import Damped, diagonal
from isoflop.scaling.fitting.solver.state import Data, Part, State

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

    What is of the size of the rows is done at once for tasks that are `alike`, the rest of a step for all.
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
            kinds = [task.alike for task in together]
            order = sorted(range(len(tasks)), key=lambda k: kinds.index(kinds[k]))
            together = [together[k] for k in order]
            found = solver.run(together, np.arange(sum(len(t.start) for t in together)), max_steps, damping)
            ends = np.cumsum([len(t.start) for t in together])[:-1]
            split = zip(*(np.split(column, ends) for column in found), strict=True)
            at = dict(zip(order, (Solution(*columns) for columns in split), strict=True))
            return [at[k] for k in range(len(tasks))]
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
        alike = [list(some) for _, some in groupby(tasks, key=lambda task: task.alike)]
        parts = []
        for number, some in enumerate(alike):
            begin = np.empty((sum(len(task.start) for task in some), 0))
            parts.append(Part(Data.of(some, number), begin, None, begin, None))
        state = self._evaluate(start, parts, rows)
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

    def _evaluate(self, theta: Array, parts: list[Part], rows: Array) -> State:
        made, values, lo = [], [], 0
        for part in parts:
            own = theta[lo : (lo := lo + len(part))] if len(parts) > 1 else theta
            data = part.data
            residual, gradient, full = data.problem.residuals(own)
            bounded = None if data.squares else within(residual, data.delta)
            values.append(huber_of(residual, residual if bounded is None else bounded, data.weights))
            made.append(Part(data, residual, bounded, gradient, None if full is gradient else full))
        value = _joined(values)
        total = value if self.anchor is None else value + self._pull(self.anchor, theta, rows)
        return State(theta, value, total, rows, made, value)

    def _pull(self, anchor: Anchor, theta: Array, rows: Array) -> Array:
        quantity, _ = anchor.quantity(theta)
        return 0.5 * anchor.stiffness[rows] * (quantity - anchor.target[rows]) ** 2

    def _advance(self, state: State, damped: Damped, move: Array, predicted: Array, box: Bounds) -> None:
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

    def _bend(self, state: State, trial: State, damped: Damped, move: Array, box: Bounds, poor: Array) -> None:
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
            inlier = old.data.weights
            if old.bounded is not None:
                inlier = np.where(old.bounded == old.residual, inlier, 0.0)
            pushes.append((old.gradient @ (inlier * missed)[..., None])[..., 0])
            before.append(old)
        (lower, upper), ended = box, state.theta[at] + step
        again, fixed = damped.take(at), (ended <= lower) | (ended >= upper)
        if np.count_nonzero(fixed != again.fixed):
            again = Damped.of(again.model, fixed, curved=True)
        further = again.solve(-_joined(pushes))
        bent = self._evaluate(np.minimum(np.maximum(ended + further, lower), upper), before, state.rows[at])
        gains = np.flatnonzero(bent.total < trial.total[at])
        if len(gains):
            trial.replace(at[gains], bent, gains)

    def _step(self, state: State, exact: bool, box: Bounds) -> tuple[Damped, Array, Array]:
        """The damped quadratic model, its step inside the box, (B, P), and half the predicted decrease (B,)."""
        model, slope = self._model(state, exact)
        (lower, upper), theta = box, state.theta
        to_lower, to_upper = lower - theta, upper - theta
        at_lower, at_upper = to_lower >= 0, to_upper <= 0
        fixed = at_lower | at_upper
        if np.count_nonzero(fixed):
            fixed = (at_lower & (slope >= 0)) | (at_upper & (slope <= 0))
        damped = Damped.of(model, fixed, curved=self.curved)
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
            held = np.where(beyond, np.where(beyond_lo, to_lower, to_upper), np.where(fixed, move, 0.0))[at]
            again = Damped.of(model[at], fixed[at], curved=self.curved)
            move[at] = again.solve(-slope[at], held)
            if self.curved:
                damped.replace(at, again)
        move = np.minimum(np.maximum(move, to_lower), to_upper)
        return damped, move, -0.5 * np.einsum("bp,bp->b", slope, move)

    def _model(self, state: State, exact: bool) -> tuple[Array, Array]:
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
        own = diagonal(model)
        own += np.abs(own) * state.damping[:, None]
        return model, slope

    def _of_rows(self, part: Part, theta: Array, damping: Array, exact: bool) -> tuple[Array, Array]:
        """Matrix (B, P, P) and slope (B, P) from the rows of one part's data, before the diagonal is damped."""
        r, q, w, problem = part.residual, part.gradient, part.data.weights, part.data.problem
        bounded = r if part.bounded is None else part.bounded
        psi = w * bounded
        weight = np.where(bounded == r, w, 0.0)
        if np.count_nonzero(damping):
            delta = part.data.delta
            irls = w * (delta / np.maximum(np.abs(r), delta)) if part.data.robust else w
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
