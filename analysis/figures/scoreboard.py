"""Laws compared by what they predict and have not seen: best on top."""

from textwrap import shorten

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullLocator

from isoflop.analysis.figure import Figure
from isoflop.analysis.style import COMPUTE_MAP, INK, MUTED, LogTicks, new_axes, note
from isoflop.scaling.selection.rolling_origins import BASELINE
from isoflop.scaling.selection.scoreboard import AVERAGE, Scoreboard

LEAST = 0.05  # of a mean error: the shortest side of its interval that a logarithmic axis can show
_NAMES = {BASELINE: "local slope\n(no law)", AVERAGE: "forecast average"}


def scoreboard_frame(board: Scoreboard) -> pd.DataFrame:
    """A row per law, the baseline and the forecast average, best first, then the refused with their reason.

    The columns are those of Scoreboard.frame.
    """
    scored = board.frame.reset_index().assign(preferred=lambda f: f["law"] == board.preferred, refused="")
    refused = pd.DataFrame({"law": list(board.refused), "preferred": False, "refused": list(board.refused.values())})
    return pd.concat([scored, refused], ignore_index=True) if len(refused) else scored


def plot_scoreboard(board: Scoreboard, *, ax: Axes | None = None) -> Axes:
    """Mean |ln loss error| at rolling origins with one standard error; the preferred law filled, baseline and
    forecast average as squares, the refused below, each with its reason."""
    ax = new_axes(ax)
    frame = scoreboard_frame(board)
    place = np.arange(len(frame))[::-1]
    scored = frame[frame["refused"] == ""]
    at = place[: len(scored)]
    error, se = 100 * scored["error"].to_numpy(float), 100 * scored["error_se"].fillna(0).to_numpy(float)
    low = np.minimum(se, error * (1 - LEAST))
    law = scored["law"].isin(board.entrants).to_numpy()
    shade = [COMPUTE_MAP(0.7) if known else MUTED for known in law]
    ax.hlines(at, error - low, error + se, color=shade, lw=1.2)
    face = [c if p else "white" for c, p in zip(shade, scored["preferred"], strict=True)]
    for which, marker in ((law, "o"), (~law, "s")):
        picked = np.flatnonzero(which)
        ax.scatter(error[picked], at[picked], s=40, marker=marker, c=[face[i] for i in picked],
                   edgecolor=[shade[i] for i in picked], linewidth=1.3, zorder=3)  # fmt: skip
    ax.set_yticks(place, [_NAMES.get(r.law, f"{r.law}{_free(r.free)}") for r in frame.itertuples()])
    ax.set_ylim(-1.9, len(frame) - 0.4)
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogTicks(6))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.10g}"))
    if error.max() < 4 * error.min():
        ax.set_xlim(error.min() / 3, error.max() * 3)
    for y, why in zip(place[len(scored) :], frame["refused"].iloc[len(scored) :], strict=True):
        ax.annotate(f"refused: {_short(why)}", (0, y), xycoords=ax.get_yaxis_transform(), xytext=(4, 0),
                    textcoords="offset points", va="center", fontsize=7, color=INK)  # fmt: skip
    ax.set_xlabel(f"mean |error| of next runs' loss (%, bars 1 se), {len(board.origins)} rolling origins")
    ax.grid(axis="y", visible=False)
    note(ax, "filled: fewest free parameters within one\nstandard error of the best; squares: no single law",
         where="lower right")  # fmt: skip
    ax.set_title("Laws on unseen compute")
    return ax


def _free(free: float) -> str:
    return f"\n{free:.0f} free" if np.isfinite(free) else ""


def _short(why: str, most: int = 58) -> str:
    """The reason, or its first words: the data behind the figure has it whole."""
    return shorten(why, most, placeholder=" ...")


FIGURES = (
    Figure(
        "scoreboard",
        "Laws, a baseline without a law and the forecast average, by their error on the next scale.",
        needs=lambda e: e.scoreboard,
        frame=scoreboard_frame,
        plot=plot_scoreboard,
        place=90,
    ),
)
