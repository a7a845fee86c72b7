"""IsoFLOP profiles: loss against size at one budget, and the size with the lowest (Hoffmann et al. 2022, approach 2).

Three curves through the same points. `exact` is the curve that any law E + A/N^alpha + B/D^beta takes along a budget,
with exponents shared by all budgets, and finds the optimum of such a law without bias. `akima` interpolates ln loss in
ln size (Porian et al. 2024) and assumes nothing. `parabola` is the classic; its bias grows with width and skew.
A profile without a trustworthy minimum is refused with a reason: it is drawn, but never used in a fit.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd

from isoflop.scaling.approaches.akima import akima
from isoflop.scaling.approaches.profile_curve import ProfileShape, fit_shape
from isoflop.scaling.laws.cost import Cost
from isoflop.scaling.laws.special_functions import ndtr
from isoflop.scaling.table.conventions import Points

# Points used by each curve, as a factor of size around the lowest: no law holds from a fortieth to forty times N*.
WINDOWS = {"exact": 16.0, "akima": np.inf, "parabola": 4.0}
METHODS = tuple(WINDOWS)
MIN_SIZES = 3
AKIMA_DRAWS = 200  # interpolations of noisy losses, for the sd of the minimum
NEAR = 0.02  # in ln N: where the steepness of a curve is taken round its minimum
SKEW = 0.25  # of the grid's step: about what the skew of a parabola moves its vertex by
LEAST_STEEP = 0.3  # of the mean steepness: no line through it goes lower
OFF_CENTRE = 0.6  # of the half-width of the parabola's window: beyond, its vertex is mostly the skew of the profile

Curve = Callable[[np.ndarray], np.ndarray]  # loss against n_params


@dataclass(frozen=True)
class IsoflopProfile:
    """One budget: its points, the optimum on the curve, and whether the optimum may be used.

    `frame` has n_params, tokens, flops, loss and `used` (inside the curve's window). `log_n_sd` is the standard
    deviation of ln n_opt and `freedom` how many degrees of freedom it has: from the scatter of the points round the
    curve, and how steep the curves of all budgets are round their minima (`_steep_alike`); a parabola's is at least
    SKEW of the grid's step. `reason` says why a profile is refused, or warns of an accepted one. Optima are NaN when
    there is none.
    """

    flops: float
    frame: pd.DataFrame
    n_opt: float
    tokens_opt: float
    loss_opt: float
    accepted: bool
    reason: str
    method: str
    curve: Curve
    log_n_sd: float
    freedom: float = 0.0


def isoflop_profiles(
    points: Points, *, method: str = "exact", tolerance: float = 0.05, window: float | None = None
) -> list[IsoflopProfile]:
    """Every budget with at least two sizes, by compute. Points within `tolerance` of each other's FLOPs share a budget.

    The curve is fitted to the sizes within a factor `window` (by default WINDOWS) of the lowest point, at least five.
    Raises ValueError for a method that is none of METHODS.
    """
    if method not in METHODS:
        raise ValueError(f"method {method!r}: choose one of {', '.join(METHODS)}")
    budgets = [g for g in budget_groups(points, tolerance) if g["n_params"].nunique() > 1]
    reach = WINDOWS[method] if window is None else window
    windows = [_window(g, reach) for g in budgets]
    marked = [g.assign(used=used) for g, (used, _, _) in zip(budgets, windows, strict=True)]
    shape = fit_shape([g[g["used"]] for g in marked], points.cost) if method != "parabola" else None
    found = [_profile(g, x, y, points.cost, method, shape) for g, (_, x, y) in zip(marked, windows, strict=True)]
    if method == "akima":
        return found
    found = _steep_alike(found)
    return [_with_skew(p) for p in found] if method == "parabola" else found


def budget_groups(points: Points, tolerance: float = 0.05) -> list[pd.DataFrame]:
    """The measured points of each budget by size; a budget spans at most a factor (1 + tolerance)^2 in FLOPs."""
    frame = points.measured.frame
    order = np.argsort(frame["flops"].to_numpy(), kind="stable")
    sizes, of = frame["n_params"].to_numpy(), budget_numbers(frame["flops"].to_numpy()[order], tolerance)
    groups = []
    for k in range(of[-1] + 1 if len(of) else 0):
        rows = order[of == k]
        groups.append(frame.iloc[rows[np.argsort(sizes[rows], kind="stable")]].reset_index(drop=True))
    return groups


def budget_numbers(flops: np.ndarray, tolerance: float = 0.05) -> np.ndarray:
    """The number (n,) of the budget of each of sorted amounts of compute, or of anything else that is met roughly.

    A budget spans at most a factor (1 + tolerance)^2: runs that lie dense are not all one, near as they are.
    """
    log_c, found, start = np.log(flops), np.zeros(len(flops), dtype=int), 0
    for i in range(1, len(flops)):
        start = i if log_c[i] - log_c[start] > 2 * np.log1p(tolerance) else start
        found[i] = found[i - 1] + (start == i)
    return found


def parabola_bias(profile: IsoflopProfile, *, window: float | None = None) -> float:
    """ln of (vertex of the parabola / optimum) on noise-free points of an exact profile, at the same sizes."""
    frame = profile.frame.assign(loss=profile.curve(profile.frame["n_params"].to_numpy(float)))
    _, x, y = _window(frame, WINDOWS["parabola"] if window is None else window)
    a, b, _ = np.polyfit(x, y, 2)
    return float(-b / (2 * a) - np.log(profile.n_opt)) if a > 0 else float("nan")


def _profile(
    frame: pd.DataFrame, x: np.ndarray, y: np.ndarray, cost: Cost, method: str, shape: ProfileShape | None
) -> IsoflopProfile:
    """The profile of a budget by its frame and, of the sizes in use, ln size and loss."""
    flops = float(np.exp(np.log(frame["flops"]).mean()))
    seen = frame[frame["used"]]
    curve: Curve
    if len(x) < MIN_SIZES:
        log_n, sd, curve, reason = np.nan, np.nan, _nowhere, f"{len(x)} sizes, a minimum needs at least {MIN_SIZES}"
    elif method == "exact":
        assert shape is not None
        log_n, sd, curve, reason = shape.minimum(seen, flops, cost)
    elif method == "akima":
        assert shape is not None
        log_n, sd, curve, reason = _akima(x, y, shape.noise / np.sqrt(seen.groupby("n_params").size().to_numpy()))
    else:
        log_n, sd, curve, reason = _parabola(x, y)
    n_opt = float(np.exp(log_n)) if np.isfinite(log_n) else float("nan")
    loss_opt = float(curve(np.array([n_opt]))[0])
    reason = _bracket(x, y, log_n, method) or _dives(y, loss_opt) or reason
    accepted = not reason
    if accepted:
        reason = _caution(x, log_n)
    return IsoflopProfile(
        flops=flops,
        frame=frame,
        n_opt=n_opt,
        tokens_opt=float(cost.tokens(flops, n_opt)),
        loss_opt=loss_opt,
        accepted=accepted,
        reason=reason,
        method=method,
        curve=curve,
        log_n_sd=float(sd),
        freedom=float(max(len(x) - MIN_SIZES, 0)) if shape is None else shape.freedom,
    )


def _steep_alike(profiles: list[IsoflopProfile]) -> list[IsoflopProfile]:
    """The profiles with the sd that each optimum has if its curve is as steep as the curves of all budgets say.

    A curve that noise has made flat has an optimum far off and a large sd together, and intervals of such sds cover too
    often. So the steepness d2 ln L / d(ln N)2 is taken from its line over ln C, no less than LEAST_STEEP of the mean;
    and as only an optimum between the sizes is accepted, the sd is that of a normal cut off at the ends.
    """
    found = [(p, _steepness(p)) for p in profiles]
    convex = [(np.log(p.flops), steep) for p, steep in found if steep > 0]
    if not convex:
        return profiles
    x, steepness = np.array(convex).T
    line = np.polyfit(x - x.mean(), steepness, 1 if len(x) > 2 else 0)
    result = []
    for p, steep in found:
        if p.accepted and steep > 0 and p.log_n_sd > 0:
            shared = max(float(np.polyval(line, np.log(p.flops) - x.mean())), LEAST_STEEP * steepness.mean())
            sizes = _used_sizes(p)
            ends = np.log([sizes.min(), sizes.max()]) - np.log(p.n_opt)
            p = replace(p, log_n_sd=_cut_off(p.log_n_sd * steep / shared, ends))
        result.append(p)
    return result


def _with_skew(profile: IsoflopProfile) -> IsoflopProfile:
    """A parabola whose sd is no less than what its skew moves the vertex by."""
    sizes = np.unique(_used_sizes(profile))
    if not profile.accepted or len(sizes) <= MIN_SIZES:
        return profile
    return replace(profile, log_n_sd=max(profile.log_n_sd, SKEW * float(np.median(np.diff(np.log(sizes))))))


def _used_sizes(profile: IsoflopProfile) -> np.ndarray:
    """The sizes of the points inside the curve's window."""
    return profile.frame["n_params"].to_numpy(float)[profile.frame["used"].to_numpy(bool)]


def _steepness(profile: IsoflopProfile) -> float:
    """d2 ln L / d(ln N)2 at the optimum of a curve; NaN where it has none, or no positive loss."""
    if not 0 < profile.n_opt < np.inf:
        return float("nan")
    around = profile.curve(profile.n_opt * np.exp(np.array([-NEAR, 0.0, NEAR])))
    if not (around > 0).all():
        return float("nan")
    left, middle, right = np.log(around)
    return float(left - 2 * middle + right) / NEAR**2


def _cut_off(sd: float, ends: np.ndarray) -> float:
    """Standard deviation of a normal distribution round 0, cut off at both ends."""
    z = ends / sd
    with np.errstate(under="ignore"):  # far ends have no density
        density, inside = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi), float(np.diff(ndtr(z))[0])
        mean = (density[0] - density[1]) / inside
        return sd * float(np.sqrt(max(1 + (z[0] * density[0] - z[1] * density[1]) / inside - mean**2, 0.0)))


