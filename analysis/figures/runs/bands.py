"""Whole curves: runs with the band that a law of whole curves predicts for the rest of each, and its end."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from isoflop.analysis.figure import Figure
from isoflop.analysis.style import INK, ColorScale, count, label_ends, log_axis, new_axes, note
from isoflop.scaling.prediction.curves.bands import FROM

ABOVE = 0.35  # of the logarithmic height of what is ahead: how much of the falling curve is shown above it


def plot_bands(bands: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Loss against step: rows that the forecast knew as a line, later ones as open circles, its band, and its end.

    The end stands apart from the band where it is measured on other windows than the rows before it.
    """
    ax = new_axes(ax)
    color, ends = ColorScale(bands["n_params"]), []
    for _, run in bands.groupby("run_id", sort=False):
        shade = color(run["n_params"].iloc[0])
        seen, ahead = run[run["seen"]], run[run["forecast"].notna()]
        later = run[run["loss"].notna() & ~run["seen"]]
        path = ahead[~ahead["end"]] if bands.attrs.get("apart") else ahead
        ax.fill_between(path["step"], path["lo"], path["hi"], color=shade, alpha=0.22, lw=0, zorder=1)
        ax.plot(path["step"], path["forecast"], color=shade, ls="--", lw=1.1)
        ax.plot(seen["step"], seen["loss"], color=shade, marker="o", ms=2.5, lw=1.2)
        ax.plot(later["step"], later["loss"], color=shade, marker="o", ms=4, mfc="white", ls="none", zorder=3)
        end = ahead.iloc[-1]
        ax.errorbar(
            end["step"], end["forecast"], [[end["forecast"] - end["lo"]], [end["hi"] - end["forecast"]]],
            color=shade, capsize=2, lw=1.0, zorder=2,
        )  # fmt: skip
        ends.append((end["step"], end["forecast"], count(run["n_params"].iloc[0]), shade))
    log_axis(ax.xaxis, "tokens", label="step")
    log_axis(ax.yaxis, "loss")
    _set_limits(ax, bands)
    keys = [
        Line2D([], [], color=INK, marker="o", ms=2.5, lw=1.2, label="measured, known to the forecast"),
        Line2D([], [], color=INK, ls="--", lw=1.1, label="forecast"),
        Patch(facecolor=INK, alpha=0.22, lw=0, label="its 90% band"),
    ]
    if (bands["loss"].notna() & ~bands["seen"]).any():
        keys.insert(2, Line2D([], [], color=INK, marker="o", ms=4, mfc="white", ls="none", label="measured later"))
    ax.legend(handles=keys, loc="lower left", handlelength=1.8)
    shown, total = bands["run_id"].nunique(), bands.attrs.get("runs", 0)
    which = "runs that go on" if bands.attrs.get("unfinished") else f"finished runs as they were at {FROM:.0%}"
    lines = [f"{shown} of {total} runs: {which}" if total > shown else which]
    if (fitted := bands.attrs.get("fitted", total)) < total:
        lines += [f"their law is fitted to {fitted} of the {total}"]
    lines += ["ends (bars) are on all held-out windows, rows on some"] if bands.attrs.get("apart") else []
    note(ax, "\n".join(lines))
    label_ends(ax, ends)
    ax.set_title("Runs and the forecast of their ends")
    return ax


def _set_limits(ax: Axes, bands: pd.DataFrame) -> None:
    """Limits that hold every band and what is ahead, and as much of the fall before it as leaves them readable."""
    ahead = bands[bands["forecast"].notna()]
    low = min(ahead["lo"].min(), bands["loss"].min())
    top = max(ahead["hi"].max(), ahead["loss"].max())
    span = max(top / low, 1.05)
    ax.set_ylim(low / span**0.3, top * span**ABOVE)
    ax.set_xlim(bands.groupby("run_id")["step"].min().min() / 1.05, bands["step"].max() * 1.6)


FIGURES = (
    Figure(
        "bands",
        "Curves of runs, the bands that a law of whole curves predicts for the rest of each, and the forecast ends.",
        needs=lambda e: e.bands(),
        plot=plot_bands,
        place=65,
    ),
)
