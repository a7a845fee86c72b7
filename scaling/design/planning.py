"""The next runs, from a table of runs or from a published law: `isoflop suggest`."""

import shlex
from dataclasses import replace

import numpy as np
import pandas as pd

from isoflop.scaling.design.candidates import RATIOS, CandidateRuns, DesignError, any_sizes, candidate_runs
from isoflop.scaling.design.design import Design, suggest
from isoflop.scaling.design.information import Goal, Noise, scenario_of_fit, scenario_of_law
from isoflop.scaling.findings.settings import MIXTURES, setting_findings, table_findings
from isoflop.scaling.findings.units import unit_findings
from isoflop.scaling.fitting.fit import Fit
from isoflop.scaling.fitting.noise_model import shared_by_cluster
from isoflop.scaling.fitting.objective import Huber
from isoflop.scaling.laws import with_role
from isoflop.scaling.laws.chinchilla import Chinchilla
from isoflop.scaling.laws.cost import SIX_ND, Cost
from isoflop.scaling.selection.law_weights import weigh_laws
from isoflop.scaling.table.conventions import Points, points

PLANNED_WITH = with_role("plan")
TAU, MOST_TAU = 0.001, 0.01  # model discrepancy, at least and at most: sd of ln loss per ln(target / compute)
TYPICAL_NOISE = 0.003  # sd of ln loss between seeds, where there is no run yet
FREE_EPOCHS = 4.0  # text seen so often is worth nearly what new text is (Muennighoff et al. 2023)
LEAST_WEIGHT = 0.1  # laws of less weight are left out, except the preferred one


def plan_from_table(
    table: "pd.DataFrame | Points",
    *,
    budget: float,
    target: float,
    goal: Goal = "n_opt",
    cells: CandidateRuns | None = None,
    params: str | None = None,
    compute: str | None = None,
) -> Design:
    """The runs within `budget` FLOPs that most narrow the goal at `target` FLOPs, given those of a table.

    `cells` are the candidates; without them sizes are free, under the table's own cost of training.

    Raises DesignError for a target inside the data, a budget below every cell, or runs that differ in what laws of N
    and D do not read; NoLawError when no law of N and D can be fitted.
    """
    data = points(table, params=params, compute=compute)
    _refuse_other_axes(table, data)
    found, data = table_findings(table, data), data.in_order()
    frame = data.frame
    if target <= frame["flops"].max():
        raise DesignError(
            f"the target, {target:.3g} FLOPs, is not above the largest run ({frame['flops'].max():.3g}): "
            "name the compute that you will decide for"
        )
    weighted = weigh_laws(data, PLANNED_WITH, Huber("auto"))
    best = weighted.fits[weighted.preferred]
    cost = data.cost
    if cells is None:
        cells = _free_candidates(frame, cost, float(best.optimal(budget / 20).N), budget)
    tau = float(np.clip(weighted.discrepancy, TAU, MOST_TAU))
    noise = Noise(max(best.noise, 1e-4), tau, target, _shared(best))
    kept = {law: f for law, f in weighted.fits.items() if weighted.weights[law] >= LEAST_WEIGHT or f is best}
    scenarios = [
        scenario_of_fit(f, max(weighted.weights[law], LEAST_WEIGHT), cells.frame, goal, target)
        for law, f in kept.items()
    ]
    replicated = bool(frame.groupby(["n_params", "tokens"]).size().max() > 1)
    made = suggest(
        cells, scenarios, budget=budget, target=target, goal=goal, noise=noise, known=frame, best=best.law,
        cost=cost, replicated=replicated,
    )  # fmt: skip
    of_cost = data.cost_notes(float(best.optimal(target).N))
    return replace(
        made, notes=(*data.notes, *made.notes, *of_cost), findings=(*unit_findings(data), *found),
        conventions=data.conventions
    )  # fmt: skip


