"""Arms side by side: the compute multiplier of each over the baseline, and its loss by position in the window."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from isoflop.analysis.figure import Figure
from isoflop.analysis.style import (
    COMPUTE_MAP,
    INK,
    REMARK,
    ColorScale,
    End,
    LossTicks,
    arm_legend,
    arm_looks,
    flops,
    label_ends,
    log_axis,
    loss_label,
    new_axes,
    note,
)
from isoflop.printable import shortened
from isoflop.scaling.table.evaluations.evaluation import EVALUATION_FILE, read_evaluation
from isoflop.scaling.table.runs import final_rows, is_runs

if TYPE_CHECKING:
    from isoflop.scaling.arms.multiplier import Multipliers
    from isoflop.scaling.gate.gate import Gate

COLUMNS = ("run_id", "arm", "budget", "position", "loss")
OPEN = 10.0  # times an estimate: how far a bound is followed
LABEL = 20  # letters of a name of an arm
STEP = 2**0.5  # positions within this factor are drawn as their mean


def multiplier_frame(result: "Multipliers") -> pd.DataFrame:
    """Every arm's multiplier at every loss, with its interval."""
    return pd.concat([p.at_loss.assign(arm=p.arm, baseline=p.baseline) for p in result.pairs], ignore_index=True)


def plot_multiplier(result: "Multipliers", *, ax: Axes | None = None) -> Axes:
    """C of the baseline over C of the arm at equal loss, with intervals; above 1 the arm is cheaper."""
    ax = new_axes(ax)
    ax.axhline(1, color=INK, lw=0.8)
    ends, baseline = [], result.pairs[0].baseline
    labels = shortened([baseline, *(pair.arm for pair in result.pairs)], LABEL)
    for place, pair in zip(np.linspace(0.35, 0.85, len(result.pairs)), result.pairs, strict=True):
        shade = COMPUTE_MAP(place)
        at = pair.at_loss.sort_values("loss", ascending=False)
        ax.fill_between(at["loss"], at["lo"], at["hi"], color=shade, alpha=0.2, lw=0)
        ax.plot(at["loss"], at["multiplier"], "o-", ms=3.5, color=shade)
        ends.append((at["loss"].iloc[-1], at["multiplier"].iloc[-1], labels[pair.arm], shade))
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LossTicks(7))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:.3g}"))
    ax.xaxis.set_major_locator(MaxNLocator(6))
    ax.invert_xaxis()
    ax.set_xlabel(f"{loss_label('loss reached')}, more compute to the right")
    ax.set_ylabel(f"compute multiplier over {labels[baseline]}")
    label_ends(ax, ends)
    ax.set_title("Compute multiplier")
    ax.set_title(f"bands {result.level:.0%}", loc="right", **REMARK)
    return ax


def gate_frame(result: "Gate") -> pd.DataFrame:
    """For every arm its multiplier at each compute of its pairs (`what` compute), after each pair (sequence), and at
    the target, with bounds.
    """
    parts = []
    for v in result.verdicts:
        end = pd.DataFrame({"flops": [result.target], "pairs": v.pairs, "multiplier": v.multiplier, "lo": v.interval[0],
                            "hi": v.interval[1]})  # fmt: skip
        for what, rows in (("compute", v.by_compute), ("sequence", v.sequence), ("target", end)):
            parts.append(rows.assign(what=what, arm=v.arm, decision=v.decision))
    return pd.concat(parts, ignore_index=True).assign(baseline=result.baseline, least=result.least)


def plot_gate(result: "Gate", *, ax: Axes | None = None) -> Axes:
    """Multiplier of the pairs at each compute, and at the target, with the bounds of the sequence fading into it."""
    ax = new_axes(ax)
    frame = gate_frame(result).replace(np.inf, np.nan)
    ax.axhline(1, color=INK, lw=0.8)
    ax.axhline(result.least, color=INK, lw=0.8, ls=":")
    ax.axvline(result.target, color=INK, lw=0.6, ls="--")
    looks, ends = arm_looks(v.arm for v in result.verdicts), []
    labels = shortened([result.baseline, *(v.arm for v in result.verdicts)], LABEL)
    for place, v in zip(np.linspace(0.35, 0.85, len(result.verdicts)), result.verdicts, strict=True):
        shade, (_, mark) = COMPUTE_MAP(place), looks[v.arm]
        own = frame[frame["arm"] == v.arm]
        at, looked = own[own["what"] == "compute"], own[(own["what"] == "sequence") & (own["lo"] > 0)].dropna()
        ax.plot(at["flops"], at["multiplier"], ls="none", marker=mark, ms=3.5, color=shade)
        ax.vlines(at["flops"], at["lo"].where(at["lo"] > 0), at["hi"], color=shade, lw=0.8)
        ax.vlines([result.target] * len(looked), looked["lo"], looked["hi"], color=shade, lw=4, alpha=0.15)
        if np.isfinite(v.multiplier):
            ax.plot([result.target], [v.multiplier], marker=mark, ms=6, color=shade)
            ends.append((result.target, v.multiplier, f"{labels[v.arm]}: {v.decision}", shade))
    log_axis(ax.xaxis, "flops", label="compute (FLOPs)")
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LossTicks(7))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:.3g}"))
    ax.set_ylabel(f"compute multiplier over {labels[result.baseline]}")
    cut = _near_estimates(ax, [*frame.loc[frame["what"] != "sequence", "multiplier"].dropna(), 1.0])
    label_ends(ax, ends)
    note(ax, f"dotted: {result.least:g}; bounds hold at every look, error {result.error:g}{cut}", where="lower left")
    ax.set_title("Does it survive scale?")
    return ax


