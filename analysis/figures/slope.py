"""Local slope d ln L / d ln C along the efficient frontier: no irreducible loss is needed to see it bend."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from isoflop.analysis.style import COMPUTE_MAP, INK, LEVEL, ColorScale, log_axis, new_axes, note, readable
from isoflop.scaling.approaches.isoflop_profiles import IsoflopProfile
from isoflop.scaling.fitting.fit import Fit
from isoflop.scaling.fitting.uncertainty import Draws
from isoflop.scaling.laws.chinchilla import Law

STEP = 0.05  # of ln C, for the central difference
SPACING = 1.9  # of compute: between closer budgets the noise of two optima is larger than what they differ by


def slope_frame(fit: Fit, draws: Draws | None = None, *, reach: float = 10) -> pd.DataFrame:
    """The slope of the law's frontier from the smallest compute fitted to `reach` times the largest, with 90% band."""
    largest = fit.points.frame["flops"].max()
    compute = np.geomspace(fit.points.frame["flops"].min(), largest * reach, 60)

    def slope(law: Law) -> np.ndarray:
        up, down = (np.asarray(law.optimal(compute * np.exp(s), fit.cost).loss, float) for s in (STEP, -STEP))
        return np.log(up / down) / (2 * STEP)

    low, high = draws.band(slope, LEVEL) if draws is not None else (np.nan, np.nan)
    inside = compute <= largest * (1 + 1e-9)
    return pd.DataFrame({"flops": compute, "slope": slope(fit.law), "low": low, "high": high, "inside": inside})


def measured_slopes(profiles: Sequence[IsoflopProfile]) -> pd.DataFrame:
    """Slope between the best losses of accepted profiles at least SPACING apart, at their geometric mean compute."""
    best: list[tuple[float, float]] = []
    for flops, loss in sorted((p.flops, p.loss_opt) for p in profiles if p.accepted):
        if not best or flops >= SPACING * best[-1][0]:
            best.append((flops, loss))
    if len(best) < 2:
        return pd.DataFrame({"flops": [], "slope": []})
    compute, loss = np.log(np.array(best)).T
    return pd.DataFrame({"flops": np.exp((compute[1:] + compute[:-1]) / 2), "slope": np.diff(loss) / np.diff(compute)})


def plot_local_slope(
    fit: Fit, draws: Draws | None = None, *, profiles: Sequence[IsoflopProfile] = (), ax: Axes | None = None
) -> Axes:
    """The law's slope with its band, dashed beyond the fitted range, and the slopes between measured optima."""
    ax = new_axes(ax)
    frame = slope_frame(fit, draws)
    ax.fill_between(frame["flops"], frame["low"], frame["high"], color=COMPUTE_MAP(0.35), alpha=0.25, lw=0)
    inside = frame[frame["inside"]]
    ax.plot(frame["flops"], frame["slope"], color=INK, lw=1.2, ls=(0, (4, 2)))
    ax.plot(inside["flops"], inside["slope"], color=INK, lw=1.8)
    points = measured_slopes(profiles)
    if len(points):
        color = ColorScale([p.flops for p in profiles])
        ax.scatter(points["flops"], points["slope"], marker="D", s=30, c=[readable(color(c)) for c in points["flops"]],
                   edgecolor="white", linewidth=0.8, zorder=4, label="between profile optima")  # fmt: skip
        ax.legend(loc="lower right")
    log_axis(ax.xaxis, "flops")
    ax.margins(y=0.16)  # room for the words
    ax.set_ylabel("slope d ln L* / d ln C")
    if draws is not None:
        note(ax, f"{LEVEL:.0%} {draws.kind} by {draws.by}", where="upper left")
    ax.set_title("Local slope of the frontier")
    return ax
