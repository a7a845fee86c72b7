"""What the solver knows of the problems that it still moves: where they are, their residuals and gradients there."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise

import numpy as np

from isoflop.scaling.fitting.objective import Array, Problem, Task

WHERE, IN_ROWS = ("theta", "value", "total"), ("residual", "bounded", "gradient", "full")  # what a step changes


@dataclass(frozen=True)
class Data:
    """The data of problems still being solved: of one task, or of tasks that are alike, with rows of their own each.

    `delta`, `weights`, `robust` and `squares` are those of a `Task`; `own` is whether columns, losses, `delta` and
    `weights` have a row for each problem. `number` tells one from another.
    """

    problem: Problem
    delta: float | Array
    weights: Array
    robust: bool
    squares: bool
    own: bool
    number: int

    @classmethod
    def of(cls, tasks: Sequence[Task], number: int) -> "Data":
        first = tasks[0]
        if len(tasks) == 1:
            return cls(first.problem, first.delta, first.weights, first.robust, first.squares, False, number)
        counts = [len(task.start) for task in tasks]
        shapes = [(count, task.weights.shape[1]) for count, task in zip(counts, tasks, strict=True)]
        problem = first.problem.beside([task.problem for task in tasks], counts)  # type: ignore[attr-defined]
        delta, weights = (
            np.concatenate([np.broadcast_to(a, shape) for a, shape in zip(arrays, shapes, strict=True)])
            for arrays in ([task.delta for task in tasks], [task.weights for task in tasks])
        )
        return cls(problem, delta, weights, first.robust, first.squares, True, number)

    def take(self, keep: Array, count: int) -> "Data":
        """That of the problems at the places `keep` among as many as `count`."""
        if not self.own and len(self.weights) != count:
            return self
        problem, delta = self.problem, self.delta
        if self.own:
            problem, delta = problem.take(keep), np.asarray(delta)[keep]  # type: ignore[attr-defined]
        return Data(problem, delta, self.weights[keep], self.robust, self.squares, self.own, self.number)


@dataclass
class Part:
    """What is known in each row of some data of their problems still being solved: arrays (B, ..., n)."""

    data: Data
    residual: Array
    bounded: Array | None  # the residual within delta, None where it is itself
    gradient: Array
    full: Array | None  # the gradient in every parameter of the form, None where that is `gradient`

    def __len__(self) -> int:
        return len(self.residual)

    def take(self, keep: Array) -> "Part":
        if len(keep) == len(self):
            return self
        bounded = None if self.bounded is None else self.bounded[keep]
        full = None if self.full is None else self.full[keep]
        data = self.data.take(keep, len(self))
        return Part(data, self.residual[keep], bounded, self.gradient[keep], full)


@dataclass
class State:
    """Everything known of the B problems still being solved, one row each: the last accepted point and its derivatives.

    `total` (B,) is the objective with the anchor's part, `rows` (B,) the place of each problem in the whole batch. The
    problems of a part lie together.
    """

    theta: Array
    value: Array
    total: Array
    rows: Array
    parts: list[Part]
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

    def take(self, keep: Array) -> "State":
        parts = [part.take(own) for part, own in zip(self.parts, self.split(keep), strict=True) if len(own)]
        return State(
            self.theta[keep], self.value[keep], self.total[keep], self.rows[keep], parts, self.damping[keep]
        )  # fmt: skip

    def accept(self, better: Array, other: "State") -> None:
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

    def replace(self, at: Array, other: "State", its: Array) -> None:
        """Put the problems at the places `at` where those of `other` at its places are."""
        _replace(self, at, other, its, WHERE)
        found = {part.data.number: (part, own) for part, own in zip(other.parts, other.split(its), strict=True)}
        for part, own in zip(self.parts, self.split(at), strict=True):
            if len(own):
                _replace(part, own, *found[part.data.number], IN_ROWS)


def _accept(mine: State | Part, new: State | Part, better: Array, names: tuple[str, ...]) -> None:
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


def _replace(mine: State | Part, at: Array, new: State | Part, its: Array, names: tuple[str, ...]) -> None:
    for name in names:
        if (own := getattr(mine, name)) is not None:
            own[at] = getattr(new, name)[its]
