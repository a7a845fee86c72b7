"""Downhill by a simplex (Nelder and Mead 1965), step for step that of scipy.optimize, to the bit.

`import scipy.optimize` takes as long as half of pandas and brings solvers of linear programs and of whole numbers; the
deviations of a law of curves are all that a report, a forecast of a run and `watch` need of it.
"""

from collections.abc import Callable
from contextlib import suppress

import numpy as np

from isoflop.scaling.laws.curves.sums import Array


class _SpentError(Exception):
    """The evaluations allowed are used up."""


def downhill(
    function: Callable[[Array], float], start: Array, *, apart: float, most: int, near: float, close: float
) -> Array:
    """The lowest corner (P,) found from `start` (P,) with at most so many evaluations.

    The first simplex has a corner `apart` from the start along each coordinate. It ends earlier where all corners are
    within `near` of the lowest in every coordinate, and their values within `close` of its value.
    """
    count, spent = len(start), 0

    def value(at: Array) -> float:
        nonlocal spent
        if spent >= most:
            raise _SpentError
        spent += 1
        return function(at.copy())

    corners = start + apart * np.eye(count + 1, count, -1)
    values = np.full(count + 1, np.inf)
    with suppress(_SpentError):
        for k in range(count + 1):
            values[k] = value(corners[k])
    corners, values = _sorted(corners, values)
    while spent < most:
        if np.abs(corners[1:] - corners[0]).max() <= near and np.abs(values[0] - values[1:]).max() <= close:
            break
        with suppress(_SpentError):
            _move(corners, values, value)
        corners, values = _sorted(corners, values)
    return corners[0]


def _move(corners: Array, values: Array, value: Callable[[Array], float]) -> None:
    """Replace the highest corner by one beyond the others' middle or inside, or draw all towards the lowest."""
    middle, worst = np.add.reduce(corners[:-1], 0) / (len(corners) - 1), corners[-1]
    across = 2 * middle - worst
    reached = value(across)
    if reached < values[0]:
        further = 3 * middle - 2 * worst
        beyond = value(further)
        corners[-1], values[-1] = (further, beyond) if beyond < reached else (across, reached)
        return
    if reached < values[-2]:
        corners[-1], values[-1] = across, reached
        return
    short, bound = (1.5 * middle - 0.5 * worst, reached) if reached < values[-1] else (0.5 * middle + 0.5 * worst, None)
    found = value(short)
    if found < values[-1] if bound is None else found <= bound:
        corners[-1], values[-1] = short, found
        return
    for k in range(1, len(corners)):
        corners[k] = corners[0] + 0.5 * (corners[k] - corners[0])
        values[k] = value(corners[k])


def _sorted(corners: Array, values: Array) -> tuple[Array, Array]:
    order = np.argsort(values)
    return corners[order], values[order]
