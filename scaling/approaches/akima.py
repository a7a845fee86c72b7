"""Akima's interpolation (1970): cubics through points whose slopes heed the points nearby, without overshoot.

The same numbers as scipy.interpolate's, to the bit; importing that takes longer than all other work of the approaches.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

FLAT = 1e-9  # of the greatest change of slope: changes below it are none


def akima(x: np.ndarray, y: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """The curve through y (n,) or (n, k) at increasing x (n,): values (m,) or (m, k) at (m,), NaN outside x."""
    if len(x) < 2 or not (np.diff(x) > 0).all():
        raise ValueError("an interpolation needs two places or more, each beyond the one before")
    y = y[:, None] if (flat := np.ndim(y) == 1) else y
    width = np.diff(x)[:, None]
    steepness = np.diff(y, axis=0) / width
    slope = _slopes(steepness)
    bend = (slope[:-1] + slope[1:] - 2 * steepness) / width
    powers = y[:-1], slope[:-1], (steepness - slope[:-1]) / width - bend, bend / width
    return partial(_values, x, powers, flat)


def _values(x: np.ndarray, powers: Sequence[np.ndarray], flat: bool, at: np.ndarray) -> np.ndarray:
    """The cubics between x (n,), whose coefficients are `powers`, at places (m,); of one curve, where `flat`."""
    piece = np.clip(np.searchsorted(x, at, side="right") - 1, 0, len(x) - 2)
    beyond = (at - x[piece])[:, None]
    value, power = powers[0][piece], beyond
    for coefficient in powers[1:]:
        value, power = value + coefficient[piece] * power, power * beyond
    value[~((at >= x[0]) & (at <= x[-1]))] = np.nan
    return value[:, 0] if flat else value


def _slopes(steepness: np.ndarray) -> np.ndarray:
    """Slopes (n, k) at the points from the steepness (n - 1, k) between them, continued by two places on both sides."""
    if len(steepness) == 1:
        return np.concatenate([steepness, steepness])
    m = np.empty((len(steepness) + 4, *steepness.shape[1:]))
    m[2:-2] = steepness
    for here, one, two in ((1, 2, 3), (0, 1, 2), (-2, -3, -4), (-1, -2, -3)):
        m[here] = 2.0 * m[one] - m[two]
    slope, change = 0.5 * (m[3:] + m[:-3]), np.abs(np.diff(m, axis=0))
    before, after = change[:-2], change[2:]
    both = after + before
    bent = both > FLAT * both.max()
    heeded = m[1:-2] + before / np.where(bent, both, 1.0) * (m[2:-1] - m[1:-2])
    return np.where(bent, heeded, slope)
