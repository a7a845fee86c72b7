"""What a law of a mixture leaves, as a smooth function of the mixture: a Gaussian process on the law's residuals.

Its inputs are the shares of effective data that the law gives each domain, so that what hardly counts hardly moves it.
Length and noise are those of the largest marginal likelihood; a process less likely than none is left out.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from isoflop.scaling.laws.law import Array
from isoflop.scaling.laws.mixtures.means import MixtureLaw

CLIP = 3.0  # robust scales: a residual beyond is of one run, and is taken to lie there
LENGTHS = tuple(np.geomspace(0.3, 10.0, 8).tolist())  # times the median distance of two mixtures
NOISES = tuple(np.geomspace(1e-3, 1.0, 10).tolist())  # variance of the noise over that of the process
COSINES = 256  # of a draw
STRETCH = 2.0  # of the logarithm of effective data against the square roots of its shares


@dataclass(frozen=True)
class _Wave:
    """A draw of the process before any run is seen: a sum of cosines (Rahimi and Recht 2007)."""

    frequencies: Array
    phases: Array
    height: float

    def __call__(self, features: Array) -> Array:
        return self.height * np.cos(features @ self.frequencies + self.phases).sum(axis=1)


@dataclass(frozen=True)
class Residual:
    """ln loss less the law's, at any mixture: k(x, rows) @ `weight`, the mean of the process given the runs.

    `variance` is that of the process, `noise` that of a run over it. With `wave` it is a draw of the process and not
    its mean, and `lots` (n,) the noise of the runs that was drawn with it.
    """

    law: MixtureLaw
    rows: Array
    length: float
    noise: float
    variance: float
    weight: Array
    wave: _Wave | None = None
    lots: Array | None = None

    def __call__(self, h: Array) -> Array:
        """The residual of ln loss (n,) at mixtures h (k, n)."""
        at = _features(self.law, h)
        mean = _kernel(at, self.rows, self.length) @ self.weight
        return mean if self.wave is None else mean + self.wave(at)

    @cached_property
    def covariance(self) -> Array:
        """Of the runs (n, n), noise included, over the variance of the process."""
        return _kernel(self.rows, self.rows, self.length) + self.noise * np.eye(len(self.rows))

    @cached_property
    def _precision(self) -> Array:
        """The inverse of the covariance: draws share it."""
        return np.linalg.inv(self.covariance)

    def of(self, residuals: Array, keep: Array) -> "Residual":
        """The same process given other residuals (n,) of its runs, of those in the mask `keep` alone."""
        weight = np.zeros(len(residuals))
        weight[keep] = np.linalg.solve(self.covariance[np.ix_(keep, keep)], clipped(residuals, keep)[keep])
        return replace(self, weight=weight)

    def drawn(self, residuals: Array, lots: np.random.Generator, twin: "Residual | None" = None) -> "Residual":
        """A draw of the process given other residuals (n,): one before any run, moved by what the runs say of it; or
        the one that moves the opposite way of a `twin`."""
        if twin is not None and twin.wave is not None and twin.lots is not None:
            wave, noise = replace(twin.wave, height=-twin.wave.height), -twin.lots
        else:
            height = math.sqrt(2 * self.variance / COSINES)
            frequencies = np.empty((self.rows.shape[1], COSINES))
            frequencies[_order(self.law)] = lots.normal(0, 1 / self.length, frequencies.shape)
            wave = _Wave(frequencies, lots.uniform(0, 2 * np.pi, COSINES), height)
            noise = np.empty(len(self.rows))
            noise[np.argsort(residuals)] = lots.normal(0, math.sqrt(self.noise * self.variance), len(noise))
        moved = self._precision @ (clipped(residuals) - wave(self.rows) - noise)
        return replace(self, weight=moved, wave=wave, lots=noise)


def residual_of(law: MixtureLaw, h: Array, residuals: Array) -> Residual | None:
    """The process on the residuals (n,) of ln loss at mixtures h (k, n), its inputs those of `law`; None for none."""
    rows, left = _features(law, h), clipped(residuals)
    square, n = _squares(rows, rows), len(left)
    unit = np.sqrt(np.median(square[square > 0])) if (square > 0).any() else 0.0
    if not unit or not left.any():
        return None
    best = (-0.5 * n * np.log(left @ left / n), 0.0, 0.0, 0.0, left)
    for length in LENGTHS:
        size, along = np.linalg.eigh(np.exp(-square / (2 * (length * unit) ** 2)))
        turned = along.T @ left
        for noise in NOISES:
            spread = np.maximum(size, 0.0) + noise
            variance = float(np.mean(turned**2 / spread))
            likelihood = -0.5 * n * np.log(variance) - 0.5 * np.log(spread).sum()
            if likelihood > best[0]:
                best = (likelihood, length * unit, noise, variance, along @ (turned / spread))
    return Residual(law, rows, *best[1:]) if best[1] else None


def clipped(residuals: Array, which: Array | None = None) -> Array:
    """Residuals within CLIP robust scales of those in the mask `which`."""
    most = CLIP * 1.4826 * float(np.median(np.abs(residuals if which is None else residuals[which])))
    return np.clip(residuals, -most, most)


def _order(law: MixtureLaw) -> Array:
    """The columns of `_features` in an order that names of domains do not enter: by what each leaves alone."""
    _, _, v = law.places()[-1]
    return np.append(np.argsort(law.values()[v], kind="stable"), len(law.domains))


def _features(law: MixtureLaw, h: Array) -> Array:
    """Square roots of the shares of effective data (n, k), and the logarithm of the last term of the law."""
    _, a, v = law.places()[-1]
    values = law.values()
    power = values[a] if a is not None else 1.0
    unit = np.exp(np.log(values[v]).mean())
    parts = h.T * (values[v] / unit) ** (-1.0 / power)
    total = parts.sum(axis=1, keepdims=True)
    return np.hstack([np.sqrt(parts / total), STRETCH * power * np.log(total)])


def _squares(one: Array, other: Array) -> Array:
    cross = (one**2).sum(axis=1)[:, None] + (other**2).sum(axis=1) - 2 * one @ other.T
    return np.maximum(cross, 0.0)


def _kernel(one: Array, other: Array, length: float) -> Array:
    return np.exp(-_squares(one, other) / (2 * length**2))
