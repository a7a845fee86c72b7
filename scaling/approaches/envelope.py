"""Approach 1: the lower envelope of whole training curves (Hoffmann et al. 2022, section 3.1).

At every compute the lowest curve gives the best size. That holds only for curves that are alike at every point: the
constant-rate trunks of a warm-up-stable-decay study are, because none of them is annealed; a cosine curve before its
end is not the loss at that many tokens, which the envelope notes.
"""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from isoflop.scaling.approaches.allocation import LEVEL, NoAllocationError, PowerFit, allocation
from isoflop.scaling.laws.special_functions import stdtrit
from isoflop.scaling.table.conventions import Points, points
from isoflop.scaling.table.curves import curves
from isoflop.scaling.table.runs import is_runs

GRID = 256
READ = ("run_id", "trunk_id", "phase", "tied", "tokens", "loss", "final", "state")
_Curve = dict[str, np.ndarray]  # columns of its rows, (n,) each


@dataclass(frozen=True)
class Envelope:
    """The lowest curve at each compute. `frame` has flops, n_params, tokens, loss, run_id of the lowest curve.

    `bracketed` says whether both a smaller and a larger model were measured at that compute; only then are there
    n_opt and tokens_opt, the optimum between the sizes, which the allocation goes through.
    """

    frame: pd.DataFrame
    allocation: PowerFit
    notes: tuple[str, ...]


def has_curves(table: pd.DataFrame) -> bool:
    """Whether the table has evaluations before the end of its runs."""
    if {"final", "phase", "trunk_id"} <= set(table):
        return bool((~table["final"].astype(bool)).any())
    return curves(table) is not None


def envelope(table: pd.DataFrame, *, params: str = "matrices", compute: str = "exact") -> Envelope:
    """The lower envelope of a table's curves and the power laws through it, intervals by leaving out each size.

    Raises NoAllocationError if there are no curves, or none is bracketed by a smaller and a larger one.
    """
    if not has_curves(table):
        raise NoAllocationError("no training curves here: approach 1 needs evaluations before the end of the runs")
    if not {"final", "phase", "trunk_id"} <= set(table) and (found := curves(table)):
        table = found.rows()
    rows, notes = _comparable(table)
    rows = _curves(rows, params, compute)
    sizes = _by_size(rows)
    frame = _lowest(sizes)
    power = _power(frame)
    kept = [_lowest({n: sizes[n] for n in sizes if n != size}) for size in rows["n_params"].unique()]
    return Envelope(frame, _jackknife(power, kept), notes)


def _comparable(table: pd.DataFrame) -> tuple[pd.DataFrame, tuple[str, ...]]:
    if is_runs(table):
        table = table[[c for c in table if c in READ or c.startswith(("n_params_", "flops"))]]  # the rest is not copied
    usable = np.isfinite(table["loss"]) & (table["tokens"] > 0) & ~table["phase"].isin(["warmup", "forecast"])
    constant = usable & (table["phase"] == "constant")
    if constant.any():
        return table[constant], ("curves at constant learning rate, before any cooldown",)
    return table[usable], (
        "curves of decaying schedules: before its end such a curve lies above the loss at that many tokens",
    )


def _curves(rows: pd.DataFrame, params: str, compute: str) -> pd.DataFrame:
    """One row per (trunk, tokens) with the conventions applied; cells of one trunk share its rows."""
    once = rows.drop_duplicates(["trunk_id", "tokens"]).assign(final=True, state="done")
    if not is_runs(once):  # every row is a point of a curve
        once = once.drop(columns="run_id")
    tidy: Points = points(once, params=params, compute=compute, cluster="trunk_id")
    return tidy.frame.sort_values(["cluster", "tokens"], ignore_index=True)


def _by_size(rows: pd.DataFrame) -> dict[float, list[_Curve]]:
    """The curves of each size, ascending: what `_lowest` reads of them."""
    read = [c for c in ("flops", "loss", "tokens", "cluster", "run_id") if c in rows]
    return {
        size: [{c: g[c].to_numpy() for c in read} for _, g in rows[rows["n_params"] == size].groupby("cluster")]
        for size in np.sort(rows["n_params"].unique())
    }


def _lowest(found: dict[float, list[_Curve]]) -> pd.DataFrame:
    spent = np.concatenate([curve["flops"] for replicates in found.values() for curve in replicates])
    grid = np.geomspace(spent.min(), spent.max(), GRID)
    at = [_of_size(replicates, grid) for replicates in found.values()]
    columns = _optima(grid, np.array(list(found)), *(np.array([one[k] for one in at]) for k in (0, 1)))
    winners = columns.pop("winner")
    if not len(winners):
        raise NoAllocationError("no compute at which the curves of a size were all measured")
    return pd.DataFrame(columns | {"run_id": [at[winner][2] for winner in winners]})


