"""The law itself, with the runs: L(N, D) as contours on one colour scale, a law of more inputs as slices along one.

A dot that vanishes into its contour is a good fit.
"""

from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm
from matplotlib.ticker import FuncFormatter

from isoflop.analysis.figure import Figure
from isoflop.analysis.style import (
    LEVEL,
    LOSS_MAP,
    MANY_DOTS,
    ColorScale,
    arm_dots,
    arm_marks,
    count,
    log_axis,
    looks_of,
    loss_label,
    new_axes,
)
from isoflop.scaling.fitting.draws import Draws
from isoflop.scaling.fitting.fit import Fit
from isoflop.scaling.fitting.uncertainty import predict_runs
from isoflop.scaling.table.law_inputs import components, unlike

N_LEVELS = 14
NOTE = 60  # letters of a line under the panel
POINTS = 60  # of the curve of a slice
SHARES = (0.1, 0.5, 0.9)  # quantiles of the second input that a slice is drawn at


def surface_frame(fit: Fit, _: str = "") -> pd.DataFrame:
    """Every run with the loss measured and the loss of the law."""
    return fit.points.frame.assign(predicted=fit.predicted, residual=fit.residuals)


def plot_surface(fit: Fit, no_optimum: str = "", *, ax: Axes | None = None) -> Axes:
    """Filled contours of the law over model size and tokens, runs as dots of the same scale, the efficient frontier.

    The frontier is solid between the smallest and the largest compute fitted, dashed beyond; in its place stands
    `no_optimum`, why these runs do not say it. Raises ValueError for a law that does not read N and D, or reads more.
    """
    if fit.law.inputs != ("N", "D"):
        read = ", ".join(column.name for column in fit.law.reads().values())
        raise ValueError(f"needs a law of model size and tokens alone; this one reads {read}")
    ax = new_axes(ax)
    runs = fit.points.frame
    sizes, tokens = _span(runs["n_params"]), _span(runs["tokens"])
    N, D = np.meshgrid(sizes, tokens)
    loss = np.asarray(fit.law(N, D), float)
    norm = BoundaryNorm(_levels(np.concatenate([loss.ravel(), runs["loss"]])), LOSS_MAP.N)
    ax.contourf(N, D, loss, levels=norm.boundaries, cmap=LOSS_MAP, norm=norm, extend="both", zorder=0)
    size, edge = (26, 0.8) if len(runs) <= 100 else (13, 0.5)
    looks = looks_of(runs)
    arm_dots(
        ax, runs, "n_params", "tokens", looks=looks, c=runs["loss"], cmap=LOSS_MAP, norm=norm, s=size,
        edgecolor="white", linewidth=edge, zorder=3, rasterized=len(runs) > MANY_DOTS,
    )  # fmt: skip
    log_axis(ax.xaxis, "n_params")
    if no_optimum:
        ax.set_xlabel(f"{ax.get_xlabel()}\n{fill(f'no frontier: {no_optimum}', NOTE)}")
    else:
        _draw_frontier(ax, fit, sizes, tokens)
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
    arm_marks(ax, looks)
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


def slice_frame(draws: Draws, *, along: str | None = None) -> pd.DataFrame:
    """The law along one input, a row a point: slice (the value of the second input), the inputs, loss, lo, hi.

    The other inputs stay at their medians. `along` names the column; None: the first that the law reads beside size,
    tokens and compute. Raises ValueError for a law of fewer than three inputs, or another column.
    """
    first, second = _axes(draws, along)
    frame = draws.fit.points.frame
    names = [name for column in draws.fit.law.reads().values() for name in components(list(frame.columns), column)]
    middle = frame[names].median()
    parts = []
    for value in np.unique(np.quantile(frame[second], SHARES, method="nearest")):
        rows = pd.DataFrame({name: np.full(POINTS, middle[name]) for name in names}).assign(**{second: value})
        rows = _on_simplex(draws, rows.assign(**{first: _range_of(frame[first])}), first)
        rows["n_params"] = rows["n_params"] if "n_params" in rows else frame["n_params"].median()
        found = predict_runs(draws.fit, draws, rows, LEVEL)
        parts.append(rows.assign(slice=value, loss=found.loss, lo=found.law_lo, hi=found.law_hi))
    return pd.concat(parts, ignore_index=True)


