"""Rolling origins: splits of a table into runs to fit and the next larger runs to predict (Tashman 2000).

The scale (compute, parameters, tokens or any other column) at which the table is split moves up from one origin to the
next, so that every run above the first origin is predicted once, from smaller runs alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from isoflop.scaling.fitting.fit import Fit, FitError, fit, search_for_fits
from isoflop.scaling.fitting.objective import Objective
from isoflop.scaling.fitting.problem import law_inputs
from isoflop.scaling.fitting.uncertainty import jackknife
from isoflop.scaling.laws import get_law
from isoflop.scaling.laws.law import Law
from isoflop.scaling.selection.averaging import Forecast
from isoflop.scaling.selection.preference import repeats
from isoflop.scaling.table.conventions import Points

SAME_SCALE = 0.1  # in ln: runs this close in scale form one level
WIDEST = 1.0  # in ln: a level of most runs that spans more is none, as where runs lie so dense that no gap is left
MOST_ORIGINS = 4
FEWEST_ROWS = 8  # known at an origin: two more than the parameters of Chinchilla's form with kappa free
FEWEST_TARGETS = 2
FEWEST_LEVELS = {"flops": 1, "n_params": 3, "tokens": 3}  # one budget holds many sizes, one size holds no law of N
USUAL_LEVELS = 2
LINEAR_RANGE = 3.0  # a scale that may be 0, such as a share, counts as so many units of ln from end to end
MANY_LEVELS = 12
LEAST_SD = 1e-9  # of ln loss: exact data have no scatter at all
BASELINE = "local-slope"


class HoldOutError(ValueError):
    """Too few runs, or scales, to hold any out."""

    exit_code = 1


@dataclass(frozen=True)
class Origin:
    """One split: the runs up to `threshold` along `scale` are known, those of the next block are to be predicted."""

    threshold: float
    known: Points
    target: pd.DataFrame
    scale: str

    @property
    def reach(self) -> np.ndarray:
        """How far above the largest known run each target lies, in ln of the scale, (n,)."""
        known, target = (f[self.scale].to_numpy(float) for f in (self.known.frame, self.target))
        if known.min() > 0:
            return np.log(target / known.max())
        return LINEAR_RANGE * (target - known.max()) / (max(known.max(), target.max()) - known.min())


def along(values: np.ndarray) -> np.ndarray:
    """A scale (n,) in the units in which levels are separated: ln, or parts of its range where it may be 0."""
    if values.min() > 0:
        return np.log(values)
    return LINEAR_RANGE * (values - values.min()) / max(np.ptp(values), 1e-300)


def rolling_origins(data: Points, *, by: str = "flops", above: float | None = None) -> list[Origin]:
    """Up to MOST_ORIGINS splits along the column `by`, or the one at `above`, smallest first.

    Raises HoldOutError when the table allows none.
    """
    data = data.measured  # a forecast is no test of another
    frame = data.frame
    if by not in frame or frame[by].isna().any():
        why = data.lacking.get(by, f"the table lacks {by!r} in some rows")
        raise HoldOutError(f"{why}: hold out by another scale")
    if above is not None:
        known, target = frame[frame[by] <= above], frame[frame[by] > above]
        if known.empty or target.empty:
            raise HoldOutError(
                f"{len(known)} runs lie up to {above:g} {by} and {len(target)} above: "
                f"choose a threshold between {frame[by].min():.3g} and {frame[by].max():.3g}"
            )
        return [_origin(data, known, target, float(above), by)]
    cuts = _cuts(np.sort(frame[by].to_numpy(float)), FEWEST_LEVELS.get(by, USUAL_LEVELS))
    origins = []
    for cut, end in pairwise([*cuts, np.inf]):
        known = frame[frame[by] <= cut]
        target = frame[(frame[by] > cut) & (frame[by] <= end)]
        origins.append(_origin(data, known, target, float(cut), by))
    if not origins:
        raise HoldOutError(
            f"{len(frame)} runs give no origin with {FEWEST_ROWS} runs below it and {FEWEST_TARGETS} above: add runs, "
            "or name one (--holdout-above)"
        )
    return origins


def _origin(data: Points, known: pd.DataFrame, target: pd.DataFrame, threshold: float, by: str) -> Origin:
    below = replace(data, frame=known.reset_index(drop=True))
    return Origin(threshold, below, target.reset_index(drop=True), by)


def _cuts(values: np.ndarray, fewest_levels: int) -> list[float]:
    """Thresholds: the tops of the levels; where levels are many or single runs, quantiles with equal blocks above."""
    gaps = _gaps(values)[fewest_levels - 1 :]
    tops = values[gaps]
    levels = len(gaps) + fewest_levels
    if levels > MANY_LEVELS or len(values) / levels < FEWEST_TARGETS:
        wanted = np.linspace(0.5, 1.0, MOST_ORIGINS + 1)[:-1] * len(values)
        tops = np.unique([tops[np.argmin(np.abs(gaps + 1 - w))] for w in wanted]) if len(tops) else tops
    below = np.searchsorted(values, tops, side="right")
    allowed = [float(t) for t, n in zip(tops, below, strict=True) if n >= FEWEST_ROWS]
    while allowed and np.sum(values > allowed[-1]) < FEWEST_TARGETS:
        allowed.pop()
    return allowed[-MOST_ORIGINS:]


def _gaps(values: np.ndarray) -> np.ndarray:
    """The places of sorted values after which a level ends; a level of most of them may end anywhere if it is wide."""
    scale = along(values)
    steps = np.diff(scale)
    gaps = np.flatnonzero(steps > SAME_SCALE)
    first, last = np.append(0, gaps + 1), np.append(gaps, len(values) - 1)
    largest = np.argmax(last - first)
    inside = np.arange(first[largest], last[largest])
    if len(inside) + 1 > len(values) / 2 and scale[last[largest]] - scale[first[largest]] > WIDEST:
        gaps = np.union1d(gaps, inside[steps[inside] > 0])
    return gaps


def forecast(
    fitted: Fit,
    frame: pd.DataFrame,
    *,
    noise: bool = True,
    uncertain: bool = True,
    read: Callable[[Law], Callable[..., Any]] = lambda law: law,
) -> Forecast:
    """A fit's forecast of the runs in a frame: the law's jackknife uncertainty and, with `noise`, that of one run.

    `read` turns a law, and each refit of it, into the function of its columns that gives the loss. One that is not
    `uncertain` has the mean alone, its standard deviation is NaN: refits are the dearest part.

    Raises FitError where the law, or a refit of it, has no finite loss there.
    """
    columns = law_inputs(type(fitted.law), frame).values()

    def log_loss(law: Law) -> np.ndarray:
        with np.errstate(all="ignore"):
            return np.log(np.asarray(read(law)(*columns), dtype=float))

    mean = log_loss(fitted.law)
    error = jackknife(fitted).standard_error_alone(log_loss) if uncertain else np.zeros(len(mean))
    sd = np.maximum(np.hypot(error, fitted.noise_at(frame) if noise else 0.0), LEAST_SD)
    if not (np.isfinite(mean).all() and np.isfinite(sd).all()):
        raise FitError(f"{fitted.law.name}: not every refit has a finite loss at the runs to predict")
    return Forecast(mean, sd if uncertain else np.full(len(mean), np.nan), max(fitted.n_clusters - 1, 1))


def fit_at(law: str, data: Points, objective: Objective, *, falls: float | None = None) -> Fit:
    """The fit of a law by name, with noise that `falls` as the table shows unless it is given.

    Raises FitError also where the points have too few runs, or no run repeats data.
    """
    if not _worth_of_repeats(law, data):
        raise FitError("no run repeats its data: the worth of a repeated token is not identified")
    fitted = fit(law, data, objective=objective, falls=falls)
    if len(data) <= len(fitted.free):
        raise FitError(f"{len(data)} runs for {len(fitted.free)} free parameters leave nothing to judge the fit by")
    return fitted


def search_for_fits_at(
    laws: Sequence[str], tables: Sequence[Points], objective: Objective, *, falls: float = 0.0
) -> None:
    """Search together, while searches are kept, for what `fit_at` will be asked with noise that `falls` so."""
    pairs = [(law, data) for law in laws for data in tables if _worth_of_repeats(law, data)]
    search_for_fits(pairs, objective, falls=falls)


def _worth_of_repeats(law: str, data: Points) -> bool:
    """Whether the points say what a law asks of repeated data, or it asks nothing."""
    return not ("U" in get_law(law)[0].inputs and "unique_tokens" in data.frame and not repeats(data.frame))


def local_slope(origin: Origin) -> Forecast:
    """The forecast of the naive baseline: ln loss linear in ln compute, quadratic in ln(D/N), by least squares through
    the two largest levels known. Where compute is not known it is linear in the scale instead; where the runs known lie
    at one level there is no slope, and the mean of ln loss is the forecast."""
    last = _last_levels(origin.known.frame, origin.scale)
    design, beyond = _design(last, origin), _design(origin.target, origin)
    one_level = np.ptp(along(_slope_column(last, origin.scale))) <= SAME_SCALE
    for columns in (1,) if one_level else (4, 2, 1):
        if len(last) > columns and np.linalg.matrix_rank(design[:, :columns]) == columns:
            break
    design, beyond = design[:, :columns], beyond[:, :columns]
    y = np.log(last["loss"].to_numpy(float))
    solution = np.linalg.lstsq(design, y, rcond=None)[0]
    freedom = max(len(y) - design.shape[1], 1)
    noise = np.sum((y - design @ solution) ** 2) / freedom
    leverage = np.einsum("ni,ij,nj->n", beyond, np.linalg.pinv(design.T @ design), beyond)
    return Forecast(beyond @ solution, np.sqrt(noise * (1 + leverage)) + 1e-12, freedom)


def _last_levels(frame: pd.DataFrame, scale: str) -> pd.DataFrame:
    frame = frame.sort_values(scale, kind="stable")
    level = np.concatenate([[0], np.cumsum(np.diff(along(frame[scale].to_numpy(float))) > SAME_SCALE)])
    chosen = frame[level >= level[-1] - 1]
    return chosen if len(chosen) >= 6 else frame.tail(6)


def _slope_column(frame: pd.DataFrame, scale: str) -> np.ndarray:
    """The column along which the baseline goes on, (n,): compute, or the scale where it is not known."""
    return frame[scale if frame["flops"].isna().any() else "flops"].to_numpy(float)


def _design(frame: pd.DataFrame, origin: Origin) -> np.ndarray:
    if frame["flops"].isna().any():
        scale = _slope_column(frame, origin.scale)
        scale = np.log(scale) if origin.known.frame[origin.scale].min() > 0 else scale
        return np.stack([np.ones_like(scale), scale, 0 * scale, 0 * scale], axis=1)
    log_c = np.log(_slope_column(frame, origin.scale))
    known = frame[["tokens", "n_params"]].notna().all(axis=None)
    shape = np.log((frame["tokens"] / frame["n_params"]).to_numpy(float)) if known else 0 * log_c
    return np.stack([np.ones_like(log_c), log_c, shape, shape**2], axis=1)
