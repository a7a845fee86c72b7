"""Learning curves: held-out loss along training against compute, a line per run, and their lower envelope."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from isoflop.analysis.figure import Figure, if_supported
from isoflop.analysis.style import INK, ColorScale, arm_legend, arm_looks, count, label_ends, log_axis, new_axes, note
from isoflop.scaling.approaches.envelope import Envelope
from isoflop.scaling.table.conventions import count_params, is_runs

MANY_ROWS = 20_000  # from here on lines are drawn as pixels also in vector formats
MOST_LINES = 400  # beyond, every n-th run by size
MOST_LABELS = 6  # sizes: beyond, only those that end at the largest compute are named
LEAST_SPAN = 1.5  # of the losses shown, so that runs which end alike still show how they came there


def learning_curves(table: pd.DataFrame, *, params: str = "matrices", most: int = MOST_LINES) -> pd.DataFrame:
    """What is drawn: arm, run_id, trunk_id, n_params, tokens, flops, loss, state, final; a row per evaluation.

    Beyond `most` runs every n-th by size; `attrs["runs"]` counts all. Raises ValueError if the table holds no
    evaluation before the end of a run.
    """
    if not is_runs(table) or table["final"].all():
        raise ValueError("needs a run table with evaluations along the way; this table has one row per run")
    read = ("arm", "run_id", "trunk_id", "tokens", "flops", "loss", "state", "final", "tied")
    table = table[[c for c in table if c in read or c.startswith("n_params_")]]  # the rest is not copied
    runs = table.drop_duplicates("run_id")
    runs = runs.assign(n_params=count_params(runs, params)).sort_values(["n_params", "run_id"])
    kept = runs["run_id"].iloc[:: -(-len(runs) // most)]
    frame = table[table["run_id"].isin(kept) & (table["flops"] > 0) & np.isfinite(table["loss"])]
    frame = frame.assign(n_params=count_params(frame, params)).sort_values(["n_params", "run_id", "tokens"])
    frame = frame[["arm", "run_id", "trunk_id", "n_params", "tokens", "flops", "loss", "state", "final"]]
    frame = frame.reset_index(drop=True)
    frame.attrs = {"runs": len(runs)}
    return frame


def plot_learning_curves(curves: pd.DataFrame, envelope: Envelope | None = None, *, ax: Axes | None = None) -> Axes:
    """Loss against compute, a line per run coloured by size, a dot where a run ends, the envelope over the ends.

    Arms differ by their line.
    """
    ax = new_axes(ax)
    color, looks = ColorScale(curves["n_params"]), arm_looks(curves["arm"])
    runs = [run for _, run in curves.groupby("run_id", sort=False)]
    flat = len(curves) > MANY_ROWS
    ax.add_collection(
        LineCollection(
            [np.column_stack([run["flops"], run["loss"]]) for run in runs],
            colors=[color(run["n_params"].iloc[0]) for run in runs],
            linestyles=[looks[run["arm"].iloc[0]][0] for run in runs], linewidths=1.0, alpha=0.9, rasterized=flat,
        )
    )  # fmt: skip
    ends = curves[curves["final"] & (curves["state"] == "done")]
    ax.scatter(ends["flops"], ends["loss"], s=9, color=INK, zorder=3, label="end of a run", rasterized=flat)
    log_axis(ax.xaxis, "flops")
    log_axis(ax.yaxis, "loss")
    shown = ends if len(ends) else curves
    floor, top = shown["loss"].min(), shown["loss"].max()
    ax.set_ylim(floor / (top / floor) ** 0.2 / 1.02, max(top * (top / floor) ** 0.35 * 1.02, LEAST_SPAN * floor))
    ax.set_xlim(curves["flops"].quantile(0.02), curves["flops"].max() * 1.1)
    if envelope is not None:
        low = envelope.frame[envelope.frame["bracketed"]]
        ax.plot(low["flops"], low["loss"], color=INK, lw=1, ls=(0, (1, 1.2)), label="envelope of the trunks")
    ax.add_artist(ax.legend(loc="lower left", handlelength=1.6))
    arm_legend(ax, looks, loc="lower center")
    _name_sizes(ax, curves, color)
    total = curves.attrs.get("runs", len(runs))
    ax.set_title("Learning curves" + (f" ({len(runs)} of {total} runs)" if len(runs) < total else ""))
    return ax


def _name_sizes(ax: Axes, curves: pd.DataFrame, color: ColorScale) -> None:
    """Each size at the end of its longest run; where they are many, only those at the right, and the range in words."""
    last = curves.loc[curves.groupby("n_params")["flops"].idxmax()]
    if len(last) > MOST_LABELS:
        low, high = last["n_params"].min(), last["n_params"].max()
        note(ax, f"{len(last)} sizes, {count(low)} (light) to {count(high)} (dark)", where="lower right")
        last = last[last["flops"] > curves["flops"].max() / 1.2]
    if len(last) <= 2 * MOST_LABELS:
        label_ends(ax, [(r.flops, r.loss, count(r.n_params), color(r.n_params)) for r in last.itertuples()])


FIGURES = (
    Figure(
        "curves",
        "Held-out loss along training, darker for larger models.",
        needs=lambda e: (learning_curves(e.table, params=e.params), if_supported(lambda: e.envelope)),
        plot=plot_learning_curves,
        place=60,
    ),
)