def plot_slices(draws: Draws, *, along: str | None = None, ax: Axes | None = None) -> Axes:
    """Curves of the law along one input at three values of another, with 90% bands; runs moved to the nearest curve.

    A run stands at the curve of its own value of the second input, or the nearest, above or below it by its residual.
    """
    ax = new_axes(ax)
    first, second = _axes(draws, along)
    curves, frame = slice_frame(draws, along=along), draws.fit.points.frame
    values = curves["slice"].unique()
    shades = [float(value) if values.min() > 0 else i + 1.0 for i, value in enumerate(values)]
    color = ColorScale(shades)
    nearest = np.abs(frame[second].to_numpy(float)[:, None] - values).argmin(axis=1)
    for i, value in enumerate(values):
        part, runs = curves[curves["slice"] == value], frame[nearest == i]
        tone = color(shades[i])
        ax.fill_between(part[first], part["lo"], part["hi"], color=tone, alpha=0.18, lw=0)
        ax.plot(part[first], part["loss"], color=tone, label=f"{second} {count(value)}")
        moved = np.interp(runs[first], part[first], part["loss"]) * np.exp(draws.fit.residuals[nearest == i])
        ax.scatter(
            runs[first], moved, color=[tone], s=14, edgecolor="white", linewidth=0.4, zorder=3,
            rasterized=len(frame) > MANY_DOTS,
        )  # fmt: skip
    if frame[first].min() > 0 and frame[first].max() > 3 * frame[first].min():
        log_axis(ax.xaxis, first, label=first)
    ax.set_xlabel(first)
    ax.set_ylabel(loss_label())
    ax.legend(loc="best")
    ax.set_title(f"The law along {first}")
    return ax


def _axes(draws: Draws, along: str | None) -> tuple[str, str]:
    """The column that the slices run along, and the one whose values they are."""
    reads, frame = list(draws.fit.law.reads().values()), draws.fit.points.frame
    names = {column: components(list(frame.columns), column) for column in reads}
    every = [name for column in reads for name in names[column]]
    if len(reads) < 3:
        raise ValueError(f"needs a law of three inputs or more; this one reads {', '.join(every)}")
    further = unlike(reads) or reads[2:]
    first = along or names[further[0]][0]
    if first not in every:
        raise ValueError(f"no input {first!r}; the law reads {', '.join(every)}")
    own = next(column for column in reads if first in names[column])
    second = next(name for column in reads if column != own for name in names[column] if frame[name].nunique() > 1)
    return first, second


def _range_of(values: pd.Series) -> np.ndarray:
    lo, hi = float(values.min()), float(values.max())
    return np.geomspace(lo, hi, POINTS) if lo > 0 else np.linspace(lo, hi, POINTS)


def _on_simplex(draws: Draws, rows: pd.DataFrame, first: str) -> pd.DataFrame:
    """The rows with the shares of every vector adding up to 1, the one that the slice runs along unchanged."""
    for column in draws.fit.law.reads().values():
        names = components(list(draws.fit.points.frame.columns), column)
        if column.vector:
            others = [name for name in names if name != first]
            rest = 1 - rows[first] if first in names else 1.0
            total = rows[others].sum(axis=1)
            rows = rows.assign(**{name: rows[name] * rest / total for name in others})
    return rows


FIGURES = (
    Figure(
        "surface",
        "The law and the runs on one colour scale; white line: the efficient frontier, where the runs determine it.",
        needs=lambda e: (e.fit, e.no_optimum(e.fit)),
        frame=surface_frame,
        plot=plot_surface,
        place=50,
    ),
    Figure(
        "slices",
        "A law of three inputs or more along one of them, at three values of another; bands: 90% of the law.",
        needs=lambda e: e.draws,
        frame=slice_frame,
        plot=plot_slices,
        place=55,
    ),
)
