"""A design: the candidate runs that most narrow a goal at a target compute, within a budget.

The choice is c-optimal (`search`), averaged over plausible laws. The discrepancy of the laws grows with the distance
from the target, so that cheap cells count for less. One large cell is a hold-out, to be predicted before it is run, and
a small share of the budget goes to further seeds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from isoflop.scaling.design.candidates import STEP, CandidateRuns
from isoflop.scaling.design.information import Goal, Noise, Scenario, standard_deviation
from isoflop.scaling.design.search import ExchangeSearch
from isoflop.scaling.findings.finding import Finding
from isoflop.scaling.laws.cost import Cost
from isoflop.scaling.laws.law import Law
from isoflop.scaling.table.json_plain import plain

HOLD_OUT_SHARE = 0.18
HOLD_OUT_FACTOR = 3.0  # compute of the hold-out over the largest run done
SEED_SHARE = 0.1
SEEDS = [0, 1, 2]
SHARING = 1.005  # times the FLOPs with shared trunks: less is not worth a word
WIDEST_FACTOR = 1000.0  # wider intervals are printed as "beyond" it
SEEDED = 3  # cells repeated with every seed
MOST_CELLS = 50
GRID_BUDGETS, GRID_SIZES, GRID_FACTOR = 5, 5, 4.0


@dataclass(frozen=True)
class Design:
    """Cells to run, and how much they narrow the goal at `target` FLOPs.

    `cells` has size, budget, n_params, tokens, flops, seeds and role (fit or hold-out). `sd` holds the standard
    deviation of ln of the goal now, after these cells, and after an isoFLOP grid of the same cost (keys now, after,
    grid), averaged over laws; `sampling` the same without model discrepancy, as a refit under the true law would show.
    Neither allows for a break of the laws on the way to the target, as forecasts do. `gains` has every candidate with
    the share of the variance that it alone would remove.
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
    findings: tuple[Finding, ...] = ()
    conventions: Mapping[str, str] = field(default_factory=dict)

    @property
    def run_by_run(self) -> float:
        """FLOPs of the cells were each trained from its start; `spent` counts a trunk that they share once."""
        return float(sum(c.flops * len(c.seeds) for c in self.cells.itertuples()))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values, numbers in full precision."""
        return {
            "goal": self.goal, "target_flops": self.target, "budget_flops": self.budget, "spent_flops": self.spent,
            "run_by_run_flops": self.run_by_run, "cells": plain(self.cells), "sd": plain(self.sd),
            "sd_sampling": plain(self.sampling),
            "gains": plain(self.gains), "notes": list(self.notes),
            "findings": [f.to_dict() for f in self.findings], "conventions": dict(self.conventions),
        }  # fmt: skip

    def __str__(self) -> str:
        what = {"loss": "loss", "n_opt": "best size", "multiplier": "compute at equal loss"}[self.goal]
        sums_differ = self.run_by_run > SHARING * self.spent  # equivalent: no sum is just that
        lines = [
            f"{len(self.cells)} cells for {self.spent:.3g} of {self.budget:.3g} FLOPs"
            + (f" ({self.run_by_run:.3g} run by run, as isoflop plan counts)" if sums_differ else "")
            + f", to know the {what} at {self.target:.3g} FLOPs",
            f"  {'size':>8} {'budget':>9} {'n_params':>10} {'tokens':>10} {'tok/param':>9} {'seeds':>7}  role",
        ]
        for c in self.cells.itertuples():
            seeds = ",".join(map(str, c.seeds))
            lines.append(
                f"  {c.size:>8} {c.budget:>9.3g} {c.n_params:>10.4g} {c.tokens:>10.4g} {c.tokens / c.n_params:>9.3g} "
                f"{seeds:>7}  {c.role}"
            )
        for name, when in (("now", "now"), ("after", "after these runs"), ("grid", "after an isoFLOP grid instead")):
            if np.isfinite(self.sd[name]):
                whole, sampling = _times(self.sd[name]), _times(self.sampling[name])
                lines.append(f"  90% interval {when}, if no law breaks: {whole}, of which sampling {sampling}")
        return "\n".join([*lines, *map(str, self.findings), *(f"note: {note}" for note in self.notes)])


def _times(sd: float) -> str:
    factor = np.exp(min(1.645 * sd, 700.0))
    if factor > WIDEST_FACTOR:  # equivalent: no factor is just that
        return f"beyond a factor {WIDEST_FACTOR:g}"
    return f"+/- {factor - 1:.2%}" if factor < 2 else f"a factor {factor:.3g}"


def suggest(
    cells: CandidateRuns,
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
    """Choose cells that cost at most `budget` FLOPs.

    `known` are the runs behind the scenarios, `best` the law at whose optimum the hold-out lies (None: no hold-out).
    `replicated` says that the known runs have several seeds already, so that no share goes to seeds. Raises DesignError
    when the scenarios do not identify the goal.
    """
    search = ExchangeSearch(cells, scenarios, noise, known, most_cells)
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
    grid = isoflop_grid(cells, best, cost, budget) if best is not None else []
    sd, sampling = (_spreads(search, n, grid, known) for n in (noise, replace(noise, tau=0.0)))
    return Design(goal, target, budget, spent + extra, table, sd, sampling, search.gains(), tuple(notes))


def _spreads(search: ExchangeSearch, noise: Noise, grid: Sequence[int], known: pd.DataFrame | None) -> dict[str, float]:
    """Standard deviation of the goal now, after the chosen cells, after the grid; NaN without runs or grid."""
    flops = known["flops"].to_numpy(float) if known is not None else np.zeros(0)
    before, offered = noise.variance(flops), noise.variance(search.cells.frame["flops"].to_numpy(float))
    runs = {"now": [], "after": search.chosen, "grid": list(grid)}
    there = {"now": bool(len(flops)), "after": True, "grid": bool(runs["grid"])}

    def spread(at: Sequence[int]) -> float:
        rows, shared = search.rows(at), noise.shared
        found = [s.covariance(before, s.offered[:, at], offered[at], rows, shared) for s in search.scenarios]
        return standard_deviation(search.scenarios, found)

    return {name: spread(at) if there[name] else np.nan for name, at in runs.items()}


def isoflop_grid(cells: CandidateRuns, law: Law, cost: Cost, budget: float) -> list[int]:
    """An isoFLOP study to compare with: the row numbers of its cells, none where there are none to take.

    Five budgets over two decades, five sizes within a factor 4 of the optimum of each; of either the nearest that are
    offered, so that the grid keeps the rules of candidates. Of the grids within `budget` FLOPs it is the dearest.
    """
    grids = [_grid_below(cells.frame, law, cost, float(top)) for top in cells.frame["budget"].unique()]
    return max((g for g in grids if cells.cost(g) <= budget), key=cells.cost, default=[])


def _grid_below(frame: pd.DataFrame, law: Law, cost: Cost, top: float) -> list[int]:
    """The cells of the grid whose largest budget is `top`; none at a budget that no cell has."""
    log_n, log_c = np.log(frame["n_params"].to_numpy(float)), np.log(frame["budget"].to_numpy(float))
    found: set[int] = set()
    for level in top * 10.0 ** -np.linspace(0, 2, GRID_BUDGETS):
        there = np.flatnonzero(np.abs(log_c - np.log(level)) < 0.5 * np.log(STEP))  # equivalent: none lies just there
        spread = np.log(GRID_FACTOR) * np.linspace(-1, 1, GRID_SIZES)
        sizes = np.log(law.optimal(level, cost).N) + spread  # equivalent: as far to either side
        if len(there):
            found |= {int(there[np.argmin(np.abs(log_n[there] - size))]) for size in sizes}
    return sorted(found)


def _hold_out(cells: CandidateRuns, law: Law, cost: Cost, budget: float, largest: float) -> int | None:
    """The cell nearest the predicted optimum of the largest budget that the share affords, if above all runs."""
    price = cells.marginal([])
    off = np.abs(np.log(cells.frame["n_params"] / law.optimal(cells.frame["flops"].to_numpy(float), cost).N))
    above = cells.frame["flops"].to_numpy(float) > 1.1 * largest
    near = off.to_numpy() < np.log(2.0)  # equivalent: no size is just there
    affordable = np.flatnonzero((price <= budget) & near & above)
    if not len(affordable):
        return None
    level = cells.frame["budget"].to_numpy(float)[affordable]
    top = affordable[level >= level.max() * 0.99]
    return int(top[np.argmin(off.to_numpy()[top])])


def _replicate(table: pd.DataFrame, cells: CandidateRuns, budget: float) -> tuple[pd.DataFrame, float]:
    """Further seeds for the cheapest cells that the share affords; the FLOPs they cost."""
    spent, table = 0.0, table.copy()
    for i in table.sort_values("flops").index[:SEEDED]:
        price = (len(SEEDS) - 1) * float(table.loc[i, "flops"])  # type: ignore[arg-type]
        if spent + price <= budget and table.loc[i, "role"] == "fit":
            table.at[i, "seeds"] = SEEDS
            spent += price
    return table, spent
