"""What a law of whole curves reads of a learning-rate schedule, for every row at once: sums over its steps.

A row at step t (the index of its last update) needs the summed rate S(t) = sum_{i<=t} eta_i, and a sum over the steps k
at which the rate changed, of delta_k = eta_{k-1} - eta_k times a smooth function of eta_k, S_k(t) = sum_{k<=i<=t} eta_i
and t - k. Taken as it stands that is a term per row and step. Here constant pieces cost nothing, a jump is one term,
and a ramp of n steps costs O(log n): near a row its terms are taken one by one, and blocks of steps that are further
from the row than they are long are replaced by the three points of the Gauss quadrature of their deltas (as the far
field is in a fast multipole method). With `exact` every term is taken.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

Array = np.ndarray
LEAF = 8  # steps of the smallest block
NEGLIGIBLE = 1e-12  # of the peak: a change of the rate below this is rounding
LEAST_RATE = 1e-6  # of the peak: a rate is taken as at least this where a power of it is needed
KINK = 3.0  # a change that is so many times its neighbour ends a ramp


@dataclass(frozen=True)
class Units:
    """What a law's internal coordinates count in: `rate` (the peak), `total` (a summed rate, in units of `rate`)."""

    rate: float
    total: float


@dataclass(frozen=True)
class CurveRows:
    """Rows of curves (n,) and, flat, the terms of their sums over changes of the rate (m,), in `units`.

    `total` (n,) is S(t); `row` (m,) the row of a term, `weight` its delta, `log_rate` ln eta_k, `since` S_k(t),
    `steps` t - k + 1. `z` (n,) is ln N less a centre of the data.
    """

    units: Units
    total: Array
    row: Array
    weight: Array
    log_rate: Array
    since: Array
    steps: Array
    z: Array

    def sum(self, terms: Array) -> Array:
        """Sums (..., n) over the terms (..., m) of each row."""
        out = np.zeros((*terms.shape[:-1], len(self.total)))
        if len(self.row):
            out[..., self.row[self._begin]] = np.add.reduceat(terms, self._begin, axis=-1)
        return out

    @cached_property
    def _begin(self) -> Array:
        """Where the terms of each row that has some begin."""
        return np.flatnonzero(np.diff(self.row, prepend=-1))

    @cached_property
    def log_total(self) -> Array:
        """ln S(t) (n,)."""
        return np.log(self.total)


def ramps(rates: Array, first: int) -> list[Array]:
    """The steps after `first` at which the rate changes, in pieces over which it changes smoothly."""
    change = rates[:-1] - rates[1:]
    k = np.flatnonzero(np.abs(change) > NEGLIGIBLE * rates.max()) + 1
    k = k[k > first]
    if not len(k):
        return []
    delta = change[k - 1]
    ratio = delta[1:] / delta[:-1]
    cut = (np.diff(k) > 1) | (ratio > KINK) | (ratio < 1 / KINK)
    return np.split(k, np.flatnonzero(cut) + 1)


def compile_run(rates: Array, steps: Array, *, first: int, units: Units, exact: bool = False) -> dict[str, Array]:
    """The parts of CurveRows of one run but z: its rows at `steps` (n,), the indices of their last updates.

    `rates` (T,) are of every update, those up to index `first` of the warm-up: they count in S and change nothing else.
    Raises ValueError for a row beyond the schedule.
    """
    rates, steps = np.asarray(rates, dtype=float) / units.rate, np.asarray(steps, dtype=int)
    if len(steps) and not 0 <= steps.min() <= steps.max() < len(rates):
        raise ValueError(f"a row at step {steps.max()} lies beyond a schedule of {len(rates)} steps")
    cum = np.concatenate([[0.0], np.cumsum(rates)])
    rows, weights, at = [], [], []
    for piece in ramps(rates, first):
        for row, weight, place in _terms(piece, rates, steps, exact):
            rows.append(row)
            weights.append(weight)
            at.append(place)
    row = np.concatenate(rows) if rows else np.zeros(0, dtype=int)
    weight, place = (np.concatenate(parts) if parts else np.zeros(0) for parts in (weights, at))
    order = np.argsort(row, kind="stable")
    row, weight, place = row[order], weight[order], place[order]
    index = np.arange(len(rates))
    rate = np.interp(place, index, rates)
    before = np.interp(place, np.arange(len(cum)), cum)  # the rates before a step, summed
    return {
        "total": cum[steps + 1] / units.total,
        "row": row,
        "weight": weight,
        "log_rate": np.log(np.maximum(rate, LEAST_RATE)),
        "since": cum[steps[row] + 1] - before,
        "steps": steps[row] - place + 1.0,
    }


