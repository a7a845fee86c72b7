"""The exponent of N* under other objectives, without some budgets and under other conventions."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from isoflop.analysis.figure import Figure
from isoflop.analysis.style import COMPUTE_MAP, INK, LEVEL, MUTED, is_known, new_axes, note


def plot_sensitivity(frame: pd.DataFrame, *, name: str = "a", ax: Axes | None = None) -> Axes:
    """The exponent under each change with its interval; the band is the interval of the analysis as chosen."""
    ax = new_axes(ax)
    place = np.arange(len(frame))[::-1]
    chosen = frame.iloc[0]
    ax.axvspan(chosen["low"], chosen["high"], color=COMPUTE_MAP(0.35), alpha=0.2, lw=0)
    ax.axvline(chosen["value"], color=INK, lw=0.9)
    moved, known = frame["value"].sub(chosen["value"]).abs().max(), is_known(chosen["low"], chosen["high"])
    reach = moved + 1.5 * (chosen["high"] - chosen["low"]) if known else 2 * moved
    low, high = (np.clip(frame[e], chosen["value"] - reach, chosen["value"] + reach) for e in ("low", "high"))
    ax.hlines(place, low, high, color=MUTED, lw=1.2)
    outside = (frame["value"] < chosen["low"]) | (frame["value"] > chosen["high"])
    face = ["white" if o else COMPUTE_MAP(0.8) for o in outside]
    ax.scatter(frame["value"], place, s=30, c=face, edgecolor=[COMPUTE_MAP(0.8)], linewidth=1.2, zorder=3)
    ax.set_yticks(place, [r.setting or r.what for r in frame.itertuples()])
    ax.set_ylim(-1.4, len(frame) - 0.4)
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.set_xlabel(f"exponent {name} of N* (intervals {LEVEL:.0%})")
    ax.grid(axis="y", visible=False)
    if not known:
        ax.set_xlim(chosen["value"] - reach, chosen["value"] + reach)
        note(ax, "intervals go beyond the panel: the exponent is not known", where="lower right")
    elif outside.any():
        note(ax, "hollow: outside the interval as chosen", where="lower right")
    ax.set_title("Sensitivity of the exponent")
    return ax


FIGURES = (
    Figure(
        "sensitivity",
        "The exponent of N* when the analysis is changed.",
        needs=lambda e: e.sensitivity,
        plot=plot_sensitivity,
        place=120,
    ),
)
