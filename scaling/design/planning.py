"""From a table of runs, or a published law, to the next runs: what `design` needs, put together."""

import numpy as np
import pandas as pd

from isoflop.scaling.design.candidates import RATIOS, DesignError, Lattice, any_sizes, lattice
from isoflop.scaling.design.design import Design, suggest
from isoflop.scaling.design.information import Goal, Noise, scenario_of_fit, scenario_of_law
from isoflop.scaling.fitting.objective import Huber
from isoflop.scaling.laws import with_role
from isoflop.scaling.laws.chinchilla import Chinchilla
from isoflop.scaling.laws.law import SIX_ND, Cost
from isoflop.scaling.selection.law_weights import weigh_laws
from isoflop.scaling.table.conventions import Points, points

PLANNED_WITH = with_role("plan")
TAU = 0.001  # least model discrepancy, sd of ln loss per unit of ln(target / compute)
MOST_TAU = 0.01
TYPICAL_NOISE = 0.003  # sd of ln loss between seeds, when no run tells
LEAST_WEIGHT = 0.1


def plan_from_table(
    table: "pd.DataFrame | Points",
    *,
    budget: float,
    target: float,
    goal: Goal = "n_opt",
    cells: Lattice | None = None,
    params: str = "matrices",
    compute: str = "exact",
) -> Design:
    """The next runs given those of a table. Without `cells`, sizes are planned freely under the table's own cost.

    Raises DesignError for a target inside the data or a budget below every cell, NoLawError when no law of N and D can
    be fitted.
    """
    data = points(table, params=params, compute=compute)
    frame = data.frame
    if target <= frame["flops"].max():
        raise DesignError(
            f"the target, {target:.3g} FLOPs, is not above the largest run ({frame['flops'].max():.3g}): "
            "name the compute that you will decide for"
        )
    weighed = weigh_laws(data, PLANNED_WITH, Huber("auto"))
    best = weighed.fits[weighed.preferred]
    cost = data.cost
    if cells is None:
        cells = _free_lattice(frame, cost, float(best.optimal(budget / 20).N), budget)
    tau = float(np.clip(weighed.discrepancy, TAU, MOST_TAU))
    noise = Noise(max(best.noise, 1e-4), tau, target)
    kept = {law: f for law, f in weighed.fits.items() if weighed.weights[law] >= LEAST_WEIGHT or f is best}
    scenarios = [
        scenario_of_fit(f, max(weighed.weights[law], LEAST_WEIGHT), cells.frame, goal, target)
        for law, f in kept.items()
    ]
    seeds = bool(frame.groupby(["n_params", "tokens"]).size().max() > 1)
    return suggest(
        cells, scenarios, budget=budget, target=target, goal=goal, noise=noise, known=frame, best=best.law,
        cost=cost, replicated=seeds,
    )  # fmt: skip


def plan_from_law(
    law: Chinchilla, *, budget: float, target: float, goal: Goal = "n_opt", cost: Cost = SIX_ND, tau: float = TAU
) -> Design:
    """The first runs, planned as if a published law held about here."""
    if target <= budget:
        raise DesignError(f"the target, {target:.3g} FLOPs, is within the budget of {budget:.3g}: run it")
    sizes = any_sizes(cost, float(law.optimal(budget / 20, cost).N))
    cells = lattice(sizes, budget, min_steps=1)
    scenario = scenario_of_law(law, cells.frame, goal, target, cost)
    noise = Noise(TYPICAL_NOISE, tau, target)
    return suggest(cells, [scenario], budget=budget, target=target, goal=goal, noise=noise, best=law, cost=cost)


def _free_lattice(frame: pd.DataFrame, cost: Cost, centre: float, budget: float) -> Lattice:
    """Sizes around the optimum of what the budget affords, never below the smallest run of the table."""
    sizes = any_sizes(cost, max(centre, float(frame["n_params"].min())))
    sizes = sizes[sizes["n_params"] >= 0.9 * frame["n_params"].min()]
    known = np.log(sizes["n_params"].to_numpy(float))
    nearest = [int(np.argmin(np.abs(known - np.log(n)))) for n in frame["n_params"]]
    runs = pd.DataFrame({"size": sizes["size"].to_numpy()[nearest], "tokens": frame["tokens"].to_numpy(float)})
    return lattice(sizes, budget, runs=runs, min_steps=1, ratios=ratios_of(frame))


def ratios_of(frame: pd.DataFrame) -> tuple[float, float]:
    """Tokens per parameter worth running: where laws usually hold, and where this table has been already."""
    ratio = frame["tokens"] / frame["n_params"]
    return min(RATIOS[0], float(ratio.min())), max(RATIOS[1], float(ratio.max()))
