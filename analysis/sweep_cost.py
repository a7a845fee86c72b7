"""What a study cost: the speed of every run, and the tokens that shared trunks saved."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis.style import ColorScale, flops, label_ends, log_axis, new_axes, note
from scaling.accounting import count_params, is_runs
from scaling.runs import final_rows


def cost_frame(table: pd.DataFrame, *, params: str = "matrices") -> pd.DataFrame:
    """A row per finished run: size, tokens, FLOPs, seconds, FLOP/s. Raises ValueError without recorded times."""
    if not is_runs(table):
        raise ValueError("needs a run table with wall_seconds; this table has none")
    frame = final_rows(table)
    frame = frame.assign(n_params=count_params(frame, params))
    frame = frame[frame["wall_seconds"] > 0]
    if frame.empty:
        raise ValueError("no finished run has a wall time")
    columns = ["run_id", "trunk_id", "n_params", "tokens", "budget_flops", "flops", "wall_seconds"]
    return frame[columns].assign(flops_per_second=frame["flops"] / frame["wall_seconds"]).reset_index(drop=True)


def trained_tokens(table: pd.DataFrame) -> tuple[float, float]:
    """Tokens that finished runs count in their horizons, and tokens in fact trained when trunks were shared.

    A trunk is trained once up to its furthest branch point; each run adds what it trained after its own branch.
    """
    table = table[["run_id", "trunk_id", "phase", "tokens", "final", "state"]]  # the rest is not copied
    done = table[table["run_id"].isin(final_rows(table)["run_id"])]
    horizons = done.groupby(["trunk_id", "run_id"])["tokens"].max()
    along = done[done["phase"].isin(["warmup", "constant"])].groupby(["trunk_id", "run_id"])["tokens"].max()
    shared = horizons.groupby("trunk_id").transform("size") > 1
    branches = along.reindex(horizons.index).fillna(0.0).where(shared, 0.0)
    trained = branches.groupby("trunk_id").max().sum() + (horizons - branches).sum()
    return float(horizons.sum()), float(trained)


def plot_sweep_cost(cost: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Training speed (FLOP/s) of every run against its size, coloured by compute."""
    ax = new_axes(ax)
    color = ColorScale(cost["flops"])
    for budget, runs in cost.groupby(_budget(cost)):
        runs = runs.sort_values("n_params")
        ax.plot(runs["n_params"], runs["flops_per_second"], "o-", ms=3.5, lw=0.9, color=color(budget))
    log_axis(ax.xaxis, "n_params")
    log_axis(ax.yaxis, "flops", label="speed of training (FLOP/s)")
    ends = cost.loc[cost.groupby(_budget(cost))["n_params"].idxmax()]
    label_ends(ax, [(r.n_params, r.flops_per_second, flops(r.flops), color(r.flops)) for r in ends.itertuples()])
    hours = cost["wall_seconds"].sum() / 3600
    note(
        ax, f"{len(cost)} runs, {cost['flops'].sum():.2g} FLOPs, {hours:.2g} h one after the other", where="lower right"
    )
    ax.set_title("Speed of the sweep")
    return ax


def _budget(cost: pd.DataFrame) -> pd.Series:
    """The budget asked for, or the compute to two digits where it was given in tokens."""
    rounded = np.exp(np.log(cost["flops"]).round(1))
    return cost["budget_flops"].where(np.isfinite(cost["budget_flops"]), rounded)
