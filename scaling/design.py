"""Which runs next: the cells of a lattice that most narrow a quantity at a target compute, within a budget.

Greedy c-optimal choices by variance removed per power of cost, then exchanges: a chosen cell goes, and what it cost
buys the best there is. The best of several such searches stands. No cell is repeated: gain per FLOP would buy sixty
clones of the cheapest. The model's discrepancy, which grows with distance from the target, keeps cheap cells from
looking informative. One large cell is kept as a hold-out, to be predicted before it is run, and a little for seeds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from scaling.information import Goal, Noise, Scenario, standard_deviation
from scaling.lattice import DesignError, Lattice
from scaling.law import Array, Cost, Law
from scaling.scoreboard_text import plain, records

HOLD_OUT_SHARE = 0.18
HOLD_OUT_FACTOR = 3.0  # compute of the hold-out over the largest run done
SEED_SHARE = 0.1
COST_POWERS = (0.25, 1.0)
SEEDS = [0, 1, 2]
SEEDED = 3  # cells repeated with every seed
MOST_CELLS = 50
PASSES = 3
GRID_BUDGETS, GRID_SIZES, GRID_FACTOR = 5, 5, 4.0


@dataclass(frozen=True)
class Design:
    """Cells to run and what they will do. `cells`: size, budget, n_params, tokens, flops, seeds, role (fit, hold-out).

    `sd` maps now, after, grid (a plain isoFLOP grid at the same spend) to the goal's standard deviation, of which
    `sampling` has the part without model discrepancy: what a refit under the right law would show. All in ln.
    """

    goal: Goal
    target: float
    budget: float
    spent: float
    cells: pd.DataFrame
    sd: dict[str, float]
    sampling: dict[str, float]
    gains: pd.DataFrame
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "goal": self.goal, "target_flops": self.target, "budget_flops": self.budget, "spent_flops": self.spent,
            "cells": records(self.cells), "sd": {k: plain(v) for k, v in self.sd.items()},
            "sd_sampling": {k: plain(v) for k, v in self.sampling.items()},
            "gains": records(self.gains), "notes": list(self.notes),
        }  # fmt: skip

    def __str__(self) -> str:
        what = {"loss": "loss", "n_opt": "best size", "multiplier": "compute at equal loss"}[self.goal]
        lines = [
            f"{len(self.cells)} cells for {self.spent:.3g} of {self.budget:.3g} FLOPs, to know the {what} at "
            f"{self.target:.3g} FLOPs",
            f"  {'size':>8} {'budget':>9} {'n_params':>10} {'tokens':>10} {'tok/param':>9} {'seeds':>7}  role",
        ]
        for c in self.cells.itertuples():
            seeds = ",".join(map(str, c.seeds))
            lines.append(
                f"  {c.size:>8} {c.budget:>9.3g} {c.n_params:>10.4g} {c.tokens:>10.4g} {c.tokens / c.n_params:>9.3g} "
                f"{seeds:>7}  {c.role}"
            )
        for name, said in (("now", "now"), ("after", "after these runs"), ("grid", "after an isoFLOP grid instead")):
            if np.isfinite(self.sd[name]):
                lines.append(
                    f"  90% interval {said}: {_times(self.sd[name])}, of which sampling {_times(self.sampling[name])}"
                )
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def _times(sd: float) -> str:
    factor = np.exp(1.645 * sd)
    return f"+/- {factor - 1:.2%}" if factor < 2 else f"a factor {factor:.3g}"


def suggest(
    cells: Lattice,
    scenarios: Sequence[Scenario],
    *,
    budget: float,
    target: float,
    goal: Goal = "n_opt",
    noise: Noise,
    known: pd.DataFrame | None = None,
    best: Law | None = None,
    cost: Cost,
    replicated: bool = False,
    hold_out_share: float = HOLD_OUT_SHARE,
    seed_share: float = SEED_SHARE,
    most_cells: int = MOST_CELLS,
) -> Design:
    """Choose cells worth `budget` FLOPs. `known` are the runs behind the scenarios, `best` the law that places the
    hold-out at its optimum. Raises DesignError when the scenarios say nothing about the goal."""
    search = _Search(cells, scenarios, noise, known, budget, most_cells)
    notes = []
    largest = float(known["flops"].max()) if known is not None and len(known) else 0.0
    hold_out = _hold_out(cells, best, cost, hold_out_share * budget, largest) if best is not None else None
    if hold_out is not None:
        search.fixed = [hold_out]
        reach = float(cells.frame["flops"][hold_out] / largest) if largest else np.inf
        if reach < HOLD_OUT_FACTOR:
            notes.append(
                f"the hold-out is {reach:.2g} times the largest run; {HOLD_OUT_FACTOR:g} would test the law more"
            )
    elif hold_out_share:
        notes.append(
            f"no hold-out: {hold_out_share:.0%} of the budget affords none above the largest run ({largest:.3g} FLOPs)"
        )
    cheapest = np.sort(cells.frame["flops"].to_numpy(float))[:SEEDED].sum() * (len(SEEDS) - 1)
    seeds_for = 0.0 if replicated else min(seed_share * budget, 2.0 * float(cheapest))
    search.search(budget - seeds_for)
    spent = cells.cost(search.chosen)
    table = cells.frame.loc[search.chosen].assign(seeds=[[0]] * len(search.chosen), role="fit")
    if hold_out is not None:
        table.loc[hold_out, "role"] = "hold-out"
    table, extra = _replicate(table, cells, min(seeds_for, budget - spent))
    table = table.sort_values(["budget", "n_params"], ignore_index=True)
    if extra:
        notes.append(f"{extra:.3g} FLOPs go to further seeds of the cheapest cells: the noise of one run")
    sd, sampling = search.summary(best, cost, target)
    return Design(goal, target, budget, spent + extra, table, sd, sampling, search.map(), tuple(notes))


class _Search:
    """The state of a choice: which cells, and the inverse information under every scenario."""

    def __init__(
        self,
        cells: Lattice,
        scenarios: Sequence[Scenario],
        noise: Noise,
        known: pd.DataFrame | None,
        budget: float,
        most: int,
    ) -> None:
        self.most = most
        self.cells, self.scenarios, self.noise, self.budget = cells, scenarios, noise, budget
        flops = known["flops"].to_numpy(float) if known is not None else np.zeros(0)
        self.known_variance = noise.variance(flops)
        self.variance = noise.variance(cells.frame["flops"].to_numpy(float))
        self.known_rows = len(flops)
        self.start = [s.inverse(self.known_variance) for s in scenarios]
        self.spread = [s.spread(v) for s, v in zip(scenarios, self.start, strict=True)]
        if not all(np.isfinite(v).all() for v in self.spread):
            raise DesignError("the laws fitted so far leave the target undetermined: add runs of other sizes first")
        # A scenario counts by its weight and by how uncertain it leaves the goal: the sum is the variance of the stack.
        share = np.array([s.weight * np.median(v) for s, v in zip(scenarios, self.spread, strict=True)])
        self.share = share / share.sum()
        self.fixed: list[int] = []
        self.chosen: list[int] = []

    def inverses(self, chosen: Sequence[int]) -> list[Array]:
        at = list(chosen)
        return [s.inverse(self.known_variance, s.offered[:, at], self.variance[at]) for s in self.scenarios]

    def gain(self, chosen: Sequence[int]) -> Array:
        """Share of the starting variance that each cell would remove after the chosen ones, (n,)."""
        total = np.zeros(len(self.cells))
        inverses = self.inverses(chosen)
        for s, v, spread, share in zip(self.scenarios, inverses, self.spread, self.share, strict=True):
            moved = s.offered @ v
            leverage = np.sum(moved * s.offered, axis=2)
            pull = (moved @ s.goal[..., None])[..., 0]
            total += share * np.mean(pull**2 / (self.variance + leverage) / spread[:, None], axis=0)
        return total

    def value(self, chosen: Sequence[int]) -> float:
        """Variance of the goal after the chosen cells, over that at the start."""
        ratios = [
            np.mean(s.spread(v) / spread)
            for s, v, spread in zip(self.scenarios, self.inverses(chosen), self.spread, strict=True)
        ]
        return float(np.dot(self.share, ratios))

    def search(self, budget: float) -> None:
        """The best of greedy choices under several powers of cost, each improved by exchanges."""
        found = []
        for power in COST_POWERS:
            chosen = self._exchange(self._fill(self.fixed, budget, power), budget, power)
            found.append((self.value(chosen), chosen))
        self.chosen = min(found, key=lambda pair: pair[0])[1]

    def _fill(self, chosen: Sequence[int], budget: float, power: float) -> list[int]:
        """Add cells by gain per cost^power until the budget affords no further one."""
        chosen = list(chosen)
        while len(chosen) < self.most:
            cost = self.cells.marginal(chosen)
            able = cost <= budget - self.cells.cost(chosen)
            able[chosen] = False
            if not able.any():
                break
            score = np.where(able, self.gain(chosen) / np.maximum(cost, 1e-9) ** power, -np.inf)
            chosen.append(int(np.argmax(score)))
        return chosen

    def _exchange(self, chosen: list[int], budget: float, power: float) -> list[int]:
        """Drop each cell in turn, the dearest first, and spend what it cost anew, while that lowers the variance."""
        value = self.value(chosen)
        for _ in range(PASSES):
            before = value
            dearest = sorted(chosen, key=lambda i: -self.cells.frame["flops"].iat[i])
            for old in [i for i in dearest if i not in self.fixed]:
                rest = [i for i in chosen if i != old]
                for other in (0.0, power):
                    tried = self._fill(rest, budget, other)
                    now = self.value(tried)
                    if now < value * (1 - 1e-6):
                        chosen, value = tried, now
                        break
            if value > before * (1 - 1e-3):
                break
        return chosen

    def summary(self, best: Law | None, cost: Cost, target: float) -> tuple[dict[str, float], dict[str, float]]:
        """sd of the goal now, after, and after a plain grid: with discrepancy, and the sampling part alone."""
        offered = self.cells.frame["n_params"]
        runnable = (float(offered.min()), float(offered.max()))
        grid = isoflop_grid(best, cost, self.budget, runnable) if best is not None else None
        total = self._three(self.noise, grid)
        sampling = self._three(Noise(self.noise.sigma, 0.0, target), grid)
        if not self.known_rows:
            total["now"] = sampling["now"] = np.nan
        return total, sampling

    def _three(self, noise: Noise, grid: pd.DataFrame | None) -> dict[str, float]:
        flops = self.cells.frame["flops"].to_numpy(float)[self.chosen]
        known = np.full(self.known_rows, noise.sigma**2) if noise.tau == 0 else self.known_variance
        found = {"now": [s.inverse(known) for s in self.scenarios]}
        after = noise.variance(flops)
        found["after"] = [s.inverse(known, s.offered[:, self.chosen], after) for s in self.scenarios]
        if grid is not None:
            variance = noise.variance(grid["flops"].to_numpy(float))
            found["grid"] = [s.inverse(known, s.gradient(grid), variance) for s in self.scenarios]
        return {"grid": np.nan, **{k: standard_deviation(self.scenarios, v) for k, v in found.items()}}

    def map(self) -> pd.DataFrame:
        """Every cell offered, with the share of today's variance that it alone would remove."""
        return self.cells.frame[["size", "budget", "n_params", "tokens", "flops"]].assign(gain=self.gain([]))