def _of_size(replicates: list[_Curve], grid: np.ndarray) -> tuple[np.ndarray, np.ndarray, str]:
    """Loss and tokens (GRID,) of one size at the compute `grid`, NaN where not all of it was measured, and its run."""
    losses, seen = ([_at(curve, column, grid) for curve in replicates] for column in ("loss", "tokens"))
    if "run_id" in replicates[0]:  # trunks of one length
        return np.mean(losses, axis=0), seen[0], replicates[0]["run_id"][-1]
    # Runs of any length: the lowest that was measured.
    return np.fmin.reduce(losses), np.fmax.reduce(seen), replicates[0]["cluster"][-1]


def _optima(grid: np.ndarray, sizes: np.ndarray, loss: np.ndarray, tokens: np.ndarray) -> _Curve:
    """The lowest of the sizes (S,) at each compute, and the vertex of the parabola through it and its measured
    neighbours; `loss` and `tokens` are (S, GRID).

    The vertex takes the staircase out of the envelope: sizes are few, and a step's slope is zero.
    """
    measured = np.isfinite(loss)
    known = np.flatnonzero(measured.any(axis=0))
    loss, tokens, measured = loss[:, known], tokens[:, known], measured[:, known]
    column = np.arange(len(known))
    order = np.argsort(~measured, axis=0, kind="stable")  # of each compute the sizes measured there, ascending
    count = measured.sum(axis=0)
    losses = np.take_along_axis(np.where(measured, loss, np.inf), order, axis=0)
    position = np.argmin(losses, axis=0)
    winner = order[position, column]
    inside = (position > 0) & (position < count - 1)
    at = np.flatnonzero(inside)
    three = order[position[at] + np.arange(-1, 2)[:, None], at]
    x, t, (below, middle, above) = np.log(sizes[three]), np.log(tokens[three, at]), loss[three, at]
    left, right = x[0] - x[1], x[2] - x[1]
    chords = (below - middle) / left, (above - middle) / right
    a = (chords[1] - chords[0]) / (right - left)
    vertex = x[1] - (chords[0] - a * left) / (2 * a)
    side, each = (vertex >= x[1]).astype(int), np.arange(len(at))
    steep = (t[side + 1, each] - t[side, each]) / (x[side + 1, each] - x[side, each])
    n_opt, tokens_opt = np.full((2, len(known)), np.nan)
    n_opt[at], tokens_opt[at] = np.exp(vertex), np.exp(steep * (vertex - x[side, each]) + t[side, each])
    return {
        "winner": winner, "n_params": sizes[winner], "tokens": tokens[winner, column], "loss": loss[winner, column],
        "bracketed": inside, "flops": grid[known], "n_opt": n_opt, "tokens_opt": tokens_opt,
    }  # fmt: skip


def _at(curve: _Curve, column: str, grid: np.ndarray) -> np.ndarray:
    """A column of one curve, interpolated in logs at the compute `grid`; NaN outside the curve."""
    x, y = np.log(curve["flops"]), np.log(curve[column])
    return np.exp(np.interp(np.log(grid), x, y, left=np.nan, right=np.nan))


def _power(frame: pd.DataFrame) -> PowerFit:
    inside = frame[frame["bracketed"]]
    if inside["n_params"].nunique() < 3:
        raise NoAllocationError(
            f"{inside['n_params'].nunique()} sizes are lowest somewhere between smaller and larger ones: "
            "an envelope needs three"
        )
    return replace(allocation(inside), n_budgets=0)


def _jackknife(power: PowerFit, kept: list[pd.DataFrame]) -> PowerFit:
    """The same fit with intervals over the sizes: neighbouring points of an envelope belong to the same run."""
    refits = []
    for frame in kept:
        try:
            refits.append(_power(frame))
        except NoAllocationError:
            continue
    count = len(refits)
    if count < 3:
        unknown = (float("-inf"), float("inf"))
        return replace(power, n_interval=unknown, tokens_interval=unknown, n_error=float("inf"))

    def error(name: str) -> float:
        return float(np.sqrt((count - 1) * np.var([getattr(r, name) for r in refits])))

    def interval(name: str) -> tuple[float, float]:
        half = float(stdtrit(count - 1, (1 + LEVEL) / 2)) * error(name)
        return getattr(power, name) - half, getattr(power, name) + half

    return replace(
        power, n_interval=interval("n_exponent"), tokens_interval=interval("tokens_exponent"),
        n_error=error("n_exponent"),
    )  # fmt: skip
