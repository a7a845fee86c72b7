"""L(N, D) as contours, with the runs on the same colour scale: a dot that vanishes into its contour is a good fit."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm
from matplotlib.ticker import FuncFormatter

from isoflop.analysis.figure import Figure
from isoflop.analysis.style import LOSS_MAP, MANY_DOTS, log_axis, loss_label, new_axes
from isoflop.scaling.fitting.fit import Fit

N_LEVELS = 14


def surface_frame(fit: Fit) -> pd.DataFrame:
    """Every run with the loss measured and the loss of the law."""
    return fit.points.frame.assign(predicted=fit.predicted, residual=fit.residuals)


def plot_surface(fit: Fit, *, ax: Axes | None = None) -> Axes:
    """Filled contours of the law over model size and tokens, runs as dots of the same scale, the efficient frontier.

    The frontier is solid between the smallest and the largest compute fitted, dashed beyond. Raises ValueError for a
    law that does not read both N and D.
    """
    if fit.law.inputs[:2] != ("N", "D"):
        raise ValueError(f"needs a law of model size and tokens; {fit.law.name} reads {', '.join(fit.law.inputs)}")
    ax = new_axes(ax)
    runs = fit.points.frame
    sizes, tokens = _span(runs["n_params"]), _span(runs["tokens"])
    N, D = np.meshgrid(sizes, tokens)
    loss = np.asarray(fit.law(N, D), float)
    norm = BoundaryNorm(_levels(np.concatenate([loss.ravel(), runs["loss"]])), LOSS_MAP.N)
    ax.contourf(N, D, loss, levels=norm.boundaries, cmap=LOSS_MAP, norm=norm, extend="both", zorder=0)
    size, edge = (26, 0.8) if len(runs) <= 100 else (13, 0.5)
    ax.scatter(
        runs["n_params"], runs["tokens"], c=runs["loss"], cmap=LOSS_MAP, norm=norm, s=size, edgecolor="white",
        linewidth=edge, zorder=3, rasterized=len(runs) > MANY_DOTS,
    )  # fmt: skip
    _draw_frontier(ax, fit, sizes, tokens)
    log_axis(ax.xaxis, "n_params")
    log_axis(ax.yaxis, "tokens")
    ax.set_xlim(sizes[0], sizes[-1])
    ax.set_ylim(tokens[0], tokens[-1])
    ax.grid(False)
    bar = ax.figure.colorbar(ScalarMappable(norm, LOSS_MAP), ax=ax, pad=0.02, aspect=28, ticks=norm.boundaries[::3])
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:.3g}"))
    bar.ax.minorticks_off()
    bar.outline.set_visible(False)
    bar.set_label(loss_label())
    ax.set_title("Law and runs on one scale")
    return ax


def _span(values: pd.Series, margin: float = 0.08) -> np.ndarray:
    low, high = np.log(values.min()), np.log(values.max())
    pad = max(margin * (high - low), 0.2)
    return np.exp(np.linspace(low - pad, high + pad, 160))


def _levels(loss: np.ndarray) -> np.ndarray:
    """Even steps of ln loss over what is drawn, without the last percent of a steep corner."""
    finite = loss[np.isfinite(loss) & (loss > 0)]
    low, high = finite.min(), np.quantile(finite, 0.99)
    return np.geomspace(low, max(high, low * 1.01), N_LEVELS)


def _draw_frontier(ax: Axes, fit: Fit, sizes: np.ndarray, tokens: np.ndarray) -> None:
    """Only where it crosses the panel; a law without an interior optimum has none."""
    low, high = fit.points.frame["flops"].min(), fit.points.frame["flops"].max()
    compute = np.geomspace(fit.cost.flops(sizes[0], tokens[0]), fit.cost.flops(sizes[-1], tokens[-1]), 300)
    try:
        best = fit.optimal(compute)
    except ValueError:
        return
    for inside, dash in ((False, (0, (3, 2))), (True, "-")):
        shown = (compute >= low) & (compute <= high) if inside else np.full(compute.shape, True)
        style: dict[str, Any] = {"ls": dash, "solid_capstyle": "butt"}
        ax.plot(np.asarray(best.N)[shown], np.asarray(best.D)[shown], color="black", lw=2.6 if inside else 1.2, **style)
        ax.plot(np.asarray(best.N)[shown], np.asarray(best.D)[shown], color="white", lw=1.3 if inside else 0.8, **style)


FIGURES = (
    Figure(
        "surface",
        "The law and the runs on one colour scale; white line: the efficient frontier.",
        needs=lambda e: e.fit,
        frame=surface_frame,
        plot=plot_surface,
        place=50,
    ),
)
