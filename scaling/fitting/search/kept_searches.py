"""One search for one question: what `search` answered is kept while a command or a report runs.

Findings, figures and hold-outs ask for the same law on the same numbers under other names: another convention of
compute, the last rolling origin, the law of the report. A search depends on nothing but its arguments, so that the
answer kept is the one that would be found, to the bit.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from hashlib import blake2b

import numpy as np

from isoflop.scaling.fitting.objective import Objective
from isoflop.scaling.fitting.problem import FitProblem
from isoflop.scaling.fitting.search.search import Found, Requested, search, search_together
from isoflop.scaling.laws.law import Array

Searches = dict[tuple[object, ...], Found]
_KEPT: ContextVar[Searches | None] = ContextVar("kept searches", default=None)


@contextmanager
def keep_searches(kept: Searches | None = None) -> Iterator[None]:
    """Inside, `search_once` asks nothing twice; what it keeps is dropped at the end of the outermost block.

    `kept` holds what was found before and takes what is found: it outlives the block.
    """
    if _KEPT.get() is not None:
        yield
        return
    token = _KEPT.set({} if kept is None else kept)
    try:
        yield
    finally:
        _KEPT.reset(token)


def search_once(
    problem: FitProblem, weights: Array, objective: Objective, *, n_starts: int | None, seed: int, spread: Array | float
) -> Found:
    """What `search` returns; inside `keep_searches` an equal search of before answers. Read it, do not write to it."""
    kept = _KEPT.get()
    if kept is None:
        return search(problem, weights, objective, n_starts=n_starts, seed=seed, spread=spread)
    key = _key(Requested(problem, weights, spread), objective, n_starts, seed)
    if key not in kept:
        kept[key] = search(problem, weights, objective, n_starts=n_starts, seed=seed, spread=spread)
    return kept[key]


def search_ahead(
    requested: Sequence[Requested], objective: Objective, *, n_starts: int | None = None, seed: int = 0
) -> None:
    """Search together for what `search_once` will be asked, problems of one box; nothing outside `keep_searches`."""
    kept = _KEPT.get()
    if kept is None:
        return
    alike: dict[tuple[object, ...], dict[tuple[object, ...], Requested]] = {}
    for one in requested:
        key = _key(one, objective, n_starts, seed)
        if key not in kept:
            problem = one.problem
            box = (problem.lower.tobytes(), problem.upper.tobytes(), problem.one_basin, problem.log)
            alike.setdefault(box, {})[key] = one
    for some in alike.values():
        if len(some) > 1:
            found = search_together(list(some.values()), objective, n_starts=n_starts, seed=seed)
            kept.update(zip(some, found, strict=True))


def _key(requested: Requested, objective: Objective, n_starts: int | None, seed: int) -> tuple[object, ...]:
    problem = requested.problem
    return (
        problem.form, tuple(sorted(problem.pinned.items())), problem.tied, problem.log, tuple(problem.columns),
        _digest((*problem.columns.values(), problem.loss, requested.weights, requested.spread)),
        objective, n_starts, seed,
    )  # fmt: skip


def _digest(arrays: Iterable[Array | float]) -> bytes:
    """A digest of numbers in their shapes."""
    found = blake2b(digest_size=32)
    for array in map(np.asarray, arrays):
        found.update(f"{array.dtype.str} {array.shape};".encode() + np.ascontiguousarray(array).tobytes())
    return found.digest()
