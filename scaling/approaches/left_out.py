"""What an exponent rests on: that of n_opt without each budget in turn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from isoflop.scaling.approaches.allocation import NoAllocationError, allocation
from isoflop.scaling.approaches.isoflop_profiles import MIN_SIZES, IsoflopProfile, budget_groups, isoflop_profiles
from isoflop.scaling.fitting.fit import Fit, refit
from isoflop.scaling.table.conventions import Points

FEWEST, MOST = 3, 20  # budgets: of two none can be left out; scattered runs are no budgets


@dataclass(frozen=True)
class BudgetLeftOut:
    """The exponent of n_opt without the budget of `flops` FLOPs, and how far that is from the exponent with all.

    `moved` is in standard errors of the exponent with all budgets. Both are NaN where nothing is left to fit.
    """

    flops: float
    n_exponent: float
    moved: float


def budgets(data: Points) -> list[float]:
    """The budgets that can be left out, in FLOPs: all with MIN_SIZES sizes, if there are FEWEST to MOST of them."""
    groups = [g for g in budget_groups(data) if g["n_params"].nunique() >= MIN_SIZES]
    found = [float(np.exp(np.log(g["flops"]).mean())) for g in groups]
    return found if FEWEST <= len(found) <= MOST else []


def without_budgets(
    source: "Sequence[IsoflopProfile] | Fit", data: Points, exponent: float, error: float
) -> tuple[BudgetLeftOut, ...]:
    """The exponent of profiles, or of a fitted law, without each budget; `exponent` and its `error` are with all."""
    known = budgets(data)
    refits = _of_law(source, data, known) if isinstance(source, Fit) else _of_profiles(source, data, known)
    return tuple(
        BudgetLeftOut(flops, refits[flops], (refits[flops] - exponent) / error if error > 0 else float("nan"))
        for flops in known
    )


def most_moved(without: Sequence[BudgetLeftOut]) -> BudgetLeftOut | None:
    """The budget without which the exponent moves farthest; None where none was left out."""
    known = [one for one in without if np.isfinite(one.moved)]
    return max(known, key=lambda one: abs(one.moved), default=None)


def _of_profiles(profiles: Sequence[IsoflopProfile], data: Points, known: Sequence[float]) -> Mapping[float, Any]:
    """The exponent through the other budgets' optima. Only the exact curve shares anything between budgets."""
    found = {}
    for flops in known:
        if profiles and profiles[0].method == "exact":
            frame = data.frame[~_at(data, flops)].reset_index(drop=True)
            others = isoflop_profiles(replace(data, frame=frame))
        else:
            others = [p for p in profiles if p.flops != flops]
        try:
            found[flops] = allocation(others).n_exponent
        except NoAllocationError:
            found[flops] = float("nan")
    return found


def _of_law(fitted: Fit, data: Points, known: Sequence[float]) -> Mapping[float, Any]:
    """The exponent of the law refitted to the runs of the other budgets."""
    if not known:
        return {}
    keep = np.array([~_at(data, flops) for flops in known])
    enough = (fitted.weights * keep > 0).sum(axis=1) > len(fitted.free)
    laws = fitted.problem.laws(refit(fitted, fitted.weights * keep).theta)
    return {
        flops: fitted.exponents_of(law)["a"] if ok else float("nan")
        for flops, law, ok in zip(known, laws, enough, strict=True)
    }


def _at(data: Points, flops: float) -> np.ndarray:
    """Which runs are of a budget, (n,)."""
    group = next(g for g in budget_groups(data) if np.isclose(np.exp(np.log(g["flops"]).mean()), flops, rtol=1e-12))
    return data.frame["flops"].between(group["flops"].min(), group["flops"].max()).to_numpy()
