"""How the noise of a table is spread over its rows: falling with size, shared by the rows of a cluster, or by sizes.

All are estimated from residuals by restricted maximum likelihood on a grid (Patterson and Thompson 1971): the sd falls
as N^-g, two rows of one cluster have correlation r, and two sizes of one seed k^(ln ratio / ln 3), as where every size
reads one order of the data. For tests of residuals (`noise_model`) falling and sharing must be worth EVIDENCE each: on
even, independent noise an estimate of them is noise itself, and tests under it object too often.
"""

from dataclasses import dataclass

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
    """Relative standard deviations `sd` (n,) of rows, and the correlation `shared` of rows with one `label` (n,)."""

    sd: Array
    shared: float
    label: Array

    def whiten(self, columns: Array) -> Array:
        """Columns (n, k) on rows of equal variance and no correlation."""
        scaled = columns / self.sd[:, None]
        if not self.shared:
            return scaled
        count = np.bincount(self.label)
        sums = np.zeros((len(count), scaled.shape[1]))
        np.add.at(sums, self.label, scaled)
        keep = np.sqrt((1 - self.shared) / (1 - self.shared + count * self.shared))
        return (scaled - ((1 - keep) / count)[self.label, None] * sums[self.label]) / np.sqrt(1 - self.shared)

    @property
    def log_determinant(self) -> float:
        """ln of the determinant of the covariance matrix."""
        count = np.bincount(self.label)
        blocks = (count - 1) * np.log1p(-self.shared) + np.log1p((count - 1) * self.shared)
        return float(2 * np.log(self.sd).sum() + blocks.sum())


def noise_model(residual: Array, design: Array, log_n: Array, weights: Array, label: Array) -> NoiseModel:
    """The model with the highest restricted likelihood of residuals (n,), given the columns (n, p) fitted to them."""
    x, unit = log_n - log_n.mean(), np.sqrt(weights.mean() / weights)
    best, likelihood = NoiseModel(unit, 0.0, label), -np.inf
    repeated = bool((np.bincount(label) > 1).any())
    for power in FALLING if np.ptp(log_n) > 1 else FALLING[:1]:
        for shared in SHARED if repeated else SHARED[:1]:
            model = NoiseModel(unit * np.exp(-power * x), shared, label)
            value = _restricted(model, residual, design) - EVIDENCE * ((power > 0) + (shared > 0))
            if value > likelihood + 1e-9:
                best, likelihood = model, value
    return best


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
    values = np.array([
        max(_restricted(NoiseModel(np.exp(-power * x), shared, label), residual, design)
            for shared in (SHARED if repeated else SHARED[:1]))
        for power in POWERS
    ])  # fmt: skip
    at = int(np.argmax(values))
    if 2 * (values[at] - values[0]) < FALLS_LEVEL:
        return 0.0
    power = POWERS[at]
    if at + 1 < len(POWERS):
        left, middle, right = values[at - 1 : at + 2]
        power += 0.5 * (POWERS[1] - POWERS[0]) * (left - right) / min(left - 2 * middle + right, -1e-9)
    return float(min(power, MOST_FALLING))


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


def _restricted(model: NoiseModel, residual: Array, design: Array) -> float:
    """Restricted ln likelihood, up to a constant."""
    basis, log_size = orthonormal(model.whiten(design))
    y = model.whiten(residual[:, None])[:, 0]
    freedom = len(y) - basis.shape[1]
    squares = max(float(y @ y - np.sum((basis.T @ y) ** 2)), 1e-300)
    return -0.5 * (freedom * np.log(squares / max(freedom, 1)) + model.log_determinant + 2 * log_size)


def orthonormal(columns: Array) -> tuple[Array, float]:
    """An orthonormal basis (n, rank) of columns (n, p), and half the ln of the determinant of their products."""
    size = np.linalg.norm(columns, axis=0)
    left, singular, _ = np.linalg.svd(columns / np.where(size > 0, size, 1.0), full_matrices=False)
    kept = singular > SINGULAR * singular[0]
    return left[:, kept], float(np.log(singular[kept]).sum() + np.log(size[size > 0]).sum())


def clipped(residual: Array, sd: Array, n_free: int) -> Array:
    """Residuals (n,) no farther than FAR robust standard deviations, so that one run decides no test."""
    scaled = residual / sd
    n = len(scaled)
    most = FAR * 1.4826 * float(np.median(np.abs(scaled))) * np.sqrt(n / max(n - n_free, 1))
    return np.clip(scaled, -most, most) * sd
