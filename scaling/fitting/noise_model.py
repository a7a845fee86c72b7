"""How the noise of a table is spread over its rows: falling with size, shared by the rows of a cluster, or by sizes.

All are estimated from residuals by restricted maximum likelihood on a grid (Patterson and Thompson 1971): the sd falls
as N^-g, two rows of one cluster have correlation r, and two sizes of one seed k^(ln ratio / ln 3), as where every size
reads one order of the data. For tests of residuals (`noise_model`) falling and sharing must be worth EVIDENCE each: on
even, independent noise an estimate of them is noise itself, and tests under it object too often.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from isoflop.scaling.laws.law import Array

FALLING = (0.0, 0.15, 0.3, 0.45, 0.6)  # the power of N with which the sd falls
SHARED = (0.0, 0.25, 0.5, 0.7, 0.85)  # correlation within a cluster
NEIGHBOURS = (0.0, 0.45, 0.6, 0.75)  # correlation between sizes a factor 3 apart; .45 where it was measured
LEAST_SPARE = 5  # rows beyond the parameters, to look for it
MOST_ROWS = 300  # of tables in which that is looked for, with matrices of rows x rows
ONE_BUDGET = 0.1  # in ln FLOPs
NUGGET = 1e-3  # of the variance, of each row's own
EVIDENCE = 2.0  # of ln likelihood: half the square of two standard errors
SINGULAR = 1e-9  # of the largest singular value: columns below it add nothing
POWERS = tuple(0.1 * k for k in range(11))  # of N, tried for the variance function of a fit
FALLS_LEVEL = 2.706  # of the likelihood ratio: chi-square with 1 degree of freedom at .9, one-sided at .95
SHARED_PRIOR = 0.3  # probability, before the residuals are seen, that sizes share noise where nothing rules it out
MOST_FALLING = 0.7  # a larger estimate is set to this: few sizes decide it
FEWEST_SPARE, NARROW = 8, 1.0  # rows beyond the parameters, and range of ln N, that tell how noise falls
FAR = 4.0  # robust standard deviations at which residuals are clipped before anything is tested


@dataclass(frozen=True)
class NoiseModel:
    """Relative standard deviations `sd` (n,) of rows, and the correlation `shared` of rows with one `label` (n,).

    Or M models of one label: `sd` (M, n), `shared` (M,).
    """

    sd: Array
    shared: float | Array
    label: Array

    def whiten(self, columns: Array) -> Array:
        """Columns (n, k) on rows of equal variance and no correlation; of M models (M, n, k)."""
        scaled = columns / self.sd[..., None]
        if not np.any(self.shared):
            return scaled
        count, shared = np.bincount(self.label), np.asarray(self.shared)[..., None]
        rows = np.moveaxis(scaled, -2, 0)
        sums = np.zeros((len(count), *rows.shape[1:]))
        np.add.at(sums, self.label, rows)
        keep = np.sqrt((1 - shared) / (1 - shared + count * shared))
        known = ((1 - keep) / count)[..., self.label, None] * np.moveaxis(sums[self.label], 0, -2)
        return (scaled - known) / np.sqrt(1 - shared)[..., None]

    @property
    def log_determinant(self) -> Any:
        """ln of the determinant of the covariance matrix; (M,) of M models."""
        count, shared = np.bincount(self.label), np.asarray(self.shared)[..., None]
        blocks = (count - 1) * np.log1p(-shared) + np.log1p((count - 1) * shared)
        return 2 * np.log(self.sd).sum(axis=-1) + blocks.sum(axis=-1)


def noise_model(residual: Array, design: Array, log_n: Array, weights: Array, label: Array) -> NoiseModel:
    """The model with the highest restricted likelihood of residuals (n,), given the columns (n, p) fitted to them."""
    x, unit = log_n - log_n.mean(), np.sqrt(weights.mean() / weights)
    repeated = bool((np.bincount(label) > 1).any())
    power, shared = _each(FALLING if np.ptp(log_n) > 1 else FALLING[:1], SHARED if repeated else SHARED[:1])
    models = NoiseModel(unit * np.exp(-power[:, None] * x), shared, label)
    values = _restricted(models, residual, design) - EVIDENCE * ((power > 0) + (shared > 0).astype(int))
    best, likelihood = NoiseModel(unit, 0.0, label), -np.inf
    for k, value in enumerate(values):
        if value > likelihood + 1e-9:
            best, likelihood = NoiseModel(models.sd[k], float(shared[k]), label), value
    return best


def shared_by_cluster(residual: Array, design: Array, label: Array) -> float:
    """The correlation that rows of one label have: the mean of SHARED, each by its restricted likelihood.

    `residual` (n,) and `design` (n, p) are of equal variance. 0 where no label has two rows, or rows are too few.
    """
    n, p = design.shape
    if n - p < LEAST_SPARE or not (np.bincount(label) > 1).any():
        return 0.0
    models = NoiseModel(np.ones((len(SHARED), n)), np.array(SHARED), label)
    value = _restricted(models, clipped(residual, np.ones(n), p), design)
    return float(np.average(SHARED, weights=np.exp(value - value.max())))


def _each(powers: Sequence[float], shared: Sequence[float]) -> tuple[Array, Array]:
    """Every pair of them, by power: (M,) and (M,)."""
    return np.repeat(powers, len(shared)), np.tile(shared, len(powers))


def falling_power(residual: Array, design: Array, log_n: Array, label: Array) -> float:
    """The power of N that the noise of residuals (n,) falls with: 0 unless a likelihood-ratio test at .05 shows it.

    `design` (n, p) are the columns fitted, `label` (n,) the clusters, whose rows may be correlated. The estimate is the
    restricted likelihood's, largest over the correlation, between the powers tried by a parabola.
    """
    near = np.abs(residual) <= FAR * 1.4826 * np.median(np.abs(residual))  # one wild run says nothing of its size
    same = np.unique(np.stack([label, np.round(residual, 12)]), axis=1, return_index=True)[1]
    kept = np.sort(same[near[same]])  # a copy of a row is no further run
    residual, design, log_n = residual[kept], design[kept], log_n[kept]
    label = np.unique(label[kept], return_inverse=True)[1]
    n, p = design.shape
    if n - p < FEWEST_SPARE or np.ptp(log_n) < NARROW:
        return 0.0
    x = log_n - log_n.mean()
    repeated = bool((np.bincount(label) > 1).any())
    power, shared = _each(POWERS, SHARED if repeated else SHARED[:1])
    models = NoiseModel(np.exp(-power[:, None] * x), shared, label)
    values = _restricted(models, residual, design).reshape(len(POWERS), -1).max(axis=1)
    at = int(np.argmax(values))
    if 2 * (values[at] - values[0]) < FALLS_LEVEL:
        return 0.0
    found = POWERS[at]
    if at + 1 < len(POWERS):
        left, middle, right = values[at - 1 : at + 2]
        found += 0.5 * (POWERS[1] - POWERS[0]) * (left - right) / min(left - 2 * middle + right, -1e-9)
    return float(min(found, MOST_FALLING))


def shared_by_sizes(residual: Array, design: Array, frame: pd.DataFrame, label: Array) -> tuple[Array, Array] | None:
    """How likely each correlation of NEIGHBOURS (K,) is, and the covariance of rows under it, (K, n, n).

    By restricted likelihood and a prior, even over the correlations above 0: few runs cannot tell noise that sizes
    share from a bend, so that a test would miss it where it matters. None where rows are too few or too many to look
    for it. `residual` (n,) and `design` (n, p) are of equal variance, `frame` has n_params, flops and may have seed,
    `label` (n,) are the clusters.
    """
    n, p = design.shape
    if n - p < LEAST_SPARE or n > MOST_ROWS or frame[["n_params", "flops"]].isna().any(axis=None):
        return None
    log_n, log_c = (np.log(frame[c].to_numpy(float)) for c in ("n_params", "flops"))
    seed = pd.factorize(frame["seed"])[0] if "seed" in frame else np.zeros(n, dtype=int)
    apart = np.abs(log_n[:, None] - log_n) / np.log(3)
    same_budget = np.abs(log_c[:, None] - log_c) < ONE_BUDGET
    same_seed, same_label = seed[:, None] == seed, label[:, None] == label
    residual = clipped(residual, np.ones(n), p)
    value, covariance = np.full(len(NEIGHBOURS), -np.inf), np.zeros((len(NEIGHBOURS), n, n))
    for k, near in enumerate(NEIGHBOURS):
        kernel = np.where(same_seed, near**apart, 0.0) if near else np.where(same_label, 1.0, 0.0)
        for shared in SHARED if same_label.sum() > n else SHARED[:1]:
            matrix = kernel * np.where(same_budget & (same_seed if near else np.eye(n, dtype=bool)), 1.0, shared)
            matrix = (1 - NUGGET) * matrix + NUGGET * np.eye(n)
            np.fill_diagonal(matrix, 1.0)
            found, variance = _dense_restricted(matrix, residual, design)
            if found > value[k]:
                value[k], covariance[k] = found, variance * matrix
    prior = np.array([1 - SHARED_PRIOR] + [SHARED_PRIOR / (len(NEIGHBOURS) - 1)] * (len(NEIGHBOURS) - 1))
    likely = prior * np.exp(value - value.max())
    return likely / likely.sum(), covariance


def _dense_restricted(matrix: Array, residual: Array, design: Array) -> tuple[float, float]:
    """Restricted ln likelihood of residuals with a correlation matrix (n, n), up to a constant, and their variance.

    The likelihood of a singular matrix is -inf.
    """
    try:
        lower = np.linalg.cholesky(matrix)
    except np.linalg.LinAlgError:
        return -np.inf, 1.0
    white = np.linalg.solve(lower, np.column_stack([residual, design]))
    basis, log_size = orthonormal(white[:, 1:])
    y = white[:, 0]
    freedom = len(y) - basis.shape[1]
    squares = max(float(y @ y - np.sum((basis.T @ y) ** 2)), 1e-300)
    value = -0.5 * freedom * np.log(squares / freedom) - float(np.log(np.diag(lower)).sum()) - log_size
    return value, squares / freedom


def _restricted(models: NoiseModel, residual: Array, design: Array) -> Array:
    """Restricted ln likelihood of each of M models, (M,), up to a constant."""
    white = models.whiten(np.column_stack([residual, design]))
    bases, log_size = _orthonormal(white[..., 1:])
    own = list(zip(np.ascontiguousarray(white[..., 0]), bases, strict=True))
    squares = np.maximum([float(y @ y - np.sum((basis.T @ y) ** 2)) for y, basis in own], 1e-300)
    freedom = len(residual) - np.array([basis.shape[1] for basis in bases])
    return -0.5 * (freedom * np.log(squares / np.maximum(freedom, 1)) + models.log_determinant + 2 * log_size)


def orthonormal(columns: Array) -> tuple[Array, float]:
    """An orthonormal basis (n, rank) of columns (n, p), and half the ln of the determinant of their products."""
    bases, log_size = _orthonormal(columns[None])
    return bases[0], float(log_size[0])


def _orthonormal(columns: Array) -> tuple[list[Array], Array]:
    """The same of M sets of columns (M, n, p)."""
    size = np.linalg.norm(columns, axis=-2)
    left, singular, _ = np.linalg.svd(columns / np.where(size > 0, size, 1.0)[:, None], full_matrices=False)
    kept = singular > SINGULAR * singular[:, :1]
    bases = [one[:, own] for one, own in zip(left, kept, strict=True)]
    logs = [np.log(s[own]).sum() + np.log(z[z > 0]).sum() for s, own, z in zip(singular, kept, size, strict=True)]
    return bases, np.array(logs)


def clipped(residual: Array, sd: Array, n_free: int) -> Array:
    """Residuals (n,) no farther than FAR robust standard deviations, so that one run decides no test."""
    scaled = residual / sd
    n = len(scaled)
    most = FAR * 1.4826 * float(np.median(np.abs(scaled))) * np.sqrt(n / max(n - n_free, 1))
    return np.clip(scaled, -most, most) * sd
