"""Learning curves: held-out loss along training against compute, a line per run, and their lower envelope."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from analysis.style import INK, ColorScale, count, label_ends, log_axis, new_axes, note
from scaling.accounting import count_params, is_runs
from scaling.envelope import Envelope

MANY_ROWS = 20_000  # from here on lines are drawn as pixels also in vector formats

MOST_LINES = 400  # beyond, every n-th run by size


def learning_curves(table: pd.DataFrame, *, params: str = "matrices") -> pd.DataFrame:
    """What `plot_learning_curves` draws: run_id, n_params, tokens, flops, loss, state, final; a row per evaluation.

    Raises ValueError if the table holds no evaluation before the end of a run.
    """
    if not is_runs(table) or table["final"].all():
        raise ValueError("needs a run table with evaluations along the way; this table has one row per run")
    columns = ["run_id", "trunk_id", "tokens", "flops", "loss", "state", "final"]
    frame = table[columns].assign(n_params=count_params(table, params))
    frame = frame[(frame["flops"] > 0) & np.isfinite(frame["loss"])]
    return frame.sort_values(["n_params", "run_id", "tokens"], ignore_index=True)


def plot_learning_curves(curves: pd.DataFrame, *, envelope: Envelope | None = None, ax: Axes | None = None) -> Axes:
    """Loss against compute, a line per run coloured by size, a dot where a run ends, the envelope over the ends."""
    ax = new_axes(ax)
    color = ColorScale(curves["n_params"])
    names = curves["run_id"].unique()
    drawn = names[:: -(-len(names) // MOST_LINES)]
    runs = [run for _, run in curves[curves["run_id"].isin(drawn)].groupby("run_id", sort=False)]
    lines = [np.column_stack([run["flops"], run["loss"]]) for run in runs]
    colors = [color(run["n_params"].iloc[0]) for run in runs]
    flat = len(curves) > MANY_ROWS
    ax.add_collection(LineCollection(lines, colors=colors, linewidths=1.0, alpha=0.9, rasterized=flat))
    ends = curves[curves["final"] & (curves["state"] == "done")]
    ax.scatter(ends["flops"], ends["loss"], s=9, color=INK, zorder=3, label="end of a run", rasterized=flat)
    log_axis(ax.xaxis, "flops")
    log_axis(ax.yaxis, "loss")
    shown = ends if len(ends) else curves
    floor, top = shown["loss"].min(), shown["loss"].max()
    ax.set_ylim(floor / (top / floor) ** 0.2, top * (top / floor) ** 0.35 * 1.02)
    ax.set_xlim(curves["flops"].quantile(0.02), curves["flops"].max() * 1.1)
    if envelope is not None:
        low = envelope.frame[envelope.frame["bracketed"]]
        ax.plot(low["flops"], low["loss"], color=INK, lw=1, ls=(0, (1, 1.2)), label="envelope of the trunks")
    ax.legend(loc="lower left", handlelength=1.6)
    if curves["n_params"].nunique() <= 12:
        _label_sizes(ax, curves, color)
    else:
        low, high = curves["n_params"].min(), curves["n_params"].max()
        note(ax, f"{curves['n_params'].nunique()} sizes, {count(low)} (light) to {count(high)} (dark)")
    ax.set_title("Learning curves" + (f" ({len(drawn)} of {len(names)} runs)" if len(drawn) < len(names) else ""))
    return ax


def _label_sizes(ax: Axes, curves: pd.DataFrame, color: ColorScale) -> None:
    """The size at the end of its longest run."""
    last = curves.loc[curves.groupby("n_params")["flops"].idxmax()]
    label_ends(ax, [(r.flops, r.loss, count(r.n_params), color(r.n_params)) for r in last.itertuples()])
