"""Exchange search: the set of cells that most lowers the variance of a goal, within FLOPs and a number of cells.

A cell's price is its share of the FLOPs plus its share of the number. The search starts from greedy sets by variance
removed per power of that price. Then, in each round, it removes at random from one cell to half of them and one, fills
the budget greedily again, and keeps the set if it is better. The test compares it with the lower bound of the convex
relaxation. No cell is chosen twice: by gain per FLOP the cheapest cell would be chosen many times over.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from isoflop.scaling.design.candidates import CandidateRuns, DesignError
from isoflop.scaling.design.information import Noise, Scenario, trunk_sums, within_trunk
from isoflop.scaling.laws.law import Array

POWERS = (0.25, 0.5, 0.75, 1.0)
ROUNDS = 80  # equivalent: one more or less is a little slower or worse


class ExchangeSearch:
    """A c-optimal choice of at most `most` cells, averaged over scenarios, given the runs in `known`.

    `chosen` holds row numbers of the cells after `search`; those in `fixed` are always part of it. Raises DesignError
    when the goal is not identified by the known runs and the prior.
    """

    def __init__(
        self, cells: CandidateRuns, scenarios: Sequence[Scenario], noise: Noise, known: pd.DataFrame | None, most: int
    ) -> None:
        self.most = most
        self.cells, self.scenarios = cells, scenarios
        flops = known["flops"].to_numpy(float) if known is not None else np.zeros(0)
        self.known_variance = noise.variance(flops)
        self.variance = noise.variance(cells.frame["flops"].to_numpy(float))
        self.shared = noise.shared
        self.known_trunk, self.trunk = cells.trunks_with(known)
        self.spread = [s.spread(v) for s, v in zip(scenarios, self._inverses([]), strict=True)]
        if not all(np.isfinite(v).all() for v in self.spread):
            raise DesignError("the laws fitted so far leave the target undetermined: add runs of other sizes first")
        # A scenario counts by its weight and its variance of the goal.
        share = np.array([s.weight * np.median(v) for s, v in zip(scenarios, self.spread, strict=True)])
        self.share = share / share.sum()
        self.fixed: list[int] = []
        self.chosen: list[int] = []

    def search(self, budget: float, *, rounds: int = ROUNDS, seed: int = 0) -> None:
        """Choose cells that cost at most `budget` FLOPs together, into `chosen`."""
        value, chosen = min((self.value(c), c) for c in (self._fill(self.fixed, budget, p) for p in POWERS))
        rng = np.random.default_rng(seed)
        for _ in range(rounds):
            free = [i for i in chosen if i not in self.fixed]
            if not free:
                break
            count = rng.integers(1, len(free) // 2 + 2)  # equivalent: of a broken number its whole part
            gone = rng.choice(free, size=count, replace=False)
            tried = self._fill([i for i in chosen if i not in gone], budget, rng.choice(POWERS))
            now = self.value(tried)
            if now < value:  # equivalent: what is as good is as good
                value, chosen = now, tried
        self.chosen = chosen

    def _fill(self, chosen: Sequence[int], budget: float, power: float) -> list[int]:
        """The chosen cells and further ones by gain per price^power, as long as budget and number allow."""
        chosen = list(chosen)
        inverses, given = self._inverses(chosen), self._given(chosen)
        while len(chosen) < self.most:
            cost = self.cells.marginal(chosen)
            affordable = cost <= budget - self.cells.cost(chosen)
            affordable[chosen] = False
            if not affordable.any():
                break
            price = cost / budget + 1.0 / self.most
            new = int(np.argmax(np.where(affordable, self._gain(inverses, given) / price**power, -np.inf)))
            chosen.append(new)
            inverses = [self._with(v, *rows, new) for v, rows in zip(inverses, given, strict=True)]
            given = self._given(chosen)
        return chosen

    def rows(self, chosen: Sequence[int]) -> Array:
        """The trunks of the known runs and of the chosen cells, one after the other."""
        return np.concatenate([self.known_trunk, self.trunk[list(chosen)]])

    def _inverses(self, chosen: Sequence[int]) -> list[Array]:
        """The inverse Fisher information with these cells, (B, P, P) of each scenario."""
        at = list(chosen)
        rows = self.rows(at)
        return [
            s.inverse(self.known_variance, s.offered[:, at], self.variance[at], rows, self.shared)
            for s in self.scenarios
        ]

    def _given(self, chosen: Sequence[int]) -> list[tuple[Array, Array]]:
        """Of each scenario the gradients of the cells and their variances, less what the runs of their trunks tell.

        What the known and the chosen runs of a trunk make of a cell's noise is taken off both: then one more cell is
        one more independent run.
        """
        if self.shared == 0:  # equivalent: a short way
            return [(s.offered, self.variance) for s in self.scenarios]
        at = list(chosen)
        trunks = self.rows(at)
        noise, own = np.sqrt(np.concatenate([self.known_variance, self.variance[at]])), np.sqrt(self.variance)
        count = np.bincount(trunks, minlength=int(self.trunk.max()) + 1)  # equivalent: of more trunks none has a run
        share = within_trunk(count, self.shared)
        variance = self.variance * (1 - count * self.shared * share)[self.trunk]
        found = []
        for s in self.scenarios:
            done = np.concatenate([s.known, s.offered[:, at]], axis=1) / noise[:, None]
            predicted = (share[:, None] * trunk_sums(done, trunks, np.arange(len(count))))[:, self.trunk]
            found.append((s.offered - own[:, None] * predicted, variance))
        return found

    @staticmethod
    def _with(inverse: Array, rows: Array, variance: Array, new: int) -> Array:
        """The inverse Fisher information with one more cell: a rank-one update."""
        moved = np.squeeze(inverse @ rows[:, new, :, None], axis=-1)
        leverage = np.sum(moved * rows[:, new], axis=1)
        return inverse - moved[:, :, None] * moved[:, None, :] / (variance[new] + leverage)[:, None, None]

    def _gain(self, inverses: Sequence[Array], given: Sequence[tuple[Array, Array]]) -> Array:
        """Share of the starting variance of the goal that each cell would remove, (n,)."""
        total = np.zeros(len(self.cells))
        for s, v, (rows, variance), spread, share in zip(
            self.scenarios, inverses, given, self.spread, self.share, strict=True
        ):
            moved = rows @ v
            leverage = moved[..., 0] * rows[..., 0]
            for p in range(1, moved.shape[2]):  # of so few terms twice as fast as np.sum over the last axis
                leverage += moved[..., p] * rows[..., p]
            pull = np.squeeze(moved @ s.goal[..., None], axis=-1)
            total += share * np.mean(pull**2 / (variance + leverage) / spread[:, None], axis=0)
        return total

    def value(self, chosen: Sequence[int]) -> float:
        """Variance of the goal after these cells, over that at the start."""
        ratios = [
            np.mean(s.spread(v) / spread)
            for s, v, spread in zip(self.scenarios, self._inverses(chosen), self.spread, strict=True)
        ]
        return float(np.dot(self.share, ratios))

    def gains(self) -> pd.DataFrame:
        """Every candidate, with the share (`gain`) of the starting variance of the goal that it alone would remove."""
        frame = self.cells.frame[["size", "budget", "n_params", "tokens", "flops"]]
        return frame.assign(gain=self._gain(self._inverses([]), self._given([])))
