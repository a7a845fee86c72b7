"""How far an exponent moves when the analysis, not the data, is changed: objective, budgets, conventions."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd

from isoflop.scaling.approaches.isoflop_profiles import budget_groups
from isoflop.scaling.fitting.fit import Fit, Huber, LeastSquares
from isoflop.scaling.fitting.objective import Objective
from isoflop.scaling.fitting.uncertainty import jackknife
from isoflop.scaling.table.conventions import Points

Refit = Callable[[Points, Objective], Fit]
Row = tuple[str, str, float, float, float]
COLUMNS = ("what", "setting", "value", "low", "high")
OBJECTIVES: dict[str, Objective] = {
    "Huber, delta 0.001": Huber(1e-3), "Huber, delta 0.01": Huber(1e-2), "least squares": LeastSquares(),
}  # fmt: skip
MOST_DROPPED = 3  # budgets at the small end
MOST_BUDGETS = 12  # with more there are no common budgets, and octaves of compute are dropped instead


def exponent_sensitivity(
    chosen: Fit, refit: Refit, conventions: pd.DataFrame, *, name: str = "a", level: float = 0.9
) -> pd.DataFrame:
    """The exponent `name` with its jackknife interval as chosen, then under each change of the analysis.

    `refit(points, objective)` fits the same law. `conventions` holds the exponent under other conventions, with columns
    params, compute, NAME, NAME_low, NAME_high. Returns COLUMNS, a row per analysis, the chosen one first. Changes that
    leave too little to fit are left out. Raises ValueError where nothing moves the exponent.
    """
    rows = [_row("as chosen", "", chosen, name, level)]
    changes = [("objective", s, partial(refit, chosen.points, objective)) for s, objective in OBJECTIVES.items()]
    changes += [("data", s, partial(refit, data, chosen.objective)) for s, data in _without_budgets(chosen.points)]
    for what, setting, fit in changes:
        try:
            rows.append(_row(what, setting, fit(), name, level))
        except ValueError:  # too little is left to fit
            continue
    for r in conventions.to_dict("records"):
        if (r["params"], r["compute"]) != (chosen.points.params, chosen.points.compute):
            setting = f"N {r['params']}, C {r['compute']}"
            rows.append(("convention", setting, r[name], r[f"{name}_low"], r[f"{name}_high"]))
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    if len(frame) < 2 or np.ptp(frame["value"]) < 1e-9:
        raise ValueError(f"nothing moves the exponent {name} of this law: it is fixed by its form, or too few runs")
    return frame


def _row(what: str, setting: str, fitted: Fit, name: str, level: float) -> Row:
    value = fitted.exponents().get(name)
    if value is None:
        raise ValueError(f"{fitted.law.name} has no exponent {name}")
    return what, setting, value, *jackknife(fitted).interval(name, level)


def _without_budgets(data: Points) -> Iterator[tuple[str, Points]]:
    """The points without the smallest budgets, one more each time, and without the largest."""
    groups = budget_groups(data)
    if len(groups) > MOST_BUDGETS:
        low = data.frame["flops"].min()
        for k in range(1, MOST_DROPPED + 1):
            kept = data.frame[data.frame["flops"] > low * 2**k]
            yield f"C above {low * 2**k:.1e}", replace(data, frame=kept.reset_index(drop=True))
        return
    for k in range(1, min(MOST_DROPPED, len(groups) - 2) + 1):
        kept = pd.concat(groups[k:], ignore_index=True)
        yield f"without the smallest {k if k > 1 else 'budget'}", replace(data, frame=kept)
    if len(groups) > 2:
        yield "without the largest budget", replace(data, frame=pd.concat(groups[:-1], ignore_index=True))
