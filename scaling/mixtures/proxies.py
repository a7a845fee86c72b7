"""Which further mixtures to train: those whose losses would narrow an answer most, by what draws say of both."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from isoflop.scaling.laws.law import Array

CANDIDATES = 200
CONCENTRATION = 30.0  # of the candidates around the best mixture
SPREAD = 0.3  # added to it, so that a domain without a share has candidates too
BEYOND = 0.01  # of a share: what rounding leaves is inside


@dataclass(frozen=True)
class Proxy:
    """A further run: its mixture (k,), and the share of the variance of the answer that its loss would remove.

    The share counts the proxies before it too.
    """

    weights: Array
    removes: float


def candidates(best: Array, natural: Array, caps: Array, lots: np.random.Generator) -> Array:
    """Mixtures (k, c) within the caps (k,): about the best one, between it and the natural one, and anywhere."""
    about = lots.dirichlet(CONCENTRATION * best + SPREAD, CANDIDATES // 2).T
    between = [natural + s * (best - natural) for s in np.linspace(-0.5, 1.5, 9)]
    between = [np.clip(one, 0.0, None) / np.clip(one, 0.0, None).sum() for one in between]
    wide = lots.dirichlet(np.ones(len(best)), CANDIDATES // 2).T
    found = np.hstack([best[:, None], natural[:, None], np.stack(between, axis=1), about, wide])
    return found[:, (found <= caps[:, None] + BEYOND).all(axis=0)]


def narrowing(
    answers: Array, mixtures: Array, drawn: Sequence[Callable[[Array], Array]], noise: float, count: int
) -> tuple[Proxy, ...]:
    """The `count` of the mixtures (k, c) whose losses would narrow the answers most, one after the other.

    `answers` (B, q) are those of B draws, and `drawn` gives the losses of each at mixtures; `noise` is that of a run,
    nats/token. What a loss tells of an answer is taken to be linear.
    """
    losses = np.array([one(mixtures) for one in drawn])
    left, values = answers - answers.mean(axis=0), losses - losses.mean(axis=0)
    before, found = float((left**2).sum()), []
    for _ in range(count if before > 0 and mixtures.shape[1] else 0):
        spread = np.einsum("bc,bc->c", values, values) + len(drawn) * noise**2
        slope = (left.T @ values) / spread
        at = int(np.argmax((slope**2).sum(axis=0) * spread))
        seen = values[:, at].copy()
        left = left - np.outer(seen, slope[:, at])
        values = values - np.outer(seen, (seen @ values) / spread[at])
        found.append(Proxy(mixtures[:, at], float(np.clip(1 - (left**2).sum() / before, 0.0, 1.0))))
    return tuple(found)
