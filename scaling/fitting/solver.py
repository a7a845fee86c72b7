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
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np

Array = np.ndarray

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


class Problem(Protocol):
    """What `minimise` needs of a problem with P coordinates and n rows."""

    @property
    def lower(self) -> Array:
        """Lower bounds (P,) of the coordinates."""

    @property
    def upper(self) -> Array:
        """Upper bounds (P,) of the coordinates."""

    @property
    def one_basin(self) -> bool:
        """Whether `curvature` is to be trusted from the first step; otherwise it is called only after many steps."""

    @property
    def log(self) -> bool:
        """Whether the residuals are differences of ln loss, otherwise of loss."""

    def residuals(self, theta: Array) -> tuple[Array, Array, Array]:
        """Residuals (B, n), their gradient in theta (B, P, n), and their gradient in every parameter of the form."""

    def curvature(self, theta: Array, full: Array, weight: Array) -> Array:
        """Sum of weight times the second derivative of the fitted loss (relative to it when `log`), (B, P, P)."""


@dataclass(frozen=True)
class Anchor:
    """A quadratic pull of a quantity towards values: stiffness/2 (quantity - target)^2, one target per problem."""

    quantity: Callable[[Array], tuple[Array, Array]]  # theta (B, P) -> value (B,), gradient (B, P)
    target: Array
    stiffness: Array


@dataclass(frozen=True)
class Solution:
    """Where each of B problems ended: coordinates theta (B, P), objective without any anchor (B,), steps taken (B,)."""

    theta: Array
    value: Array
    converged: Array
    steps: Array


@dataclass
class _State:
    """Everything known of the B problems still being solved, one row each: the last accepted point and its derivatives.

    `pull` (B,) is the anchor's part of the objective, `rows` (B,) the place of each problem in the whole batch.
    """

    theta: Array
    residual: Array
    gradient: Array
    full: Array
    value: Array
    pull: Array
    weights: Array
    rows: Array
    damping: Array = field(default_factory=lambda: np.empty(0))

    def take(self, keep: Array) -> "_State":
        weights = self.weights[keep] if len(self.weights) == len(self.rows) else self.weights
        return _State(
            self.theta[keep], self.residual[keep], self.gradient[keep], self.full[keep], self.value[keep],
            self.pull[keep], weights, self.rows[keep], self.damping[keep],
        )  # fmt: skip

    def accept(self, better: Array, other: "_State") -> None:
        """Move the problems in the mask `better` (B,) to where `other` is."""
        moved = np.count_nonzero(better)
        if moved == len(better):
            for name in MOVES:
                setattr(self, name, getattr(other, name))
        elif moved:
            at = np.flatnonzero(better)
            for name in MOVES:
                getattr(self, name)[at] = getattr(other, name)[at]


MOVES = ("theta", "residual", "gradient", "full", "value", "pull")  # what of a state a step changes


