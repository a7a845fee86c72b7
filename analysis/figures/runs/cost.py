"""What a study cost: the speed of every run, the hours at every budget, and the tokens that shared trunks saved."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from isoflop.analysis.figure import Figure
from isoflop.analysis.style import (
    MANY_DOTS,
    ColorScale,
    arm_dots,
    arm_looks,
    arm_marks,
    flops,
    log_axis,
    new_axes,
    note,
)
from isoflop.scaling.table.conventions import count_params
from isoflop.scaling.table.runs import final_rows, is_runs

MOST_NAMED = 8  # budgets in a legend
UNITS = (("hours", "h", 3600.0), ("minutes", "min", 60.0), ("seconds", "s", 1.0))


def cost_frame(table: pd.DataFrame, *, params: str = "matrices") -> pd.DataFrame:
    """A row per finished run: size, tokens, budget, FLOPs, seconds, FLOP/s. Raises ValueError without recorded times.

    `budget` is the one requested, or the compute to two digits where it was given in tokens.
    """
    if not is_runs(table):
        raise ValueError("needs a run table of isoflop, which has wall_seconds of whole runs; this is another table")
    frame = final_rows(table)
    frame = frame.assign(n_params=count_params(frame, params))
    frame = frame[frame["wall_seconds"] > 0]
    if frame.empty:
        raise ValueError("no finished run has a wall time")
    rounded = np.exp(np.log(frame["flops"]).round(1))
    budget = frame["budget_flops"].where(np.isfinite(frame["budget_flops"]), rounded)
    columns = ["run_id", "trunk_id", "arm", "n_params", "tokens", "flops", "wall_seconds"]
    cost = frame[columns].assign(budget=budget, flops_per_second=frame["flops"] / frame["wall_seconds"])
    return cost.reset_index(drop=True)


def trained_tokens(table: pd.DataFrame) -> tuple[float, float]:
    """Tokens that finished runs count in their horizons, and how many at most were trained when trunks were shared.

    A trunk is trained once up to its furthest branch point; each run adds what it trained after its own branch. A
    branch lies between the last row before a cooldown and the first one of it: it is taken to be at the former.
    """
    table = table[["run_id", "trunk_id", "phase", "tokens", "final", "state"]]  # the rest is not copied
    done = table[table["run_id"].isin(final_rows(table)["run_id"])]
    horizons = done.groupby(["trunk_id", "run_id"])["tokens"].max()
    along = done[done["phase"].isin(["warmup", "constant"])].groupby(["trunk_id", "run_id"])["tokens"].max()
    shared = horizons.groupby("trunk_id").transform("size") > 1
    branches = along.reindex(horizons.index).fillna(0.0).where(shared, 0.0)
    trained = branches.groupby("trunk_id").max().sum() + (horizons - branches).sum()
    return float(horizons.sum()), float(trained)


def plot_throughput(cost: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Training speed (FLOP/s) of every run against its size, coloured by compute; lines: the median of each budget.

    Arms have a mark each, and lines of their own.
    """
    ax = new_axes(ax)
    color, looks, keys = ColorScale(cost["flops"]), arm_looks(cost["arm"]), []
    for budget, runs in cost.groupby("budget"):
        shade = color(budget)
        arm_dots(ax, runs, "n_params", "flops_per_second", looks=looks, c=[shade] * len(runs), s=12, edgecolor="white",
                 linewidth=0.4, zorder=3, rasterized=len(cost) > MANY_DOTS)  # fmt: skip
        for arm, own in runs.groupby("arm"):
            middle = own.groupby("n_params")["flops_per_second"].median()
            ax.plot(middle.index, middle, lw=1.0, ls=looks[arm][0], color=shade)
        keys.append(Line2D([], [], lw=1.0, marker="o", ms=3.5, color=shade, label=flops(budget)))
    log_axis(ax.xaxis, "n_params")
    log_axis(ax.yaxis, "flops", label="speed of training (FLOP/s)")
    if len(keys) <= MOST_NAMED:
        ax.add_artist(ax.legend(handles=keys[::-1], title="budget (FLOPs), its median", loc="best"))
    ax.set_title("Speed of training")
    arm_marks(ax, looks)
    return ax


def plot_sweep_cost(cost: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Time of all runs of a budget, each as if trained alone, with what that is of the whole; dark: more compute."""
    ax = new_axes(ax)
    seconds = cost.groupby("budget")["wall_seconds"].sum()
    unit, short, length = next(one for one in UNITS if seconds.max() >= one[2] or one is UNITS[-1])
    times = seconds / length
    runs = cost.groupby("budget").size()
    color = ColorScale(times.index.to_numpy())
    place = np.arange(len(times))
    ax.barh(place, times, height=0.62, color=[color(b) for b in times.index])
    for y, (budget, value) in zip(place, times.items(), strict=True):
        label = f"{value:.2g} {short}, {value / times.sum():.0%}, {runs[budget]} run{'s' if runs[budget] > 1 else ''}"
        ax.annotate(label, (value, y), xytext=(4, 0), textcoords="offset points", va="center", fontsize=7.5)
    ax.set_yticks(place, [flops(b) for b in times.index])
    ax.set_ylim(-1.6, len(times) - 0.4)
    ax.set_xlim(0, times.max() * 1.4)
    ax.set_ylabel("compute budget C (FLOPs)")
    ax.set_xlabel(f"time of training ({unit}, each run as if alone)")
    ax.grid(axis="y", visible=False)
    note(
        ax,
        f"{len(cost)} runs, {flops(cost['flops'].sum())} FLOPs, {times.sum():.2g} {short} in all",
        where="lower right",
    )
    ax.set_title("Cost of the sweep")
    return ax


FIGURES = (
    Figure(
        "throughput",
        "Training speed of each run.",
        needs=lambda e: cost_frame(e.ends, params=e.params),
        plot=plot_throughput,
        place=160,
    ),
    Figure(
        "cost",
        "Time of training by budget.",
        needs=lambda e: cost_frame(e.ends, params=e.params),
        plot=plot_sweep_cost,
        place=170,
    ),
)
