"""Laws compared by what they predict and have not seen: best on top."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis.style import COMPUTE_MAP, MUTED, new_axes, note
from scaling.holdout import HoldOut


def scoreboard_frame(held_out: HoldOut) -> pd.DataFrame:
    """A row per law, best first: mean |ln error| on the runs held out with its standard error, bias, rolling score."""
    rows = []
    for name, forecast in held_out.forecasts.items():
        error = forecast.cells["error"].to_numpy(float)
        rows.append({
            "law": name, "error": np.abs(error).mean(),
            "error_se": np.abs(error).std(ddof=1) / np.sqrt(len(error)) if len(error) > 1 else np.nan,
            "bias": -error.mean(), "coverage": forecast.coverage, "runs": len(error),
            "free": len(forecast.fit.free), "chosen": name == held_out.chosen,
            "rolling_score": held_out.scores["score"].get(name, np.nan) if len(held_out.scores) else np.nan,
        })  # fmt: skip
    return pd.DataFrame(rows).sort_values("error", ignore_index=True)


def plot_scoreboard(held_out: HoldOut, *, ax: Axes | None = None) -> Axes:
    """Mean error of each law on the runs held out, with twice its standard error; the law chosen below is filled.

    The small tick is the score that the choice was made by, on the budgets below the threshold.
    """
    ax = new_axes(ax)
    frame = scoreboard_frame(held_out)
    place = np.arange(len(frame))[::-1]
    shade = COMPUTE_MAP(0.7)
    ax.errorbar(100 * frame["error"], place, xerr=200 * frame["error_se"].fillna(0), fmt="none", ecolor=shade, lw=1.2)
    face = [shade if c else "white" for c in frame["chosen"]]
    ax.scatter(100 * frame["error"], place, s=42, c=face, edgecolor=[shade], linewidth=1.3, zorder=3)
    ax.scatter(100 * frame["rolling_score"], place, marker="|", s=90, color=MUTED, zorder=2)
    labels = [f"{r.law}\n{r.free} free" for r in frame.itertuples()]
    ax.set_yticks(place, labels)
    ax.set_ylim(-0.9, len(frame) - 0.4)
    ax.set_xlim(left=0)
    ax.set_xlabel("mean |error| of held-out loss (%)")
    ax.grid(axis="y", visible=False)
    if frame["chosen"].any():
        note(ax, "filled: chosen on the budgets below\n| : the score it was chosen by", where="lower right")
    ax.set_title("Laws on unseen compute")
    return ax
