"""The best mixture of a loss as a function of the shares, within caps, and how flat it is there."""

from collections.abc import Callable

import numpy as np

from isoflop.scaling.laws.law import Array

STEP = 1e-5  # of a share, for differences
SMALL = 1e-4  # a share below is none
STARTS = 4
ALONG = tuple(np.concatenate([[0.0], np.geomspace(1e-4, 1.0, 80)]).tolist())

Loss = Callable[[Array], Array]  # shares (k, n) to losses (n,)


def best_mixture(loss: Loss, starts: Array, caps: Array, tries: int = STARTS) -> Array:
    """The shares (k,) with the lowest loss, summing to 1 and none above its cap (k,).

    From so many `tries` of `starts` (k, s) within the caps, the best of them first.
    The conditions of Karush, Kuhn and Tucker are those that SLSQP ends by; a convex law has one optimum.
    """
    from scipy.optimize import minimize  # slow to import, and only this needs it

    ends, unit = [], float(loss(starts[:, :1])[0])  # the end of a search is not one of units
    for at in np.argsort(loss(starts), kind="stable")[:tries]:
        found = minimize(
            lambda h: float(loss(h[:, None])[0]) / unit, starts[:, at], jac=lambda h: _slope(loss, h) / unit,
            method="SLSQP",
            bounds=[(0.0, float(cap)) for cap in caps], options={"maxiter": 200, "ftol": 1e-10},
            constraints={"type": "eq", "fun": lambda h: h.sum() - 1.0, "jac": np.ones_like},
        )  # fmt: skip
        ends += [within(found.x, caps), starts[:, at]]
    both = np.stack(ends, axis=1)
    best = both[:, int(np.argmin(loss(both)))]
    return within(np.where(best < SMALL, 0.0, best), caps)


def within(shares: Array, caps: Array) -> Array:
    """Shares (k,) brought to a sum of 1 with none above its cap: what is cut goes to the others, in proportion."""
    made = np.clip(shares, 0.0, None)
    made = made / made.sum()
    for _ in range(len(made)):
        over = made > caps
        made = np.where(over, caps, made)
        left, room = 1.0 - made.sum(), np.where(made < caps, np.maximum(made, 1e-12), 0.0)
        if left <= 1e-12 or not room.any():
            break
        made = made + left * room / room.sum()
    return np.minimum(made, caps)


def flat(loss: Loss, best: Array, caps: Array, rise: float) -> Array:
    """The lowest and the highest share (k, 2) of each domain whose loss is within the share `rise` of the lowest.

    The others give or take in the proportions that they have in the best mixture.
    """
    limit = float(loss(best[:, None])[0]) * (1 + rise)
    found = np.stack([best, best], axis=1)
    for j, share in enumerate(best):
        rest = np.where(np.arange(len(best)) == j, 0.0, best)
        rest = rest / rest.sum() if rest.any() else np.where(np.arange(len(best)) == j, 0.0, 1.0 / (len(best) - 1))
        for side, end in ((0, 0.0), (1, min(1.0, float(caps[j])))):
            moved = share + (end - share) * np.array(ALONG)
            mixtures = rest[:, None] * (1.0 - moved)
            mixtures[j] = moved
            inside = (loss(mixtures) <= limit) & (mixtures <= caps[:, None] + 1e-9).all(axis=0)
            last = len(inside) if inside.all() else max(int(np.argmin(inside)), 1)
            found[j, side] = moved[last - 1]
    return found


def _slope(loss: Loss, h: Array) -> Array:
    """The derivatives (k,) of the loss in each share, the others held."""
    shift = STEP * np.eye(len(h))
    below = np.minimum(shift, np.diag(h))  # a share is not negative
    values = loss(np.concatenate([h[:, None] + shift, h[:, None] - below], axis=1))
    return (values[: len(h)] - values[len(h) :]) / (STEP + np.diag(below))
