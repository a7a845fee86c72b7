"""How the noise of a table is spread over its rows: falling with size, and shared by the rows of a cluster.

Both are estimated from residuals by restricted maximum likelihood on a grid (Patterson and Thompson 1971): the sd falls
as N^-g, and two rows of one cluster have correlation r. Either must be worth EVIDENCE: on even, independent noise an
estimate of them is noise itself, and tests under it object too often.
"""

from dataclasses import dataclass

import numpy as np

from isoflop.scaling.laws.law import Array

FALLING = (0.0, 0.15, 0.3, 0.45, 0.6)  # the power of N with which the sd falls
SHARED = (0.0, 0.25, 0.5, 0.7, 0.85)  # correlation within a cluster
EVIDENCE = 2.0  # of ln likelihood: half the square of two standard errors
SINGULAR = 1e-9  # of the largest singular value: columns below it add nothing
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
