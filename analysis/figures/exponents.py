"""The exponents of the law: their joint region by bootstrap, and the local slope of the efficient frontier."""

from collections.abc import Callable, Sequence
from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from isoflop.analysis.figure import Figure, if_supported
from isoflop.analysis.style import (
    ACCENT,
    COMPUTE_MAP,
    INK,
    LEVEL,
    MUTED,
    ColorScale,
    interval,
    log_axis,
    loss_label,
    new_axes,
    note,
    readable,
)
from isoflop.scaling.approaches.isoflop_profiles import IsoflopProfile
from isoflop.scaling.fitting.draws import Draws
from isoflop.scaling.fitting.fit import Fit
from isoflop.scaling.laws.law import Allocation

FEWEST_DISTINCT = 100  # draws: a handful of clusters has few different resamples, and no density
STEP = 0.05  # of ln C, for the central difference
TOGETHER = 256  # points of a density at once: what stays in a processor's cache
ON_A_LINE = 1 - 1e-12  # a correlation from which draws lie on a line and have no density
NOTE = 52  # letters of a line in the panel
SPACING = 1.9  # of compute: between closer budgets the noise of two optima is larger than what they differ by


def exponent_frame(draws: Draws, names: tuple[str, str] = ("alpha", "beta"), _: str = "") -> pd.DataFrame:
    """A row per draw: the two exponents. Raises ValueError if the law has no such parameters or they do not vary."""
    missing = [n for n in names if n not in draws.frame]
    if missing:
        raise ValueError(f"needs a law with {' and '.join(names)}; this one has no {', '.join(missing)}")
    frame = draws.frame[list(names)]
    if len(frame) < 20:
        raise ValueError(f"needs at least 20 bootstrap draws, there are {len(frame)}")
    if (frame.std() < 1e-9 * frame.abs().mean()).any():
        raise ValueError(f"{' or '.join(names)} does not vary between draws (fixed, or at its bound)")
    if (frame[names[0]] == frame[names[1]]).all():
        raise ValueError(f"{' and '.join(names)} are tied in this law: there is no joint region")
    return frame.reset_index(drop=True)


def plot_exponents(
    draws: Draws, names: tuple[str, str] = ("alpha", "beta"), no_optimum: str = "", *, ax: Axes | None = None
) -> Axes:
    """Draws as dots, the regions that hold 50% and 90% of them, the fit as a diamond, the ray of equal a.

    `no_optimum` is why these runs do not say a: then there is no ray.
    """
    ax = new_axes(ax)
    frame = exponent_frame(draws, names)
    x, y = (frame[n].to_numpy(float) for n in names)
    ax.scatter(x, y, s=4, color=COMPUTE_MAP(0.35), alpha=0.35, linewidth=0, rasterized=len(frame) > 2000)
    distinct = len(frame.round(9).drop_duplicates())
    drawn = distinct >= FEWEST_DISTINCT and _density_regions(ax, x, y)
    ax.plot(*(getattr(draws.fit.law, n) for n in names), marker="D", ms=6, mfc=ACCENT, mec="white", ls="none", zorder=4)
    low, high = np.quantile(np.column_stack([x, y]), [0.002, 0.998], axis=0)
    pad = 0.15 * (high - low)
    ax.set_xlim(low[0] - pad[0], high[0] + pad[0])
    ax.set_ylim(low[1] - pad[1], high[1] + 4.5 * pad[1])  # room for the note
    ax.set_xlabel(_label(names[0]))
    ax.set_ylabel(_label(names[1]))
    ray = _draw_ray(ax, draws) if names == ("alpha", "beta") and not no_optimum else []
    ray += fill(f"no a: {no_optimum}", NOTE).splitlines() if no_optimum else []
    ends = [f"{n} {interval(*draws.interval(n, level=LEVEL))}" for n in names]
    contours = f"; contours hold 50% and {LEVEL:.0%}" if drawn else f", {distinct} of them differ"
    lines = [f"{len(frame)} draws by {draws.by}{contours}", f"{LEVEL:.0%} of each:", *ends]
    note(ax, "\n".join([*lines, *ray]), where="upper left")
    ax.set_title("Exponents, jointly")
    return ax


def _label(name: str) -> str:
    known = {
        "E": loss_label("irreducible loss E"),
        "alpha": "\u03b1, exponent of model size",
        "beta": "\u03b2, exponent of tokens",
    }
    return known.get(name, name)


