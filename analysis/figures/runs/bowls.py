"""Learning-rate bowls: loss against peak learning rate, a curve per size and horizon, its optimum marked."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from isoflop.analysis.figure import Figure
from isoflop.analysis.style import (
    ColorScale,
    End,
    arm_legend,
    arm_looks,
    count,
    label_ends,
    log_axis,
    new_axes,
    note,
    readable,
)
from isoflop.scaling.table.conventions import count_params
from isoflop.scaling.table.runs import final_rows, is_runs

FEWEST = 3  # learning rates that make a bowl
CELL = ["arm", "n_params", "horizon_tokens"]


def bowl_frame(table: pd.DataFrame, *, params: str = "matrices") -> pd.DataFrame:
    """Final losses, seeds averaged, of the cells trained at FEWEST or more peak learning rates.

    Raises ValueError if no cell was.
    """
    if not is_runs(table):
        raise ValueError("needs a run table of isoflop; the learning rates of another are read by isoflop tune")
    runs = final_rows(table)
    runs = runs.assign(n_params=count_params(runs, params))
    mean = runs.groupby([*CELL, "peak_learning_rate"], as_index=False)[["loss", "flops"]].mean()
    rates = mean.groupby(CELL)["peak_learning_rate"].transform("nunique")
    if not (rates >= FEWEST).any():
        raise ValueError(f"no cell was trained at {FEWEST} learning rates or more")
    return mean[rates >= FEWEST].reset_index(drop=True)


def best_rate(bowl: pd.DataFrame) -> tuple[float, float, bool]:
    """The learning rate and loss at the bottom, and whether it lies between the rates tried.

    The bottom is that of the parabola in ln rate through the lowest point and its neighbours.
    """
    bowl = bowl.sort_values("peak_learning_rate")
    x, y = np.log(bowl["peak_learning_rate"].to_numpy(float)), bowl["loss"].to_numpy(float)
    lowest = int(np.argmin(y))
    if not 0 < lowest < len(x) - 1:
        return float(np.exp(x[lowest])), float(y[lowest]), False
    near = slice(lowest - 1, lowest + 2)
    a, b, c = np.polyfit(x[near] - x[lowest], y[near], 2)
    return float(np.exp(x[lowest] - b / (2 * a))), float(c - b**2 / (4 * a)), True


def plot_bowls(bowls: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """A bowl per cell, coloured by size, arms by line and mark; the optimum is hollow at the edge of what was tried."""
    ax = new_axes(ax)
    color, looks = ColorScale(bowls["n_params"]), arm_looks(bowls["arm"])
    horizons = bowls["horizon_tokens"].nunique()
    ends: dict[str, End] = {}
    edges = 0
    for (arm, size, horizon), bowl in bowls.groupby(CELL):
        shade, (dash, mark) = color(size), looks[arm]
        bowl = bowl.sort_values("peak_learning_rate")
        ax.plot(bowl["peak_learning_rate"], bowl["loss"], ls=dash, marker=mark, ms=3.5, lw=1.2, color=shade)
        rate, loss, inside = best_rate(bowl)
        edges += not inside
        ax.plot(rate, loss, "D", ms=6.5, mfc=readable(shade) if inside else "none",
                mec="white" if inside else readable(shade), zorder=4)  # fmt: skip
        last = bowl.iloc[-1]
        label = f"{count(size)}, {count(horizon)} tokens" if horizons > 1 else count(size)
        if label not in ends or last["peak_learning_rate"] > ends[label][0]:  # of arms, the one that ends at the right
            ends[label] = (last["peak_learning_rate"], last["loss"], label, shade)
    log_axis(ax.xaxis, "n_params", label="peak learning rate")
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:.3g}"))
    log_axis(ax.yaxis, "loss")
    low, high = ax.get_ylim()
    ax.set_ylim(low, high * (high / low) ** 0.22)  # room for the words
    label_ends(ax, list(ends.values()))
    arm_legend(ax, looks)
    notes = [] if horizons > 1 else [f"sizes N, each at {count(bowls['horizon_tokens'].iloc[0])} tokens"]
    notes += [f"hollow: {edges} optima at the edge of the rates tried"] if edges else []
    if notes:
        note(ax, "\n".join(notes), where="upper left")
    ax.set_title("Learning-rate bowls")
    return ax


FIGURES = (
    Figure(
        "bowls",
        "Loss against peak learning rate; diamonds: the best rate.",
        needs=lambda e: bowl_frame(e.ends, params=e.params),
        plot=plot_bowls,
        place=140,
    ),
)
