"""What an exponent rests on: that of n_opt without each budget in turn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from isoflop.scaling.approaches.allocation import NoAllocationError, allocation
from isoflop.scaling.approaches.isoflop_profiles import MIN_SIZES, IsoflopProfile, budget_groups, isoflop_profiles
from isoflop.scaling.fitting.fit import Fit
from isoflop.scaling.fitting.refit import refit
from isoflop.scaling.table.conventions import FORECAST_ERROR, Points

READ = ("n_params", "tokens", "flops", "loss", FORECAST_ERROR)
FEWEST, MOST = 3, 20  # budgets: of two none can be left out; scattered runs are no budgets


@dataclass(frozen=True)
class BudgetLeftOut:
    """The exponent of n_opt without the budget of `flops` FLOPs, and how far that is from the exponent with all.

    `moved` is in standard errors of the exponent with all budgets. Both are NaN where nothing is left to fit.
    """

    flops: float
    n_exponent: float
    moved: float


def budgets(data: Points) -> dict[float, np.ndarray]:
    """The budgets that can be left out, in FLOPs, and which runs are of each, (n,).

    All with MIN_SIZES sizes, if there are FEWEST to MOST of them.
    """
    groups = [g["flops"] for g in budget_groups(data) if g["n_params"].nunique() >= MIN_SIZES]
    if not FEWEST <= len(groups) <= MOST:
        return {}
    spent = data.frame["flops"]
    return {float(np.exp(np.log(g).mean())): spent.between(g.min(), g.max()).to_numpy() for g in groups}


def without_budgets(
    source: "Sequence[IsoflopProfile] | Fit", data: Points, exponent: float, error: float
) -> tuple[BudgetLeftOut, ...]:
    """The exponent of profiles, or of a fitted law, without each budget; `exponent` and its `error` are with all."""
    known = budgets(data)
    refits = _of_law(source, known) if isinstance(source, Fit) else _of_profiles(source, data, known)
    return tuple(
        BudgetLeftOut(flops, refits[flops], (refits[flops] - exponent) / error if error > 0 else float("nan"))
        for flops in known
    )


def most_moved(without: Sequence[BudgetLeftOut]) -> BudgetLeftOut | None:
    """The budget without which the exponent moves farthest; None where none was left out."""
    known = [one for one in without if np.isfinite(one.moved)]
    return max(known, key=lambda one: abs(one.moved), default=None)


def _of_profiles(
    profiles: Sequence[IsoflopProfile], data: Points, known: Mapping[float, np.ndarray]
) -> Mapping[float, Any]:
    """The exponent through the other budgets' optima. Only the exact curve shares anything between budgets."""
    found = {}
    frame = data.frame[[c for c in data.frame if c in READ]]
    for flops, runs in known.items():
        if profiles and profiles[0].method == "exact":
            others = isoflop_profiles(replace(data, frame=frame[~runs].reset_index(drop=True)))
        else:
            others = [p for p in profiles if p.flops != flops]
        try:
            found[flops] = allocation(others).n_exponent
        except NoAllocationError:
            found[flops] = float("nan")
    return found


def _of_law(fitted: Fit, known: Mapping[float, np.ndarray]) -> Mapping[float, Any]:
    """The exponent of the law refitted to the runs of the other budgets."""
    if not known:
        return {}
    keep = ~np.array(list(known.values()))
    enough = (fitted.weights * keep > 0).sum(axis=1) > len(fitted.free)
    laws = fitted.problem.laws(refit(fitted, fitted.weights * keep).theta)
    return {
        flops: fitted.exponents_of(law)["a"] if ok else float("nan")
        for flops, law, ok in zip(known, laws, enough, strict=True)
    }
