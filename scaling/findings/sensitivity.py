"""Sensitivity of a fit to the analysis, the data unchanged: objective, form, budgets, outliers, conventions."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from isoflop.scaling.approaches.isoflop_profiles import budget_groups
from isoflop.scaling.findings.finding import variant
from isoflop.scaling.fitting.fit import Fit, FitError, Huber, LeastSquares, fit
from isoflop.scaling.fitting.objective import Objective
from isoflop.scaling.fitting.uncertainty import jackknife
from isoflop.scaling.laws.chinchilla import Chinchilla
from isoflop.scaling.table.conventions import COMPUTE, PARAMS, Points, count_params, points
from isoflop.scaling.table.runs import is_runs

Refit = Callable[[Points, Objective], Fit]
Row = tuple[str, str, float, float, float]
COLUMNS = ("what", "setting", "value", "low", "high")
OBJECTIVES: dict[str, Objective] = {
    "Huber, delta 0.001": Huber(1e-3), "Huber, delta 0.01": Huber(1e-2), "least squares": LeastSquares(),
}  # fmt: skip
MOST_DROPPED = 3  # budgets at the small end
MOST_BUDGETS = 12  # with more there are no common budgets, and octaves of compute are dropped instead
OUTLIER = 4.0  # robust standard deviations from the law
DROPPED_BUDGETS = 2  # the smallest budgets, left out one after the other
FAR = 10.0  # compute of the target over the largest in the table


def exponent_sensitivity(
    chosen: Fit, refit: Refit, conventions: pd.DataFrame, *, name: str = "a", level: float = 0.9
) -> pd.DataFrame:
    """The exponent `name` with its jackknife interval as chosen, then under each change of the analysis.

    `refit(points, objective)` fits the same law. `conventions` holds the exponent under other conventions, with columns
    params, compute, NAME, NAME_low, NAME_high. Returns COLUMNS, a row per analysis, the chosen one first. Changes that
    leave too little to fit are left out. Raises ValueError where nothing moves the exponent.
    """
    rows = [_exponent_row("as chosen", "", chosen, name, level)]
    changes = [("objective", s, partial(refit, chosen.points, objective)) for s, objective in OBJECTIVES.items()]
    changes += [("data", s, partial(refit, data, chosen.objective)) for s, data in _without_budgets(chosen.points)]
    for what, setting, refitted in changes:
        try:
            rows.append(_exponent_row(what, setting, refitted(), name, level))
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


def _exponent_row(what: str, setting: str, fitted: Fit, name: str, level: float) -> Row:
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
        yield f"without the smallest {k if k > 1 else 'budget'}", replace(data, frame=kept).in_order()
    if len(groups) > 2:
        kept = pd.concat(groups[:-1], ignore_index=True)
        yield "without the largest budget", replace(data, frame=kept).in_order()


def chinchilla_sensitivity(
    table: "pd.DataFrame | Points", *, params: str | None = None, compute: str | None = None
) -> pd.DataFrame:
    """How a, E and the loss at 10 times the largest compute move with each change of the analysis of a Chinchilla fit.

    A row per change, indexed by its name, "as fitted" first: a, E, loss, runs fitted, why (the reason where there is no
    fit), and a_moved and loss_moved in half-widths of the 90% interval. Raises FitError when the law cannot be fitted.
    """
    data = points(table, params=params, compute=compute)
    base = fit(Chinchilla, data)
    target = FAR * float(data.frame["flops"].max())
    draws = jackknife(base)
    half_a = float(np.ptp(draws.interval("a"))) / 2
    low, high = draws.interval(lambda law: law.optimal(target, base.cost).loss)
    half_loss = (high - low) / 2
    rows = {"as fitted": _row(base, target)}
    for name, make in _changes(table, data, base):
        try:
            rows[name] = _row(make(), target)
        except (FitError, ValueError) as error:
            rows[name] = {"a": np.nan, "E": np.nan, "loss": np.nan, "runs": 0, "why": str(error)}
    frame = pd.DataFrame.from_dict(rows, orient="index")
    frame["a_moved"] = (frame["a"] - frame["a"].iloc[0]) / half_a
    frame["loss_moved"] = (frame["loss"] - frame["loss"].iloc[0]) / half_loss
    return frame


def _row(fitted: Fit, target: float) -> dict[str, Any]:
    law = fitted.law
    assert isinstance(law, Chinchilla)
    loss = float(fitted.optimal(target).loss)
    if not np.isfinite(loss):
        why = f"its optimum at {target:.3g} FLOPs has no finite loss: an exponent is at its bound"
        return {"a": np.nan, "E": np.nan, "loss": np.nan, "runs": len(fitted.points), "why": why}
    return {"a": fitted.exponents()["a"], "E": law.E, "loss": loss, "runs": len(fitted.points), "why": ""}


def _changes(table: "pd.DataFrame | Points", data: Points, base: Fit) -> Iterator[tuple[str, Callable[[], Fit]]]:
    params, compute = data.params, data.compute
    for delta in (1e-3, np.inf):
        objective = LeastSquares() if delta == np.inf else Huber(delta)
        label = "least squares" if delta == np.inf else f"delta {delta:g}"
        yield label, partial(fit, Chinchilla, data, objective=objective)
    yield "kappa free", partial(variant, base, free=("kappa",), delta="auto")
    yield "E = 0", partial(variant, base, fixed={"E": 0.0}, delta="auto")
    budgets = budget_groups(data)
    for k in range(1, min(DROPPED_BUDGETS, len(budgets) - 2) + 1):
        least = float(budgets[k]["flops"].min())
        yield f"from {least:.2g} FLOPs", partial(fit, Chinchilla, _keep(data, data.frame["flops"] >= least))
    scale = max(base.noise, 1e-12)
    outliers = np.abs(base.residuals / base.spread) > OUTLIER * scale
    if outliers.any():
        yield f"less {outliers.sum()} outliers", partial(fit, Chinchilla, _keep(data, ~outliers))
    if isinstance(table, pd.DataFrame) and is_runs(table):
        for name in PARAMS:
            if (count_params(table, name) != count_params(table, params)).any():
                yield f"params {name}", partial(fit, Chinchilla, table, params=name, compute=compute)
        for name in COMPUTE:
            if name != compute:
                yield f"compute {name}", partial(fit, Chinchilla, table, params=params, compute=name)


def _keep(data: Points, keep: np.ndarray | pd.Series) -> Points:
    return replace(data, frame=data.frame[keep].reset_index(drop=True))