def _density_regions(ax: Axes, x: np.ndarray, y: np.ndarray) -> bool:
    """Highest-density regions from a kernel estimate, where there are any.

    Levels are quantiles of the density at the draws.
    """
    draws = np.stack([x, y])
    with np.errstate(invalid="ignore", divide="ignore"):
        if not abs(np.corrcoef(draws)[0, 1]) < ON_A_LINE:
            return False
    at_draws = np.sort(density(draws, draws))
    (x0, x1), (y0, y1) = np.quantile(x, [0, 1]), np.quantile(y, [0, 1])
    px, py = 0.2 * (x1 - x0), 0.2 * (y1 - y0)
    X, Y = np.meshgrid(np.linspace(x0 - px, x1 + px, 90), np.linspace(y0 - py, y1 + py, 90))
    Z = density(draws, np.stack([X.ravel(), Y.ravel()])).reshape(X.shape)
    levels = [at_draws[int((1 - share) * (len(x) - 1))] for share in (LEVEL, 0.5)]
    if levels[0] < levels[1]:
        ax.contour(X, Y, Z, levels=levels, colors=[INK], linewidths=[0.9, 1.6])
    return bool(levels[0] < levels[1])


def density(draws: np.ndarray, at: np.ndarray) -> np.ndarray:
    """A Gaussian kernel estimate (m,), up to a factor, of the density of `draws` (2, n) `at` points (2, m).

    Of the width of Scott's rule (1992), as SciPy's gaussian_kde, whose module takes half a second to import.
    """
    width = np.linalg.cholesky(np.cov(draws)) * draws.shape[1] ** (-1 / 6)
    own, other = np.linalg.solve(width, draws), np.linalg.solve(width, at)
    mine, sums = np.sum(own**2, axis=0)[:, None], []
    for some in np.array_split(other, max(at.shape[1] // TOGETHER, 1), axis=1):
        squares = mine + np.sum(some**2, axis=0) - 2 * own.T @ some
        with np.errstate(under="ignore"):  # far from a draw there is nothing of it
            sums.append(np.exp(-0.5 * squares).sum(axis=0))
    return np.concatenate(sums)


def _draw_ray(ax: Axes, draws: Draws) -> list[str]:
    """Where N* ~ C^a has the fitted a, and the words for it: beta = alpha a / (1 - a), corrected for cost."""
    a = draws.fit.exponents().get("a")
    growth = 1 + draws.fit.cost.slope
    if a is None or not 0 < a * growth < 1:
        return []
    slope = a / (1 - a * growth)
    ax.axline((0, 0), slope=slope, color=MUTED, lw=0.9, ls=":", zorder=1)
    return [f"dotted: the ray of a = {a:.3f}"]


def slope_frame(fit: Fit, draws: Draws | None = None, *, reach: float = 10) -> pd.DataFrame:
    """The slope of the law's frontier from the smallest compute fitted to `reach` times the largest, with 90% band."""
    largest = fit.points.frame["flops"].max()
    compute = np.geomspace(fit.points.frame["flops"].min(), largest * reach, 60)

    def slope(optimal: Callable[[np.ndarray], Allocation]) -> np.ndarray:
        up, down = (np.asarray(optimal(compute * np.exp(s)).loss, float) for s in (STEP, -STEP))
        with np.errstate(all="ignore"):
            return np.log(up / down) / (2 * STEP)

    own = slope(fit.optimal)
    low, high = (np.full_like(own, np.nan),) * 2
    if draws is not None:
        low, high = draws.band(lambda _: own, LEVEL, values=slope(draws.optimal))
    inside = compute <= largest * (1 + 1e-9)
    return pd.DataFrame({"flops": compute, "slope": own, "low": low, "high": high, "inside": inside})


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
    fit: Fit, draws: Draws | None = None, profiles: Sequence[IsoflopProfile] = (), *, ax: Axes | None = None
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
                   edgecolor="white", linewidth=0.8, zorder=4)  # fmt: skip
        note(ax, "diamonds: between two profile optima,\nwhose own noise is not drawn", where="lower right")
    log_axis(ax.xaxis, "flops")
    ax.margins(y=0.16)  # room for the words
    ax.set_ylabel("slope d ln L* / d ln C")
    if draws is not None:
        note(ax, f"{LEVEL:.0%} {draws.kind} by {draws.by}", where="upper left")
    ax.set_title("Local slope of the frontier")
    return ax


def _pair(fit: Fit) -> tuple[str, str]:
    """What to show jointly: the two exponents, or the one they are tied to against the floor it trades with."""
    law = fit.law
    pair = law.pair or law.ties
    if pair is None:
        raise ValueError("this law has no pair of exponents to show jointly")
    return (pair[0], law.floor_name) if fit.problem.tied and law.floor_name else pair


FIGURES = (
    Figure(
        "exponents",
        "Bootstrap draws of the exponents; contours, where drawn, hold 50% and 90%.",
        needs=lambda e: (e.resamples, _pair(e.fit), e.no_optimum(e.fit)),
        frame=exponent_frame,
        plot=plot_exponents,
        place=100,
    ),
    Figure(
        "local_slope",
        "Slope of ln loss in ln compute along the frontier: bends when the floor is felt.",
        needs=lambda e: (e.optimum, if_supported(lambda: e.draws), if_supported(lambda: e.profiles, ())),
        frame=lambda fit, draws, _: slope_frame(fit, draws),
        plot=plot_local_slope,
        place=110,
    ),
)
