"""The critical batch of one size, by the hyperbola that steps and samples to a loss lie on, and how it grows with data.

S = S_min (1 + B_crit / B) with B_crit = X_min / S_min (McCandlish et al. 2018, arXiv 1812.06162, eq. 2.11). The fewest
samples X_min are S_min B_crit: they hold the error of the critical batch itself, and a regression that does not know of
it finds a slope where nothing grows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from isoflop.scaling.fitting.fit import Fit, FitError, LeastSquares, fit
from isoflop.scaling.fitting.line import slope
from isoflop.scaling.fitting.uncertainty import jackknife
from isoflop.scaling.laws.inputs import Column
from isoflop.scaling.laws.law import Array, Box, Law

FEWEST_BATCHES = 4  # of a size: two numbers are fitted to them
OVERHEAD = 1.2  # of the samples that the smallest batch takes (Zhang et al. 2024, arXiv 2410.21676)
EXACT = 1e-16  # variance of ln steps that no run is below
OWN = 1e-3  # of the variance of ln steps: of each loss alone, where losses are read off one run
SMALL = 1e-4  # in ln steps: a difference to take a derivative by


@dataclass(frozen=True)
class Hyperbola(Law):
    """Steps to a loss at batch B: S = S_min (1 + B_crit / B)."""

    S_min: float
    B_crit: float

    name: ClassVar[str] = "hyperbola"
    formula: ClassVar[str] = "S = S_min (1 + B_crit / B)"
    inputs: ClassVar[tuple[str, ...]] = ("B",)
    columns: ClassVar[dict[str, Column | str]] = {"B": "batch"}
    box: ClassVar[dict[str, Box]] = {"S_min": Box(1e-3, 1e15, log=True), "B_crit": Box(1e-6, 1e15, log=True)}

    def __call__(self, B: Any) -> Any:
        return self.S_min * (1 + self.B_crit / B)

    @classmethod
    def propose(cls, x: Any, loss: Array, weights: Array) -> Array:
        """The fewest steps seen, and the batches tried."""
        batches = np.quantile(x["B"], [0.1, 0.5, 0.9])
        return np.column_stack([np.full(3, np.log(loss.min())), batches])


@dataclass(frozen=True)
class SizeBatch:
    """The critical batch of one size at one target loss, in the unit of the batches: tokens or sequences.

    `batches` counts the different ones, `interval` is at `level`, by the jackknife over rows. `overhead` is the largest
    batch that takes at most 20% more samples than the smallest one (NaN where every batch does), `rms` that of the
    residuals of ln steps.
    """

    n_params: float
    target_loss: float
    batches: int
    min_steps: float
    critical: float
    interval: tuple[float, float]
    overhead: float
    rms: float
    fit: Fit

    @property
    def min_samples(self) -> float:
        """The fewest tokens, or sequences, that reach the loss: X_min."""
        return self.min_steps * self.critical

    def steps(self, batch: Any) -> Any:
        """Steps to the loss at a batch."""
        return self.fit.law(batch)


@dataclass(frozen=True)
class Exponent:
    """B = b X^p over sizes, X the fewest samples to the loss: p with its interval at `level`.

    All is NaN for too few sizes. Where X, which spans a factor `span` over the sizes, spans no more than its errors, p
    is NaN and the ends of the interval are infinite: no growth is excluded.
    """

    p: float
    interval: tuple[float, float]
    span: float = float("nan")

    @property
    def unbounded(self) -> bool:
        """Whether the sizes exclude no growth."""
        return bool(np.isinf(self.interval).any())


def size_batch(group: pd.DataFrame, n_params: float, loss: float, level: float) -> SizeBatch:
    """The critical batch from rows of batch and steps (`loss`) of one size; FitError where batches are too few."""
    if group["batch"].nunique() < FEWEST_BATCHES:
        raise FitError(f"{group['batch'].nunique()} batches, and at least {FEWEST_BATCHES} are needed")
    fitted = fit(Hyperbola, group[["batch", "loss"]].sort_values("batch"), objective=LeastSquares())
    law = fitted.law
    assert isinstance(law, Hyperbola)
    interval = jackknife(fitted).interval("B_crit", level)
    rms = float(np.sqrt(np.mean(fitted.residuals**2)))
    return SizeBatch(
        n_params, loss, group["batch"].nunique(), law.S_min, law.B_crit, interval, _overhead(group), rms, fitted
    )


def _overhead(group: pd.DataFrame) -> float:
    """The batch at which the samples first exceed OVERHEAD times those of the smallest batch, between two of them."""
    means = np.log(group.groupby("batch")["loss"].mean())
    log_b = np.log(means.index.to_numpy(float))
    above = means.to_numpy() + log_b
    above = above - above[0] - np.log(OVERHEAD)
    crossed = np.flatnonzero(above >= 0)
    if not len(crossed):
        return float("nan")
    k = int(crossed[0])
    share = -above[k - 1] / (above[k] - above[k - 1])
    return float(np.exp(log_b[k - 1] + share * (log_b[k] - log_b[k - 1])))


def exponents(sizes: Sequence[SizeBatch], level: float) -> tuple[Exponent, Exponent]:
    """How the critical and the overhead batch grow over sizes, by the errors that they share with the fewest samples.

    The noise of ln steps is one for all sizes, and the same for every loss that is read off a run: the losses of a size
    count once. Where the samples first exceed a share lies between two batches: too little to know its error by, so
    that every size has their mean.
    """
    rows = [len(s.fit.points) for s in sizes]
    noise = sum(float(s.fit.residuals @ s.fit.residuals) for s in sizes) / max(sum(rows) - 2 * len(rows), 1)
    x, n_params = np.log([s.min_samples for s in sizes]), np.array([s.n_params for s in sizes])
    moves = _by_run([_moves(s) for s in sizes], sizes)
    found = []
    for row, batches in ((1, [s.critical for s in sizes]), (2, [s.overhead for s in sizes])):
        y, own = np.log(batches), moves[:, [0, row]]
        known = np.isfinite(y) & np.isfinite(own).all(axis=(1, 2))
        covariance = max(noise, EXACT) * np.einsum("iar,jbr->ijab", own[known], own[known])
        each = np.eye(known.sum(), dtype=bool)
        if row == 2 and known.any():
            same = n_params[known, None] == n_params[known]
            covariance = same[..., None, None] * covariance[each].mean(axis=0)
        covariance[~each] *= 1 - OWN
        p, interval = slope(x[known], y[known], covariance, level, len(np.unique(n_params[known])))
        span = float(np.exp(np.ptp(x[known]))) if known.any() else np.nan
        found.append(Exponent(np.nan if np.isinf(interval).any() else p, interval, span))
    return found[0], found[1]


def _by_run(moves: Sequence[Array], sizes: Sequence[SizeBatch]) -> Array:
    """The moves (3, n) of each size and loss in one array (points, 3, runs), zero where another run is read: the runs
    of one size and batch are the same for all its losses, in the order of the table."""
    rows = [(s.n_params, batch) for s in sizes for batch in s.fit.points.frame["batch"]]
    point = np.repeat(np.arange(len(sizes)), [m.shape[1] for m in moves])
    frame = pd.DataFrame(rows, columns=["n_params", "batch"]).assign(point=point)
    frame["repeat"] = frame.groupby(["point", "n_params", "batch"]).cumcount()
    run = frame.groupby(["n_params", "batch", "repeat"]).ngroup().to_numpy()
    placed = np.zeros((len(sizes), 3, run.max(initial=-1) + 1))
    for k, own in enumerate(moves):
        placed[k][:, run[point == k]] = own
    return placed


def _moves(size: SizeBatch) -> Array:
    """What ln of the fewest samples and of both batches moves by with ln steps of a row, (3, n)."""
    group = size.fit.points.frame[["batch", "loss"]].reset_index(drop=True)
    share = size.critical / (size.critical + group["batch"].to_numpy(float))
    off = share - share.mean()
    with np.errstate(all="ignore"):  # all batches far below the critical one: it is not known
        critical = off / (off @ off)
    overhead = np.empty(len(group))
    for k in range(len(group)):
        ends = [_overhead(group.assign(loss=group["loss"] * np.exp(h * (group.index == k)))) for h in (SMALL, -SMALL)]
        overhead[k] = np.log(ends[0] / ends[1]) / (2 * SMALL)
    return np.stack([1 / len(group) + (1 - share.mean()) * critical, critical, overhead])
