"""Where a fit starts, by variable projection: a law is linear in its amplitudes once its other parameters are given.

For every point of a grid over those, the amplitudes follow from non-negative least squares in closed form; all grid
points at once cost milliseconds and replace thousands of random starts, nine in ten of which end in worse basins. A
form without a linear part starts from random points of its search box.
"""

from itertools import combinations

import numpy as np

from isoflop.scaling.fitting.objective import huber
from isoflop.scaling.fitting.problem import FitProblem
from isoflop.scaling.laws.law import Array

RANDOM_STARTS = 96
BEST_OF_GRID = 64
START_ROWS = 192  # a basin is found on this many rows, drawn evenly; the solver then uses all
APART = 0.12  # in some coordinate: closer points are one start
TINY = 1e-4  # of the mean loss: an amplitude that the linear solve sets to zero starts here


def starts(problem: FitProblem, weights: Array, *, count: int, seed: int) -> Array:
    """Coordinates (S, P) of up to `count` distinct starts, best first by weighted squares of the problem's residual.

    `weights` is (n,); `seed` is that of the random starts of a form that gives no others.
    """
    if len(problem.loss) > START_ROWS:
        rows = np.linspace(0, len(problem.loss) - 1, START_ROWS).astype(int)
        problem, weights = problem.on_rows(rows), weights[rows]
    form = problem.form
    with np.errstate(all="ignore"):
        proposed = form.propose(problem.x, problem.loss, weights)
        if proposed is not None:
            found = problem.reduce(proposed)
        else:
            found = _projected(problem, weights) if form.amplitudes else random_starts(problem, RANDOM_STARTS, seed)
        candidates = np.clip(found, problem.lower, problem.upper)
        residual, _, _ = problem.residuals(candidates)
        value = huber(residual, weights, np.inf)
    order = np.argsort(np.where(np.isfinite(value), value, np.inf), kind="stable")
    return candidates[_spread(candidates[order], count, order)]


def random_starts(problem: FitProblem, count: int, seed: int) -> Array:
    """Points (count, P) drawn uniformly from the box in coordinates, each parameter where a law of such losses has it.

    A linear parameter bounded by 0, as a floor is, stays below the smallest loss.
    """
    rng = np.random.default_rng(seed)
    lower, upper = problem.lower.copy(), problem.upper.copy()
    for j, name in enumerate(problem.free):
        box = problem.form.box[name]
        if not box.log and box.lo == 0 and not box.grid:
            upper[j] = min(upper[j], problem.loss.min())
        elif box.log and name in problem.form.amplitudes:
            lower[j], upper[j] = np.log(problem.loss.mean() * 1e-2), np.log(problem.loss.mean() * 3.0)
        elif box.grid:
            lower[j], upper[j] = (np.log if box.log else np.asarray)([box.grid[0], box.grid[-1]])
    return rng.uniform(lower, upper, size=(count, len(lower)))


def _projected(problem: FitProblem, weights: Array) -> Array:
    """Coordinates (S, P) of the best grid points, amplitudes by non-negative least squares."""
    form, names = problem.form, problem.form.parameters()
    shape = _grid(problem)
    basis, target, scale = form.linearise(shape, problem.x, problem.loss)
    amplitudes = form.amplitudes[-basis.shape[1] :]
    pinned = np.array([problem.pinned.get(a, np.nan) for a in amplitudes])
    coefficients, cost = nonnegative(basis, target, scale**2 * weights, pinned)
    best = np.argsort(cost, kind="stable")[:BEST_OF_GRID]
    values = np.repeat(form.decode(problem.base)[None], len(best), axis=0)
    for name, column in shape.items():
        values[:, names.index(name)] = column[best, 0] if len(column) > 1 else column[0, 0]
    for k, name in enumerate(amplitudes):
        floor = TINY * problem.loss.mean() if form.box[name].log else 0.0
        values[:, names.index(name)] = np.maximum(coefficients[best, k], floor)
    values = form.from_linear(values, problem.loss)
    return problem.reduce(form.more_starts(form.encode(values), frozenset(problem.free)))


def _grid(problem: FitProblem) -> dict[str, Array]:
    """Every combination of the starting values, (G, 1) each; fixed parameters stay, tied ones go together."""
    axes = {}
    for name, values in problem.form.shapes(problem.x, problem.loss).items():
        if name != problem.follower:
            axes[name] = (problem.pinned[name],) if name in problem.pinned else values
    mesh = np.meshgrid(*axes.values(), indexing="ij")
    grid = {name: m.reshape(-1, 1) for name, m in zip(axes, mesh, strict=True)}
    if problem.follower is not None and problem.form.ties:
        grid[problem.follower] = grid[problem.form.ties[0]]
    return grid


def nonnegative(basis: Array, target: Array, weights: Array, pinned: Array) -> tuple[Array, Array]:
    """Non-negative weighted least squares for every basis (G, K, n): coefficients (G, K) and the sum of squares (G,).

    A coefficient that is not NaN in `pinned` (K,) keeps that value. Every choice of positive coefficients is solved,
    the best one wins.
    """
    open_ = np.flatnonzero(np.isnan(pinned))
    if len(open_) < len(pinned):
        held = np.flatnonzero(~np.isnan(pinned))
        target = target - np.einsum("gkn,k->gn", basis[:, held], pinned[held])
    weighted = basis * np.expand_dims(weights, -2)
    gram = weighted @ basis.swapaxes(1, 2)
    moment = (weighted @ np.broadcast_to(target, (len(basis), basis.shape[-1]))[..., None])[..., 0]
    total = np.einsum("...n,...n->...", weights, np.square(target))
    best = np.tile(np.where(np.isnan(pinned), 0.0, pinned), (len(basis), 1))
    cost = np.broadcast_to(total, len(basis)).copy()
    for size in range(1, len(open_) + 1):
        for support in combinations(open_.tolist(), size):
            solved, drop = _solve_support(gram, moment, list(support))
            better = (solved > 0).all(axis=1) & (total - drop < cost)
            best[better] = np.where(np.isnan(pinned), 0.0, pinned)
            best[np.ix_(better, list(support))] = solved[better]
            cost = np.where(better, total - drop, cost)
    return best, cost


def _solve_support(gram: Array, moment: Array, support: list[int]) -> tuple[Array, Array]:
    """Least squares (G, S) over the coefficients in `support`, and by how much they lower the sum of squares (G,)."""
    part = gram[:, support][:, :, support]
    size = np.sqrt(np.einsum("gkk->gk", part))
    scaled = part / (size[:, :, None] * size[:, None, :]) + 1e-12 * np.eye(len(support))
    right = moment[:, support]
    solved = np.linalg.solve(scaled, (right / size)[..., None])[..., 0] / size
    return solved, np.einsum("gk,gk->g", solved, right)


def _spread(candidates: Array, count: int, order: Array) -> Array:
    """Indices of up to `count` candidates, in order, each apart from those before it by a step in some coordinate."""
    chosen: list[int] = []
    for i, point in enumerate(candidates):
        if (np.abs(point - candidates[chosen]).max(axis=1) > APART).all():
            chosen.append(i)
        if len(chosen) == count:
            break
    return order[chosen]
