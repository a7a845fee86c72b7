"""How far the exponent moves when the analysis, not the data, is changed: delta, the smallest budgets, conventions."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from isoflop.analysis.style import COMPUTE_MAP, INK, LEVEL, MUTED, new_axes, note
from isoflop.scaling.approaches.isoflop_profiles import budget_groups
from isoflop.scaling.fitting.fit import Fit, Huber, LeastSquares
from isoflop.scaling.fitting.objective import Objective
from isoflop.scaling.fitting.uncertainty import jackknife
from isoflop.scaling.table.conventions import Points

Refit = Callable[[Points, Objective], Fit]
OBJECTIVES: dict[str, Objective] = {
    "Huber, delta 0.001": Huber(1e-3), "Huber, delta 0.01": Huber(1e-2), "least squares": LeastSquares(),
}  # fmt: skip
MOST_DROPPED = 3  # budgets at the small end


def sensitivity_frame(chosen: Fit, refit: Refit, conventions: pd.DataFrame, *, name: str = "a") -> pd.DataFrame:
    """The exponent `name` with its 90% interval: as chosen, then under each change. Columns what, setting, value, ...

    `refit(points, objective)` fits the same law. Changes that leave too little to fit are left out.
    """
    rows = [_row("as chosen", "", chosen, name)]
    for setting, objective in OBJECTIVES.items():
        rows.append(_attempt("objective", setting, lambda o=objective: refit(chosen.points, o), name))
    for setting, data in _without_budgets(chosen.points):
        rows.append(_attempt("data", setting, lambda d=data: refit(d, chosen.objective), name))
    for r in conventions.itertuples():
        ends = (getattr(r, name), getattr(r, f"{name}_low"), getattr(r, f"{name}_high"))
        if (r.params, r.compute) != (chosen.points.params, chosen.points.compute):
            rows.append(dict(zip(_COLUMNS, ("convention", f"N {r.params}, C {r.compute}", *ends), strict=True)))
    frame = pd.DataFrame([r for r in rows if r is not None])
    if len(frame) < 2 or np.ptp(frame["value"]) < 1e-9:
        raise ValueError(f"nothing moves the exponent {name} of this law: it is fixed by its form, or too few runs")
    return frame


_COLUMNS = ("what", "setting", "value", "low", "high")


def _row(what: str, setting: str, fitted: Fit, name: str) -> dict:
    value = fitted.exponents().get(name)
    if value is None:
        raise ValueError(f"{fitted.law.name} has no exponent {name}")
    return dict(zip(_COLUMNS, (what, setting, value, *jackknife(fitted).interval(name, LEVEL)), strict=True))


def _attempt(what: str, setting: str, fit: Callable[[], Fit], name: str) -> dict | None:
    try:
        return _row(what, setting, fit(), name)
    except ValueError:
        return None


def _without_budgets(data: Points) -> Iterator[tuple[str, Points]]:
    """The points without the smallest budgets, one more each time, and without the largest."""
    groups = budget_groups(data)
    if len(groups) > 12:  # no common budgets: octaves from the small end instead
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


def plot_sensitivity(frame: pd.DataFrame, *, name: str = "a", ax: Axes | None = None) -> Axes:
    """The exponent under each change with its interval; the band is the interval of the analysis as chosen."""
    ax = new_axes(ax)
    place = np.arange(len(frame))[::-1]
    chosen = frame.iloc[0]
    ax.axvspan(chosen["low"], chosen["high"], color=COMPUTE_MAP(0.35), alpha=0.2, lw=0)
    ax.axvline(chosen["value"], color=INK, lw=0.9)
    reach = frame["value"].sub(chosen["value"]).abs().max() + 1.5 * (chosen["high"] - chosen["low"])
    low, high = (np.clip(frame[e], chosen["value"] - reach, chosen["value"] + reach) for e in ("low", "high"))
    ax.hlines(place, low, high, color=MUTED, lw=1.2)
    outside = (frame["value"] < chosen["low"]) | (frame["value"] > chosen["high"])
    face = ["white" if o else COMPUTE_MAP(0.8) for o in outside]
    ax.scatter(frame["value"], place, s=30, c=face, edgecolor=[COMPUTE_MAP(0.8)], linewidth=1.2, zorder=3)
    ax.set_yticks(place, [r.setting or r.what for r in frame.itertuples()])
    ax.set_ylim(-1.4, len(frame) - 0.4)
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.set_xlabel(f"exponent {name} of N* (intervals {LEVEL:.0%})")
    ax.grid(axis="y", visible=False)
    if outside.any():
        note(ax, "hollow: outside the interval as chosen", where="lower right")
    ax.set_title("Sensitivity of the exponent")
    return ax
