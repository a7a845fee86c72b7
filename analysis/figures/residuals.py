"""Residuals of the law against model size, tokens and compute: any trend is a wrong form."""

from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from isoflop.analysis.figure import Figure
from isoflop.analysis.style import (
    ACCENT,
    INK,
    MANY_DOTS,
    ColorScale,
    arm_dots,
    arm_marks,
    log_axis,
    looks_of,
    new_axes,
    note,
)
from isoflop.scaling.approaches.isoflop_profiles import budget_numbers
from isoflop.scaling.fitting.fit import Fit

FAR = 8
MAX_GROUPS = 10  # of equal count, where the abscissa takes more values than this


def residual_frame(fit: Fit) -> pd.DataFrame:
    """Every run with its residual, measured / predicted - 1, in percent."""
    return fit.points.frame.assign(predicted=fit.predicted, residual_percent=100 * np.expm1(fit.residuals))


def plot_residuals(fit: Fit, *, by: str = "flops", ax: Axes | None = None) -> Axes:
    """Residuals in percent against the column `by`, coloured by compute, with means of groups of several runs."""
    ax = new_axes(ax)
    frame = residual_frame(fit)
    color = ColorScale(frame["flops"])
    ax.axhline(0, color=INK, lw=0.8)
    looks = looks_of(frame)
    arm_dots(
        ax, frame, by, "residual_percent", looks=looks, c=color(frame["flops"].to_numpy()), s=16, edgecolor="white",
        linewidth=0.4, zorder=3, rasterized=len(frame) > MANY_DOTS,
    )  # fmt: skip
    groups = grouped(frame, by)
    groups = groups[groups["runs"] > 1]
    if len(groups):
        ax.errorbar(
            groups[by], groups["mean"], yerr=groups["error"], color=ACCENT, fmt="o-", ms=3, lw=1, capsize=2, zorder=4,
        )  # fmt: skip
        note(ax, "group means and 2 se", where="lower left", color=ACCENT)
    log_axis(ax.xaxis, by)
    beyond = _frame_residuals(ax, frame, by, (groups["mean"].abs() + groups["error"]).max())
    ax.set_ylabel("loss above the law (%)")
    note(ax, f"robust sd {fit.noise:.2%}, n = {len(frame)}{beyond}", where="upper left")
    if by != "flops":
        note(ax, "darker: more compute", where="lower right")
    ax.set_title(f"Residuals against {_WORDS[by]}")
    arm_marks(ax, looks)
    return ax


def _frame_residuals(ax: Axes, frame: pd.DataFrame, by: str, least: float) -> str:
    """Limits at FAR robust standard deviations, or at `least` where error bars go further (NaN: there are none).

    What lies beyond is a triangle at the edge, and the words for it.
    """
    size = frame["residual_percent"].abs()
    reach = max(min(size.max(), FAR * 1.4826 * size.median()) * 1.25, 0.1, np.nan_to_num(least))
    ax.set_ylim(-1.3 * reach, 1.3 * reach)  # room for the words above and below
    far = frame[size > reach]
    if far.empty:
        return ""
    for sign, marker in ((1, "^"), (-1, "v")):
        side = far[np.sign(far["residual_percent"]) == sign]
        ax.scatter(side[by], [sign * reach] * len(side), marker=marker, s=24, facecolor="none", edgecolor=ACCENT)
    return f"; {len(far)} beyond the panel, up to {far['residual_percent'].loc[size.idxmax()]:+.0f}%"


_WORDS = {"n_params": "model size", "tokens": "tokens", "flops": "compute"}


def grouped(frame: pd.DataFrame, by: str) -> pd.DataFrame:
    """Mean residual and number of runs in groups along `by`, with twice its error from the spread of all residuals.

    A group spans 5% (budgets are met to a step, not exactly), or is one of MAX_GROUPS equal counts where there are more
    such groups.
    """
    ordered = frame.sort_values(by, ignore_index=True)
    key = budget_numbers(ordered[by].to_numpy(float), tolerance=0.025)
    if key[-1] >= MAX_GROUPS:
        first = np.concatenate([[True], np.diff(key) > 0])  # no run of equal values is split between two groups
        start = np.flatnonzero(first)[key]
        key = start * MAX_GROUPS // len(ordered)
    group = ordered["residual_percent"].groupby(key)
    return pd.DataFrame(
        {
            by: ordered[by].groupby(key).median(),  # of equal values exactly theirs
            "mean": group.mean(),
            "runs": group.size(),
            "error": 2 * ordered["residual_percent"].std(ddof=0) / np.sqrt(group.size()),
        }
    )


FIGURES = tuple(
    Figure(
        f"residuals_{by}",
        f"Residuals of the law against {by}.",
        needs=lambda e: e.fit,
        frame=residual_frame,
        plot=partial(plot_residuals, by=by),
        place=place,
    )
    for by, place in (("flops", 70), ("n_params", 72), ("tokens", 74))
)