def _by_size(frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """ln size and loss, replicates of one size averaged."""
    sizes = frame["n_params"].to_numpy(float)
    order = np.argsort(sizes)
    if (np.diff(sizes[order]) > 0).all():  # no replicates: pandas takes a hundred times as long
        return np.log(sizes[order]), frame["loss"].to_numpy(float)[order]
    mean = frame.groupby("n_params")["loss"].mean()
    return np.log(mean.index.to_numpy(float)), mean.to_numpy(float)


def _window(frame: pd.DataFrame, window: float, at_least: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which rows lie within a factor of size of the lowest, or are of the nearest sizes; ln size and loss of these."""
    x, y = _by_size(frame)
    lowest = x[np.argmin(y)]
    reach = max(np.log(window), np.sort(np.abs(x - lowest))[min(at_least, len(x)) - 1]) * (1 + 1e-9)
    used, near = (np.abs(sizes - lowest) <= reach for sizes in (np.log(frame["n_params"].to_numpy(float)), x))
    return used, x[near], y[near]


def _akima(x: np.ndarray, y: np.ndarray, noise: np.ndarray) -> tuple[float, float, Curve, str]:
    """The interpolation's minimum; its sd from interpolations of losses with the noise (sizes,) of the points added."""
    spline = akima(x, np.log(y))
    grid = np.linspace(x[0], x[-1], 4001)
    log_n = float(grid[np.argmin(spline(grid))])
    again = np.log(y)[:, None] + noise[:, None] * np.random.default_rng(0).normal(size=(len(y), AKIMA_DRAWS))
    coarse = grid[::20]
    lowest = coarse[np.argmin(akima(x, again)(coarse), axis=0)]
    return log_n, float(lowest.std()), partial(_interpolated, spline), ""


def _interpolated(spline: Curve, n_params: np.ndarray) -> np.ndarray:
    """The loss along the interpolation of ln loss in ln N."""
    return np.exp(spline(np.log(n_params)))


def _parabola(x: np.ndarray, y: np.ndarray) -> tuple[float, float, Curve, str]:
    middle = x.mean()
    a, b, c = np.polyfit(x - middle, y, 2)
    curve = partial(_on_parabola, (a, b, c), middle)
    if a <= 0:
        return np.nan, np.nan, curve, "the profile is concave: its parabola has a maximum"
    log_n = float(middle - b / (2 * a))
    offset = abs(log_n - (x[0] + x[-1]) / 2) / (np.ptp(x) / 2)
    if offset > OFF_CENTRE and x[0] < log_n < x[-1]:
        return log_n, np.nan, curve, f"off-centre: the vertex lies {offset:.0%} of the way from the centre to the edge"
    return log_n, _parabola_sd(x - middle, y, a, b), curve, ""


def _on_parabola(coefficients: Sequence[float], middle: float, n_params: np.ndarray) -> np.ndarray:
    """The loss along the parabola in ln N about its `middle`."""
    return np.polyval(coefficients, np.log(n_params) - middle)


def _parabola_sd(x: np.ndarray, y: np.ndarray, a: float, b: float) -> float:
    """Standard deviation of the vertex -b / 2a, by the delta method."""
    if len(x) <= MIN_SIZES:
        return 0.0
    design = np.vander(x, 3)
    noise = np.sum((y - design @ np.linalg.lstsq(design, y, rcond=None)[0]) ** 2) / (len(x) - 3)
    gradient = np.array([b / (2 * a**2), -1 / (2 * a), 0.0])
    return float(np.sqrt(noise * gradient @ np.linalg.inv(design.T @ design) @ gradient))


def _bracket(x: np.ndarray, y: np.ndarray, log_n: float, method: str) -> str:
    """Why the optimum is not between the sizes, or an empty string.

    The two fitted curves need a measured rise on both sides; the interpolation does not.
    """
    lowest = int(np.argmin(y))
    inside = 0 < lowest < len(x) - 1 or method == "akima"
    if len(x) < MIN_SIZES or np.isnan(log_n) or (x[0] < log_n < x[-1] and inside):
        return ""
    largest = log_n >= x[-1] or (log_n > x[0] and lowest > 0)
    edge, more = ("largest", "larger") if largest else ("smallest", "smaller")
    return f"no interior minimum: the loss is lowest at or beyond the {edge} size, add {more} ones"


def _dives(y: np.ndarray, loss_opt: float) -> str:
    """Why an optimum is no optimum of these losses that lies further below the lowest than they span, or is none."""
    lowest, highest = float(y.min()), float(y.max())
    if np.isnan(loss_opt) or loss_opt * highest >= lowest**2:
        return ""
    return (
        f"the curve falls to {loss_opt:.4g}, further below the lowest run ({lowest:.4g}) than the highest lies above "
        "it: add sizes around it"
    )


def _caution(x: np.ndarray, log_n: float) -> str:
    left, right = int(np.sum(x < log_n)), int(np.sum(x > log_n))
    if min(left, right) >= 2:
        return ""
    side = "smaller" if left < right else "larger"
    return f"only one size is {side} than the optimum: add another"


def _nowhere(n_params: np.ndarray) -> np.ndarray:
    return np.full(np.shape(n_params), np.nan)