def _near_estimates(ax: Axes, estimates: Sequence[float]) -> str:
    """Limits within a factor of OPEN of what was estimated, where a bound is all but open; words for what that cuts."""
    low, high = ax.get_ylim()
    least, most = min(estimates) / OPEN, max(estimates) * OPEN
    ax.set_ylim(max(low, least), min(high, most))
    return "\nbounds go on beyond the panel" if low < least or high > most else ""


def positions_frame(table: pd.DataFrame) -> pd.DataFrame:
    """COLUMNS, a row per position: of a table that has them (as isoflop positions --out writes it), or of each arm's
    best run at each budget in a runs folder. Raises ValueError where neither is there.
    """
    if set(COLUMNS) <= set(table):
        return table[list(COLUMNS)].reset_index(drop=True)
    if not is_runs(table):
        raise ValueError("needs a runs folder, or the file that isoflop positions --out writes")
    final, folder = final_rows(table), Path(table.attrs.get("source", ""))
    if final.empty or not (folder / "cells").is_dir():
        raise ValueError("loss by position is stored with the runs of a runs folder, not in one table: give the folder")
    final["budget"] = final["budget_flops"].where(final["budget_flops"].notna(), final["flops"])
    best = final.loc[final.groupby(["arm", "budget"])["loss"].idxmin()]
    parts = []
    for run in best.itertuples():
        path = folder / "cells" / run.run_id / EVALUATION_FILE
        if path.exists():
            rows = read_evaluation(path)
            rows = rows[rows["measure"] == "position"].rename(columns={"number": "position"})
            parts.append(rows.assign(arm=run.arm, budget=run.budget)[list(COLUMNS)])
    if not parts:
        raise ValueError(f"none of the {len(best)} best runs in {folder} kept its loss by position; isoflop positions")
    return pd.concat(parts, ignore_index=True)


def binned(positions: pd.DataFrame) -> pd.DataFrame:
    """Mean loss over neighbouring positions of each run: arm, budget, position (their geometric mean), loss."""
    bins = np.floor(np.log(positions["position"]) / np.log(STEP) + 1e-9).rename("bin")
    logs = positions.assign(position=np.log(positions["position"]))
    mean = logs.groupby(["arm", "budget", bins])[["position", "loss"]].mean()
    return mean.assign(position=np.exp(mean["position"])).reset_index().drop(columns="bin")


def plot_positions(positions: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Loss against position, a line per arm and budget: darker for more compute, arms by line and mark."""
    ax = new_axes(ax)
    frame = binned(positions)
    color, looks = ColorScale(frame["budget"]), arm_looks(frame["arm"])
    ends: dict[float, End] = {}
    for (arm, budget), run in frame.groupby(["arm", "budget"]):
        dash, mark = looks[arm]
        ax.plot(run["position"], run["loss"], ls=dash, marker=mark, ms=3.5, lw=1.2, color=color(budget))
        last = run.iloc[-1]
        if budget not in ends or last["loss"] < ends[budget][1]:
            ends[budget] = (last["position"], last["loss"], f"{flops(budget)} FLOPs", color(budget))
    log_axis(ax.xaxis, "tokens", label="position in the window (tokens)", most=8)
    log_axis(ax.yaxis, "loss")
    label_ends(ax, list(ends.values()))
    arm_legend(ax, looks)
    note(ax, "each arm's best run at a budget", where="lower left")
    ax.set_title("Loss by position")
    return ax


FIGURES = (
    Figure(
        "multiplier",
        "Compute of the baseline over compute of the arm, at equal loss.",
        needs=lambda e: e.multipliers,
        frame=multiplier_frame,
        plot=plot_multiplier,
        place=130,
    ),
    Figure(
        "gate",
        "Compute multiplier of each arm against compute, by pairs of runs, and its bounds at the largest compute.",
        needs=lambda e: e.gate,
        frame=gate_frame,
        plot=plot_gate,
        place=135,
    ),
    Figure(
        "positions",
        "Loss by position in the window, of each arm's best run.",
        needs=lambda e: positions_frame(e.table),
        plot=plot_positions,
        place=150,
    ),
)