def _terms(piece: Array, rates: Array, steps: Array, exact: bool) -> list[tuple[Array, Array, Array]]:
    """Terms of one ramp: row, weight and (fractional) step of each."""
    delta = rates[piece - 1] - rates[piece]
    reached = np.searchsorted(piece, steps, side="right")  # changes of this ramp up to each row
    if exact or len(piece) <= 4 * LEAF:
        row = np.repeat(np.arange(len(steps)), reached)
        one = _ranges(np.zeros_like(reached), reached)
        return [(row, delta[one], piece[one].astype(float))]
    whole = reached // LEAF
    near = np.maximum(whole - 1, 1) * LEAF  # from here on the terms are taken one by one
    near = np.where(whole < 3, 0, near)
    head = np.where(whole < 3, 0, LEAF)
    out = []
    for begin, end in ((np.zeros_like(reached), head), (near, reached)):
        one = _ranges(begin, end)
        out.append((np.repeat(np.arange(len(steps)), end - begin), delta[one], piece[one].astype(float)))
    size = LEAF
    while 3 * size <= len(piece):
        row, block = _blocks(reached, size)
        if len(row):
            nodes, weights = _gauss(delta, size)
            out.append((
                np.repeat(row, 3), weights[block].ravel(), (piece[0] + block[:, None] * size + nodes[block]).ravel(),
            ))  # fmt: skip
        size *= 2
    return out


def _blocks(reached: Array, size: int) -> tuple[Array, Array]:
    """Rows and blocks of one size that stand for their terms: as far as they are long from the row and from the start
    of the ramp, of which no larger block is both."""
    q, parent = reached // size, reached // (2 * size)
    alone = parent < 3
    candidates = [(np.ones_like(q), q >= 3)]
    candidates += [(np.full_like(q, i), alone & (q - 2 >= i)) for i in (2, 3)]
    candidates += [(2 * parent - 2 + i, ~alone & (q - 2 >= 2 * parent - 2 + i)) for i in (0, 1)]
    found = [(np.flatnonzero(use), block[use]) for block, use in candidates]
    return np.concatenate([row for row, _ in found]), np.concatenate([block for _, block in found])


def _gauss(delta: Array, size: int) -> tuple[Array, Array]:
    """Nodes, in steps from the start of its block, and weights (blocks, 3) of the Gauss quadrature of every whole block
    of `delta`, by the three-term recurrence of its orthogonal polynomials (Golub and Welsch 1969)."""
    w = delta[: len(delta) // size * size].reshape(-1, size)
    mass = w.sum(axis=1)
    w = w / mass[:, None]
    x = np.linspace(-1.0, 1.0, size)[None]
    a: list[Array] = []
    b: list[Array] = []
    p, norm = [np.ones_like(w)], [np.ones(len(w))]
    for degree in range(3):
        a.append((w * x * p[-1] ** 2).sum(axis=1) / norm[-1])
        below = b[-1][:, None] * p[-2] if degree else 0.0
        p.append((x - a[-1][:, None]) * p[-1] - below)
        norm.append((w * p[-1] ** 2).sum(axis=1))
        b.append(norm[-1] / norm[-2])
    matrix = np.zeros((len(w), 3, 3))
    for i in range(3):
        matrix[:, i, i] = a[i]
    for i in range(2):
        matrix[:, i, i + 1] = matrix[:, i + 1, i] = np.sqrt(b[i])
    nodes, vectors = np.linalg.eigh(matrix)
    return (nodes + 1) * (size - 1) / 2, mass[:, None] * vectors[:, 0] ** 2


def _ranges(begin: Array, end: Array) -> Array:
    """begin[0] .. end[0] - 1, begin[1] .. end[1] - 1, ... in one array."""
    length = np.maximum(end - begin, 0)
    first = np.repeat(begin - np.concatenate([[0], np.cumsum(length)[:-1]]), length)
    return first + np.arange(length.sum())


def join(parts: Sequence[dict[str, Array]], z: Sequence[float], units: Units) -> CurveRows:
    """The rows of several runs, of which `compile_run` made the parts, one after another; `z` is that of each run."""
    counts = [len(part["total"]) for part in parts]
    offset = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(int)
    rows = [part["row"] + o for part, o in zip(parts, offset, strict=True)]
    named = {k: np.concatenate([part[k] for part in parts]) for k in ("total", "weight", "log_rate", "since", "steps")}
    return CurveRows(units, row=np.concatenate(rows), z=np.repeat(np.asarray(z, dtype=float), counts), **named)