def huber(residual: Array, weights: Array, delta: float | Array) -> Array:
    """Sum over the last axis of weight times Huber's function: r^2/2 within delta, delta(|r| - delta/2) beyond."""
    psi = np.minimum(np.maximum(residual, -delta), delta)
    return np.einsum("...n,...n->...", weights, psi * (residual - 0.5 * psi))


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
    start = np.clip(np.atleast_2d(np.asarray(start, dtype=float)), problem.lower, problem.upper)
    weights = np.atleast_2d(weights)
    solver, parts = _Block(problem, delta, tolerance, anchor, curved, race), []
    with np.errstate(all="ignore"):
        block = min(BLOCK, max(CELLS // weights.shape[-1], 1))
        for lo in range(0, len(start), block):
            rows = np.arange(lo, min(lo + block, len(start)))
            own = weights[rows] if len(weights) == len(start) else weights
            parts.append(solver.run(start[rows], own, rows, max_steps, damping))
    return Solution(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


@dataclass(frozen=True)
class _Block:
    """A part of the batch small enough to stay in a processor's cache."""

    problem: Problem
    delta: float | Array
    tolerance: float
    anchor: Anchor | None
    curved: bool = False
    race: bool = False

    @cached_property
    def box(self) -> tuple[Array, Array]:
        """Lower and upper bounds (P,) of the coordinates."""
        return self.problem.lower, self.problem.upper

    def run(self, start: Array, weights: Array, rows: Array, max_steps: int, damping: float) -> tuple[Array, ...]:
        offset, count = rows[0], len(rows)
        state = self._evaluate(start, weights, rows)
        state.damping = np.full(count, damping)
        theta, value = state.theta.copy(), state.value.copy()
        converged, steps = np.zeros(count, dtype=bool), np.full(count, max_steps)
        total = state.weights.sum(axis=-1)
        lowest, last = np.inf, np.full(count, np.inf)
        for step in range(max_steps):
            exact = self.problem.one_basin or step >= LATE
            model, move, predicted = self._step(state, exact)
            # Rounding of the residuals bounds how far the objective of an exact fit can be distinguished from zero.
            noise = ROUNDING**2 * np.maximum(total, 1.0)
            now = state.value + state.pull
            done = np.abs(predicted) <= self.tolerance * now + noise
            done &= state.damping <= TRUSTED
            done |= now <= EXACT * noise
            stuck = (state.damping > HOPELESS) | ~np.isfinite(state.value)
            if np.count_nonzero(stuck):
                done |= stuck & (state.value <= NEGLIGIBLE**2 * total)
            leave = done | stuck
            if self.race and step and step % LOOK == 0:
                lowest, at = min(lowest, now.min()), state.rows - offset
                leave |= now - lowest > (last[at] - now) * (max_steps - step) / LOOK
                last[at] = now
            if left := np.count_nonzero(leave):
                at = state.rows[leave] - offset
                theta[at], value[at] = state.theta[leave], state.value[leave]
                lowest = min(lowest, value[at].min())
                converged[at], steps[at] = done[leave], step
                if left == len(leave):
                    return theta, value, converged, steps
                state, model, move, predicted = state.take(~leave), model[~leave], move[~leave], predicted[~leave]
                total = state.weights.sum(axis=-1)
            self._advance(state, model, move, predicted)
        at = state.rows - offset
        theta[at], value[at] = state.theta, state.value
        return theta, value, converged, steps

    def _evaluate(self, theta: Array, weights: Array, rows: Array) -> _State:
        residual, gradient, full = self.problem.residuals(theta)
        value = huber(residual, weights, self.delta)
        return _State(theta, residual, gradient, full, value, self._pull(theta, rows), weights, rows)

    def _pull(self, theta: Array, rows: Array) -> Array:
        if self.anchor is None:
            return np.zeros(len(theta))
        quantity, _ = self.anchor.quantity(theta)
        return 0.5 * self.anchor.stiffness[rows] * (quantity - self.anchor.target[rows]) ** 2

    def _advance(self, state: _State, model: Array, move: Array, predicted: Array) -> None:
        trial = self._evaluate(state.theta + move, state.weights, state.rows)
        now, then = state.value + state.pull, trial.value + trial.pull
        if self.curved:
            self._bend(state, trial, model, move, now - then < POOR * np.maximum(predicted, 0.0))
            then = trial.value + trial.pull
        better = then < now
        ratio = np.where(better, (now - then) / np.maximum(predicted, 1e-300), 0.0)
        least, small = (CURVED_RESTART, CURVED_SMALL) if self.curved else (RESTART, SMALL)
        eased = np.where(state.damping < small, 0.0, state.damping * 0.1)
        state.damping = np.where(
            ~better,
            np.maximum(state.damping * 6.0, least),
            np.where(ratio > 0.7, eased, np.where(ratio < POOR, np.maximum(state.damping * 3.0, least), state.damping)),
        )
        state.accept(better, trial)

    def _bend(self, state: _State, trial: _State, model: Array, move: Array, poor: Array) -> None:
        """Move the trials in the mask `poor` (B,) by the acceleration along their step, where that is better."""
        at = np.flatnonzero(poor & np.isfinite(trial.value))
        if not len(at):
            return
        before, step = state.take(at), move[at]
        missed = trial.residual[at] - before.residual - np.einsum("bpn,bp->bn", before.gradient, step)
        inlier = np.where(np.abs(before.residual) <= self.delta, before.weights, 0.0)
        push = (before.gradient @ (inlier * missed)[..., None])[..., 0]
        (lower, upper), ended = self.box, before.theta + step
        further = self._solve(model[at], -push, (ended <= lower) | (ended >= upper))
        bent = self._evaluate(np.clip(ended + further, lower, upper), before.weights, before.rows)
        gains = bent.value + bent.pull < trial.value[at] + trial.pull[at]
        for name in MOVES:
            getattr(trial, name)[at[gains]] = getattr(bent, name)[gains]

    def _step(self, state: _State, exact: bool) -> tuple[Array, Array, Array]:
        """The damped quadratic model (B, P, P), its step inside the box, (B, P), and half the predicted decrease."""
        model, slope = self._model(state, exact)
        lower, upper = self.box
        to_lower, to_upper = lower - state.theta, upper - state.theta
        fixed = ((state.theta <= lower) & (slope >= 0)) | ((state.theta >= upper) & (slope <= 0))
        move = self._solve(model, -slope, fixed)
        for _ in range(3):
            ended = state.theta + move
            beyond_lo, beyond_hi = ended < lower, ended > upper
            beyond = (beyond_lo | beyond_hi) & ~fixed
            if not np.count_nonzero(beyond):
                break
            # Parameters that would leave the box stop at its wall; the others step again, knowing that.
            at = np.flatnonzero(beyond.any(axis=1))
            wall = np.where(beyond_lo, to_lower, to_upper)
            fixed[at] |= beyond[at]
            held = np.where(beyond[at], wall[at], np.where(fixed[at], move[at], 0.0))
            move[at] = self._solve(model[at], -slope[at], fixed[at], held)
        move = np.minimum(np.maximum(move, to_lower), to_upper)
        return model, move, -0.5 * np.einsum("bp,bp->b", slope, move)

    def _model(self, state: _State, exact: bool) -> tuple[Array, Array]:
        """Matrix (B, P, P) and slope (B, P) of the damped quadratic model; `exact` adds the curvature."""
        r, q, w = state.residual, state.gradient, state.weights
        size = np.abs(r)
        inlier = size <= self.delta
        psi = w * np.minimum(np.maximum(r, -self.delta), self.delta)
        irls = w * np.where(inlier, 1.0, self.delta / np.maximum(size, 1e-300))
        damping = state.damping[:, None]
        weight = np.where(inlier, w, 0.0) + damping * irls
        light = state.damping <= LIGHT if exact else np.zeros(len(r), dtype=bool)
        curved = np.count_nonzero(light)
        if self.problem.log and curved:
            weight = weight - np.where(light[:, None], psi, 0.0)
        model = (q * weight[:, None]) @ q.swapaxes(1, 2)
        slope = (q @ psi[..., None])[..., 0]
        if curved:
            model = model + np.where(light[:, None, None], self.problem.curvature(state.theta, state.full, psi), 0.0)
        if self.anchor is not None:
            quantity, direction = self.anchor.quantity(state.theta)
            stiffness = self.anchor.stiffness[state.rows]
            slope = slope + (stiffness * (quantity - self.anchor.target[state.rows]))[:, None] * direction
            model = model + stiffness[:, None, None] * direction[:, :, None] * direction[:, None, :]
        diagonal = _diagonal(model)
        diagonal += np.abs(diagonal) * damping
        return model, slope

    def _solve(self, model: Array, right: Array, fixed: Array, held: Array | None = None) -> Array:
        """Solve model x = right over the parameters not fixed, those being held at the values given, or at 0."""
        if held is not None and np.count_nonzero(held):
            right = right - np.einsum("bpq,bq->bp", model, held)
        scale = np.sqrt(np.maximum(np.abs(_diagonal(model)), 1e-200))
        scaled = model / (scale[:, :, None] * scale[:, None, :])
        diagonal = _diagonal(scaled)
        if np.count_nonzero(fixed):
            free = ~fixed
            scaled = np.where(free[:, :, None] & free[:, None, :], scaled, 0.0)
            right = np.where(free, right, 0.0)
            diagonal = _diagonal(scaled)
            diagonal += np.where(free, 1e-14, 1.0)
        else:
            diagonal += 1e-14
        right = right / scale
        if not math.isfinite(np.add.reduce(scaled, axis=None) + np.add.reduce(right, axis=None)):
            scaled, right = np.where(np.isfinite(scaled), scaled, 0.0), np.nan_to_num(right)
        solved = (_mirrored_solve if self.curved else _plain_solve)(scaled, right) / scale
        return np.where(fixed, 0.0 if held is None else held, solved)


def _diagonal(matrix: Array) -> Array:
    """The diagonals (B, P) of matrices (B, P, P) that lie in one piece, to be read and written."""
    return matrix.reshape(len(matrix), -1)[:, :: matrix.shape[-1] + 1]


def _mirrored_solve(matrix: Array, right: Array) -> Array:
    """Solve with every negative eigenvalue of a symmetric matrix (B, P, P) taken as if it were positive."""
    size, along = np.linalg.eigh(matrix)
    part = np.einsum("bpq,bp->bq", along, right) / np.maximum(np.abs(size), 1e-14)
    return np.einsum("bpq,bq->bp", along, part)


def _plain_solve(matrix: Array, right: Array) -> Array:
    try:
        return np.linalg.solve(matrix, right[..., None])[..., 0]
    except np.linalg.LinAlgError:
        eye = np.eye(matrix.shape[-1])
        return np.linalg.solve(matrix + 1e-8 * eye, right[..., None])[..., 0]
