"""Compute multiplier between arms against the loss reached: where one arm's compute buys more."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from isoflop.analysis.style import COMPUTE_MAP, INK, LossTicks, label_ends, new_axes, note
from isoflop.scaling.arms.multiplier import Multipliers


def multiplier_frame(result: Multipliers) -> pd.DataFrame:
    """Every arm's multiplier at every loss, with its interval."""
    return pd.concat([p.at_loss.assign(arm=p.arm, baseline=p.baseline) for p in result.pairs], ignore_index=True)


def plot_multiplier(result: Multipliers, *, ax: Axes | None = None) -> Axes:
    """C of the baseline over C of the arm at equal loss, with intervals; above 1 the arm is cheaper."""
    ax = new_axes(ax)
    ax.axhline(1, color=INK, lw=0.8)
    ends = []
    for place, pair in zip(np.linspace(0.35, 0.85, len(result.pairs)), result.pairs, strict=True):
        shade = COMPUTE_MAP(place)
        at = pair.at_loss.sort_values("loss", ascending=False)
        ax.fill_between(at["loss"], at["lo"], at["hi"], color=shade, alpha=0.2, lw=0)
        ax.plot(at["loss"], at["multiplier"], "o-", ms=3.5, color=shade)
        ends.append((at["loss"].iloc[-1], at["multiplier"].iloc[-1], pair.arm, shade))
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LossTicks(7))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:.3g}"))
    ax.xaxis.set_major_locator(MaxNLocator(6))
    ax.invert_xaxis()
    ax.set_xlabel("loss reached (nats/token), more compute to the right")
    ax.set_ylabel(f"compute multiplier over {result.pairs[0].baseline}")
    label_ends(ax, ends)
    note(ax, f"bands {result.level:.0%}", where="lower left")
    ax.set_title("Compute multiplier")
    return ax
