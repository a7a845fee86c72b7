"""How runs deviate from a law of whole curves: standard deviations, covariances of rows, trunks worked on at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any, ClassVar

import numpy as np

from isoflop.scaling.laws.curves.sums import Array

MISFIT_LENGTH = 2.0  # in ln step, over which the shared misfit is forgotten: forecasts are the same from 1 to 4


@dataclass(frozen=True, eq=False)
class Places:
    """Where rows (n,) lie: their ln steps `at`, which are evaluations at an end, and the `slope` of the law there, by
    how much ln loss falls for a unit of ln of the summed rate. (g, n) are those of g trunks."""

    at: Array
    ends: Array
    slope: Array


@dataclass(frozen=True)
class Deviation:
    """Standard deviations of ln loss, of a run's deviation (`run`), of a row (`row`) and of a row at a run's end
    (`end`), the `length` in ln step over which a deviation is forgotten, and the standard deviation of what all runs
    deviate by together (`shared`). Where the curve is steep runs and rows deviate more: by 1 + `steep` x slope."""

    run: float = 0.01
    length: float = 2.0
    row: float = 0.004
    end: float = 0.004
    shared: float = 0.01
    steep: float = 1.0

    OF_ROWS: ClassVar = ("run", "length", "row", "end", "steep")  # what the covariance of a trunk's rows depends on

    def cross(self, one: Places, other: Places) -> Array:
        """Covariance (..., n, m) of the deviations of rows (..., n) and (..., m) of one trunk."""
        kept = np.exp(-np.abs(one.at[..., :, None] - other.at[..., None, :]) / self.length)
        steep = (1 + self.steep * one.slope)[..., :, None] * (1 + self.steep * other.slope)[..., None, :]
        return self.run**2 * steep * kept

    def misfit(self, knots: Array) -> Array:
        """Covariance (K, K) of the shared misfit at knots (K,)."""
        return self.shared**2 * np.exp(-np.abs(knots[:, None] - knots[None]) / MISFIT_LENGTH)

    def noise(self, places: Places) -> Array:
        """Variance (..., n) of the evaluation of rows."""
        return (np.where(places.ends, self.end, self.row) * (1 + self.steep * places.slope)) ** 2

    def derivatives(self, places: Places) -> Array:
        """Derivatives (5, ..., n, n) of the covariance in the logarithms of OF_ROWS."""
        cross, noise = self.cross(places, places), self.noise(places)
        steep = self.steep * places.slope / (1 + self.steep * places.slope)
        apart = np.abs(places.at[..., :, None] - places.at[..., None, :]) / self.length
        found = np.zeros((len(self.OF_ROWS), *cross.shape))
        found[0], found[1] = 2 * cross, cross * apart
        found[4] = cross * (steep[..., :, None] + steep[..., None, :])
        each = np.arange(noise.shape[-1])
        found[2][..., each, each] = 2 * np.where(places.ends, 0.0, noise)
        found[3][..., each, each] = 2 * np.where(places.ends, noise, 0.0)
        found[4][..., each, each] += 2 * noise * steep
        return found

    def covariance(self, places: Places) -> Array:
        """Covariance (..., n, n) of rows of one trunk."""
        found, noise = self.cross(places, places), self.noise(places)
        each = np.arange(noise.shape[-1])
        found[..., each, each] += noise
        return found


DEFAULT = Deviation()


@dataclass(frozen=True, eq=False)
class Trunks:
    """Trunks of so many rows each, one after another. Those of one length are worked on together."""

    lengths: Sequence[int]

    @cached_property
    def alike(self) -> list[tuple[Array, Array]]:
        """The trunks (g,) of each length and their rows (g, n)."""
        lengths, first = np.array(self.lengths), np.cumsum([0, *self.lengths[:-1]])
        each = [np.flatnonzero(lengths == n) for n in np.unique(lengths)]
        return [(which, first[which][:, None] + np.arange(lengths[which[0]])) for which in each]

    def places(self, every: Places) -> list[Places]:
        """Where the rows of each length lie, of all rows."""
        return [Places(every.at[rows], every.ends[rows], every.slope[rows]) for _, rows in self.alike]

    def products(self, factors: Sequence[Array], columns: Array) -> tuple[Array, Array, Array]:
        """Of each trunk the products of its columns (n, P + 1) on rows of equal variance without correlation: of the
        first P among themselves, (T, P, P), and with the last, (T, P), and of the last with itself, (T,).

        `factors` are the Cholesky factors (g, n, n) of the trunks of each length.
        """
        products = np.empty((len(self.lengths), columns.shape[1], columns.shape[1]))
        for (which, rows), factor in zip(self.alike, factors, strict=True):
            white = np.linalg.solve(factor, columns[rows])
            products[which] = white.swapaxes(1, 2) @ white
        return products[:, :-1, :-1], products[:, :-1, -1], products[:, -1, -1]


def in_order(first: Any, more: Array) -> Any:
    """The sum of `first` and of `more` (T, ...), one after another."""
    return reduce(np.add, more, first)