def isoflop_grid(law: Law, cost: Cost, budget: float, sizes: tuple[float, float] = (0.0, np.inf)) -> pd.DataFrame:
    """What most people would run: five budgets over two decades, five sizes within a factor 4, all for `budget`.

    Sizes outside the runnable range are left out, and the budgets rise until all is spent.
    """
    shares = 10.0 ** np.linspace(-2, 0, GRID_BUDGETS)
    spread = GRID_FACTOR ** np.linspace(-1, 1, GRID_SIZES)
    top = budget / (GRID_SIZES * shares.sum())
    for _ in range(20):
        n = law.optimal(top * shares, cost).N[:, None] * spread
        flops = np.broadcast_to(top * shares[:, None], n.shape)
        able = (n >= sizes[0]) & (n <= sizes[1])
        top *= budget / max(flops[able].sum(), 1e-9 * budget)
        top = min(top, budget)
    tokens = cost.tokens(flops, n)
    return pd.DataFrame({"n_params": n[able], "tokens": tokens[able], "flops": flops[able]})


def _hold_out(cells: Lattice, law: Law, cost: Cost, budget: float, largest: float) -> int | None:
    """The cell nearest the predicted optimum of the largest budget that the share affords, if above all runs."""
    price = cells.marginal([])
    off = np.abs(np.log(cells.frame["n_params"] / law.optimal(cells.frame["flops"].to_numpy(float), cost).N))
    above = cells.frame["flops"].to_numpy(float) > 1.1 * largest
    able = np.flatnonzero((price <= budget) & (off.to_numpy() < np.log(2.0)) & above)
    if not len(able):
        return None
    level = cells.frame["budget"].to_numpy(float)[able]
    top = able[level >= level.max() * 0.99]
    return int(top[np.argmin(off.to_numpy()[top])])


def _replicate(table: pd.DataFrame, cells: Lattice, budget: float) -> tuple[pd.DataFrame, float]:
    """Further seeds for the cheapest cells that the share affords; the FLOPs they cost."""
    spent, table = 0.0, table.copy()
    for i in table.sort_values("flops").index[:SEEDED]:
        price = (len(SEEDS) - 1) * float(table.loc[i, "flops"])  # type: ignore[arg-type]
        if spent + price <= budget and table.loc[i, "role"] == "fit":
            table.at[i, "seeds"] = SEEDS
            spent += price
    return table, spent
