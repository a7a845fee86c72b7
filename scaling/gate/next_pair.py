"""The pair of runs to make next: the one that removes most of the variance of ln m at the target per FLOP."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from isoflop.scaling.gate.discrepancy import Discrepancy
from isoflop.scaling.gate.estimate import Estimate, Observations, by_cluster
from isoflop.scaling.gate.sequence import critical
from isoflop.scaling.laws.law import Array

DRIFT = 0.3  # scale of the drift per unit of ln compute for planning, before anything shows it
NOISE = 0.015  # standard deviation of a pair in ln loss for planning, before anything shows it
MOST_PAIRS = 1_000_000


@dataclass(frozen=True)
class NextPair:
    """The `cell` to run once more in both arms (n_params, tokens, flops of one run), and the FLOPs of the pair.

    `pairs`, each chosen like this one and of `flops` together, are expected to decide if the estimate holds; None
    where no number does.
    """

    cell: dict[str, float]
    pair_flops: float
    pairs: int | None
    flops: float | None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {**self.cell, "pair_flops": self.pair_flops, "pairs": self.pairs, "flops_to_decide": self.flops}


@dataclass(frozen=True)
class Planner:
    """Chooses pairs for a gate at `target` from cells of these FLOPs a run, at which the baseline has these slopes."""

    flops: Array
    slope: Array
    target: float
    discrepancy: Discrepancy | None

    def choose(self, before: Array, sigma: float) -> int:
        """Which cell removes the most variance of ln m at the target per FLOP; `before` is the information (2, 2)."""
        after = before + np.stack([self._one(k, sigma) for k in range(len(self.flops))])
        removed = np.linalg.inv(before)[0, 0] - np.linalg.inv(after)[:, 0, 0]
        return int(np.argmax(removed / self.flops))

    def first(self, pairs: Observations, found: Estimate) -> int:
        """The cell of the next pair."""
        pairs, sigma = by_cluster(pairs)[0], _sigma(found)
        return self.choose(_precision(pairs.slope, pairs.x, sigma, self.discrepancy), sigma)

    def until_decided(
        self, pairs: Observations, found: Estimate, error: float, least: float
    ) -> tuple[int | None, float | None]:
        """How many more pairs, and FLOPs, decide if the estimate holds; None where no number does."""
        if not np.isfinite(found.mean):
            return None, None
        pairs, sigma = by_cluster(pairs)[0], _sigma(found)
        scale = float(np.mean(pairs.slope**2))
        goal = found.mean if found.mean >= np.log(least) else np.log(least) - found.mean
        information = _precision(pairs.slope, pairs.x, sigma, self.discrepancy)
        more, spent = 0, 0.0
        while more < MOST_PAIRS:
            k, batch = self.choose(information, sigma), max(1, more // 8)
            information = information + batch * self._one(k, sigma)
            more, spent = more + batch, spent + 2 * batch * float(self.flops[k])
            noise = float(np.linalg.inv(information)[0, 0])
            freedom = len(np.unique(pairs.cluster)) + more - 1.0 - found.needs_drift
            half = float(critical(sigma**2 / noise / scale, freedom, error) * np.sqrt(noise))
            if half < goal:
                return more, spent
        return None, None

    def _one(self, k: int, sigma: float) -> Array:
        x = np.log(self.flops[k : k + 1] / self.target)
        return _precision(self.slope[k : k + 1], x, sigma, self.discrepancy, prior=False)


def _sigma(found: Estimate) -> float:
    return found.sigma if np.isfinite(found.sigma) and found.sigma > 0 else NOISE


def _precision(slope: Array, x: Array, sigma: float, discrepancy: Discrepancy | None, *, prior: bool = True) -> Array:
    """Information (2, 2) of pairs on ln m at the target and its drift, with that of the prior on the drift."""
    scale: Array | float = 1.0
    drift = DRIFT
    if discrepancy is not None:
        scale, drift = discrepancy.shrink ** (x / discrepancy.span), discrepancy.sd / discrepancy.span
    design = (slope * scale)[:, None] * np.column_stack([np.ones(len(x)), x])
    known = np.diag([1e-6, 1.0 / drift**2]) if prior else 0.0
    return design.T @ design / sigma**2 + known