def _shared(best: Fit) -> float:
    """The correlation of the noise of runs of one trunk, as the fit's residuals have it."""
    design = best.problem.residuals(best.theta[None])[1][0].T  # equivalent: the last of one is the first
    label = pd.factorize(best.points.frame["cluster"])[0]
    spread = np.reshape(best.spread, (-1, 1))  # equivalent: any number below zero is what is left
    return shared_by_cluster(best.residuals / best.spread, design / spread, label)


def _refuse_other_axes(table: "pd.DataFrame | Points", data: Points) -> None:
    """Raise DesignError for runs whose losses differ, at equal size and tokens, by what the laws that plan do not read.

    That is a setting that explains them, or text that was repeated. Arms are compared, and no axis of a plan.
    """
    read = "the laws that plan read size and tokens"
    rows = data.frame if isinstance(table, Points) else table
    within = [
        found for found in setting_findings(table, data)
        if "arm" not in rows or (rows.groupby("arm")[[*found.columns]].nunique() > 1).any(axis=None)
    ]  # fmt: skip
    if within:
        first, names = within[0], list(dict.fromkeys(name for found in within for name in found.columns))
        remedy = (
            first.remedy
            if first.code == MIXTURES
            else f"keep one value of {' and of '.join(names)} (--where), or the best of each cell "
            f"(--best-of {shlex.quote(','.join(names))})"
        )
        raise DesignError(f"{read}, and {first.message}; {remedy}")
    if "unique_tokens" in data.frame:
        epochs = float((data.frame["tokens"] / data.frame["unique_tokens"]).max())
        if epochs > FREE_EPOCHS:
            kept = f"{'epochs' if 'epochs' in rows else 'tokens / unique_tokens'} <= {FREE_EPOCHS:.0f}"
            raise DesignError(
                f"{read}, and some runs saw their text {epochs:.3g} times, which a law of unique_tokens reads; keep "
                f"those of up to {FREE_EPOCHS:.0f} times: --where '{kept}'"
            )


def plan_from_law(
    law: Chinchilla, *, budget: float, target: float, goal: Goal = "n_opt", cost: Cost = SIX_ND, tau: float = TAU
) -> Design:
    """The first runs within `budget` FLOPs, planned as if a published law held approximately.

    `tau` is the model discrepancy (see Noise). Raises DesignError for a target within the budget.
    """
    if target <= budget:
        raise DesignError(f"the target, {target:.3g} FLOPs, is within the budget of {budget:.3g}: run it")
    sizes = any_sizes(cost, float(law.optimal(budget / 20, cost).N))
    cells = candidate_runs(sizes, budget, min_steps=1)  # equivalent: the least tokens per parameter are more
    scenario = scenario_of_law(law, cells.frame, goal, target, cost)
    noise = Noise(TYPICAL_NOISE, tau, target)
    return suggest(cells, [scenario], budget=budget, target=target, goal=goal, noise=noise, best=law, cost=cost)


def _free_candidates(frame: pd.DataFrame, cost: Cost, centre: float, budget: float) -> CandidateRuns:
    """Candidates of sizes around `centre` parameters, from the smallest size of the table up."""
    sizes = any_sizes(cost, max(centre, float(frame["n_params"].min())))
    sizes = sizes[sizes["n_params"] >= 0.9 * frame["n_params"].min()]  # equivalent: no size is just there
    known = np.log(sizes["n_params"].to_numpy(float))
    nearest = [int(np.argmin(np.abs(known - np.log(n)))) for n in frame["n_params"]]
    runs = pd.DataFrame({"size": sizes["size"].to_numpy()[nearest], "tokens": frame["tokens"].to_numpy(float)})
    ratios = ratios_of(frame)
    return candidate_runs(sizes, budget, runs=runs, min_steps=1, ratios=ratios)  # equivalent: as in plan_from_law


def ratios_of(frame: pd.DataFrame) -> tuple[float, float]:
    """Least and most tokens per parameter of candidates: RATIOS, widened to those of a table."""
    ratio = frame["tokens"] / frame["n_params"]
    return min(RATIOS[0], float(ratio.min())), max(RATIOS[1], float(ratio.max()))
