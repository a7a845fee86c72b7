"""What a law of a mixture leaves, as a smooth function of the mixture: a Gaussian process on the law's residuals.

Its inputs are the shares of effective data that the law gives each domain, so that what hardly counts hardly moves it.
Length and noise are those of the largest marginal likelihood; a process that gains too little over none is left out.
"""

from dataclasses import dataclass

import numpy as np

from isoflop.scaling.laws.law import Array
from isoflop.scaling.laws.mixtures.means import MixtureLaw

CLIP = 3.0  # robust scales: a residual beyond is of one run, and is taken to lie there
LENGTHS = tuple(np.geomspace(0.3, 10.0, 8).tolist())  # times the median distance of two mixtures
NOISES = tuple(np.geomspace(1e-3, 1.0, 10).tolist())  # variance of the noise over that of the process
LEAST_GAIN = 3.0  # of ln likelihood, for two numbers
STRETCH = 5.0  # of the logarithm of effective data against the square roots of its shares


@dataclass(frozen=True)
class Residual:
    """The posterior mean of ln loss less the law's, at any mixture: k(x, rows) @ `weight`."""

    law: MixtureLaw
    rows: Array
    length: float
    noise: float
    weight: Array

    def __call__(self, h: Array) -> Array:
        """The residual of ln loss (n,) at mixtures h (k, n)."""
        return _kernel(_features(self.law, h), self.rows, self.length) @ self.weight

    def on(self, residuals: Array, counts: Array) -> "Residual":
        """The same process on other residuals (n,) of its rows, each counted so often (0: left out)."""
        root = np.sqrt(counts)
        kernel = _kernel(self.rows, self.rows, self.length) * root[:, None] * root
        solved = np.linalg.solve(kernel + self.noise * np.eye(len(root)), root * clipped(residuals, counts > 0))
        return Residual(self.law, self.rows, self.length, self.noise, root * solved)


def residual_of(law: MixtureLaw, h: Array, residuals: Array) -> Residual | None:
    """The process on the residuals (n,) of ln loss at mixtures h (k, n), its inputs those of `law`; None for none."""
    rows, left = _features(law, h), clipped(residuals)
    square, n = _squares(rows, rows), len(left)
    unit = np.sqrt(np.median(square[square > 0])) if (square > 0).any() else 0.0
    if not unit or not left.any():
        return None
    best = (-0.5 * n * np.log(left @ left / n) + LEAST_GAIN, 0.0, 0.0, left)
    for length in LENGTHS:
        size, along = np.linalg.eigh(np.exp(-square / (2 * (length * unit) ** 2)))
        turned = along.T @ left
        for noise in NOISES:
            spread = np.maximum(size, 0.0) + noise
            likelihood = -0.5 * n * np.log(np.mean(turned**2 / spread)) - 0.5 * np.log(spread).sum()
            if likelihood > best[0]:
                best = (likelihood, length * unit, noise, along @ (turned / spread))
    return Residual(law, rows, *best[1:]) if best[1] else None


def clipped(residuals: Array, which: Array | None = None) -> Array:
    """Residuals within CLIP robust scales of those in the mask `which`."""
    most = CLIP * 1.4826 * float(np.median(np.abs(residuals if which is None else residuals[which])))
    return np.clip(residuals, -most, most)


def _features(law: MixtureLaw, h: Array) -> Array:
    """Square roots of the shares of effective data (n, k), and the logarithm of the last term of the law."""
    _, a, v = law.places()[-1]
    values = law.values()
    power = values[a] if a is not None else 1.0
    parts = h.T * values[v] ** (-1.0 / power)
    total = parts.sum(axis=1, keepdims=True)
    return np.hstack([np.sqrt(parts / total), STRETCH * power * np.log(total)])


def _squares(one: Array, other: Array) -> Array:
    cross = (one**2).sum(axis=1)[:, None] + (other**2).sum(axis=1) - 2 * one @ other.T
    return np.maximum(cross, 0.0)


def _kernel(one: Array, other: Array, length: float) -> Array:
    return np.exp(-_squares(one, other) / (2 * length**2))
