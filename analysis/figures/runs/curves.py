"""Learning curves: held-out loss along training against compute, a line per run, and their lower envelope."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D

from isoflop.analysis.evidence import UnsupportedError
from isoflop.analysis.figure import Figure, if_supported
from isoflop.analysis.style import (
    COMPUTE_MAP,
    INK,
    REMARK,
    ColorScale,
    arm_dots,
    arm_keys,
    arm_looks,
    count,
    label_ends,
    log_axis,
    new_axes,
)
from isoflop.scaling.approaches.envelope import Envelope
from isoflop.scaling.table.columns import hint
from isoflop.scaling.table.conventions import count_params, run_flops
from isoflop.scaling.table.curves import curves
from isoflop.scaling.table.runs import is_forecast, is_runs

MANY_ROWS = 20_000  # from here on lines are drawn as pixels also in vector formats
MOST_LINES = 400  # beyond, every n-th run by size
MOST_LABELS = 6  # sizes: beyond, only those that end at the largest compute are named
COLUMNS = ["arm", "run_id", "trunk_id", "n_params", "tokens", "flops", "loss", "state", "final"]
AGAINST = ("flops", "tokens", "hours")
LEAST_SPAN = 1.5  # of the losses shown, so that runs which end alike still show how they came there


def learning_curves(
    table: pd.DataFrame,
    *,
    params: str = "matrices",
    compute: str = "exact",
    most: int = MOST_LINES,
    runs: Sequence[str] = (),
    against: str = "flops",
) -> pd.DataFrame:
    """What is drawn: arm, run_id, trunk_id, n_params, tokens, flops, loss, state, final; a row per evaluation.

    Beyond `most` runs every n-th by size; `attrs["runs"]` counts all, `attrs["apart"]` is whether ends are measured in
    another way: those of a run table are, on all held-out windows. `runs` are the only ones drawn where named, along
    `against`: flops, tokens, or hours (another column then). Raises ValueError if the table holds no evaluation before
    the end of a run, for an unknown run, and where no time was measured.
    """
    if against not in AGAINST:
        raise ValueError(f"--against {against}: not one of {', '.join(AGAINST)}")
    frame = _evaluations(table, params, compute, against)
    total = frame["run_id"].nunique()
    if runs:
        names = frame["run_id"].astype(str)
        for run in set(runs) - set(names):
            raise ValueError(f"--runs {run}: no such run with a curve{hint(run, pd.unique(names))}")
        frame = frame[names.isin(runs)].reset_index(drop=True)
    else:
        by_size = frame.drop_duplicates("run_id")["run_id"]
        frame = frame[frame["run_id"].isin(by_size.iloc[:: -(-total // most)])].reset_index(drop=True)
    frame.attrs = {"runs": len(runs) or total, "named": bool(runs), "against": against, "apart": is_runs(table)}
    return frame


def _evaluations(table: pd.DataFrame, params: str, compute: str, against: str) -> pd.DataFrame:
    """Every evaluation with a loss, by size, run and tokens."""
    kept = [*COLUMNS, *(["hours"] if against == "hours" else [])]
    if not is_runs(table) and (found := curves(table)):
        rows = found.rows()
    elif is_runs(table) and not table["final"].all():
        read = ("arm", "run_id", "trunk_id", "tokens", "flops", "loss", "state", "final", "tied", "wall_seconds")
        counted = ("n_params_", "flops_token_")
        rows = table.loc[
            ~is_forecast(table), [c for c in table if c in read or c.startswith(counted)]
        ]  # the rest is not copied
        rows = rows.assign(n_params=count_params(rows, params))
        rows = rows.assign(flops=run_flops(rows, compute))
    else:
        raise UnsupportedError("needs a run table with evaluations along the way; this table has one row per run")
    if against == "hours":
        if "wall_seconds" not in rows or rows["wall_seconds"].isna().all():
            raise ValueError("--against hours: the table has no column wall_seconds, the time that training took")
        rows = rows.assign(hours=rows["wall_seconds"] / 3600)
    rows = rows[(rows["flops"] > 0) & np.isfinite(rows["loss"])]
    return rows.sort_values(["n_params", "run_id", "tokens"])[kept]


def plot_learning_curves(rows: pd.DataFrame, envelope: Envelope | None = None, *, ax: Axes | None = None) -> Axes:
    """Loss against compute, a line per run coloured by size, a dot where a run ends, the envelope over the ends.

    A line leads to its dot only where that is measured as the rows before it. Arms differ by line and mark; runs that
    were named by line and tone, stand without an envelope, and are shown whole.
    """
    axis, named = rows.attrs.get("against", "flops"), rows.attrs.get("named", False)
    ax = new_axes(ax)
    by = "run_id" if named else "arm"
    color, looks = ColorScale(rows["n_params"]), arm_looks(rows[by].astype(str))
    runs = [run for _, run in rows.groupby("run_id", sort=False)]
    sizes = rows.groupby("run_id", sort=False)["n_params"].first().to_numpy()
    tones = COMPUTE_MAP(np.linspace(0.15, 0.85, len(runs))) if named else color(sizes)
    flat, apart = len(rows) > MANY_ROWS, rows.attrs.get("apart", False)
    ended = rows["final"] & (rows["state"] == "done")
    along = [run[~ended[run.index]] if apart else run for run in runs]
    ax.add_collection(
        LineCollection(
            [run[[axis, "loss"]].to_numpy(float) for run in along],
            colors=tones,
            linestyles=[looks[str(run[by].iloc[0])][0] for run in runs], linewidths=1.0, alpha=0.9, rasterized=flat,
        )
    )  # fmt: skip
    ends = rows[ended]
    tone_of = {run["run_id"].iloc[0]: tone for run, tone in zip(runs, tones, strict=True)}
    arm_dots(ax, ends, axis, "loss", looks={} if named else looks, c=[tone_of[run] for run in ends["run_id"]], s=11,
             edgecolor=INK, linewidth=0.5, zorder=3, rasterized=flat)  # fmt: skip
    if axis == "hours":
        ax.set_xlabel("time of training (hours)")
    else:
        log_axis(ax.xaxis, axis)
    log_axis(ax.yaxis, "loss")
    _set_limits(ax, rows, rows if named or not len(ends) else ends, axis, whole=named)
    where = "end of a run, on all held-out windows; lines: on some" if apart else "end of a run"
    keys = [Line2D([], [], color=INK, marker="o", ms=3, ls="none", label=where)]
    if envelope is not None and not named and axis == "flops":
        low = envelope.frame[envelope.frame["bracketed"]]
        keys += ax.plot(low["flops"], low["loss"], color=INK, lw=1, ls=(0, (1, 1.2)), label="envelope of the trunks")
    keys += [] if named else arm_keys(looks)
    ax.add_artist(ax.legend(handles=keys, loc="lower left", handlelength=2.2))
    if named:
        names = [str(run["run_id"].iloc[0]) for run in runs]
        lines = [Line2D([], [], color=tone, ls=looks[name][0]) for tone, name in zip(tones, names, strict=True)]
        ax.legend(lines, names, loc="upper right", handlelength=2.6)
    else:
        _name_sizes(ax, rows, color, axis)
    total = rows.attrs.get("runs", len(runs))
    ax.set_title("Learning curves" + (f" ({len(runs)} of {total} runs)" if len(runs) < total else ""))
    return ax


def _set_limits(ax: Axes, rows: pd.DataFrame, shown: pd.DataFrame, axis: str, *, whole: bool) -> None:
    """Limits that hold the losses of `shown`; of `whole` curves every evaluation, else what leads to their ends."""
    floor, top = shown["loss"].min(), shown["loss"].max()
    above = top * 1.05 if whole else max(top * (top / floor) ** 0.35 * 1.02, LEAST_SPAN * floor)
    ax.set_ylim(floor / (top / floor) ** (0.1 if whole else 0.2) / 1.02, above)
    low = rows[axis].min() / 1.1 if whole else rows[axis].quantile(0.02)
    ax.set_xlim(low, rows[axis].max() * 1.1)


def _name_sizes(ax: Axes, rows: pd.DataFrame, color: ColorScale, axis: str) -> None:
    """Each size at the end of its longest run; where they are many, only those at the right, and the range in words."""
    last = rows.loc[rows.groupby("n_params")[axis].idxmax()]
    if len(last) > MOST_LABELS:
        low, high = last["n_params"].min(), last["n_params"].max()
        ax.set_title(f"{len(last)} sizes, {count(low)} (light) to {count(high)} (dark)", loc="right", **REMARK)
        last = last[last[axis] > rows[axis].max() / 1.2]
    if len(last) <= 2 * MOST_LABELS:
        ends = zip(last[axis], last["loss"], last["n_params"], strict=True)
        label_ends(ax, [(x, loss, count(size), color(size)) for x, loss, size in ends])


FIGURES = (
    Figure(
        "curves",
        "Held-out loss along training, darker for larger models.",
        needs=lambda e: (
            learning_curves(e.table, params=e.params, compute=e.compute, runs=e.runs, against=e.against),
            if_supported(lambda: e.envelope),
        ),
        plot=plot_learning_curves,
        place=60,
    ),
)
