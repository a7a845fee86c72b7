"""Studies of one design as the tests of departures see them: residuals of the law linearised at the truth.

A fit moves the law by little, so that its residuals are the errors less their projection on the law's derivatives. That
takes a hundredth of a fit, and shares of thousands of studies.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property

import numpy as np
from scipy.stats import norm

from isoflop.scaling.findings.departures import LEVEL, Departure, Tested, _test, departures
from isoflop.scaling.findings.finding import Case
from isoflop.scaling.fitting.fit import fit
from isoflop.scaling.fitting.noise_model import clipped, noise_model, orthonormal
from isoflop.scaling.laws.law import Array
from tests.support.fits.simulated_studies import Design, Noise, outside_the_stack


class LinearStudies:
    """Studies of a design whose law is `TRUTH`, and the shifts of ln loss by which faults of 1% noise show."""

    def __init__(self, design: Design) -> None:
        self.design = design
        self.table = replace(design, noise=Noise(1e-5)).study(np.random.default_rng(0))
        self.fit = fit("chinchilla", self.table)
        found = departures(Case(self.fit, None, None, None, 0.9))
        self.columns, self.label = found.design, found.noise.label
        self.known: list[Departure] = [one.departure for one in found.tested]
        self.free = len(self.fit.free)
        self.basis, _ = orthonormal(self.columns[:, : self.free])
        self.log_n = np.log(self.table["n_params"].to_numpy(float))

    @cached_property
    def faults(self) -> dict[str, Array]:
        """The shift (n,) of ln loss under each fault."""
        sizes = self.table["n_params"].to_numpy(float)
        shift = np.zeros(len(sizes))
        for size, excess in zip(np.unique(sizes), (0.03, 0.02, 0.01), strict=False):
            shift[sizes == size] = np.log1p(excess)
        largest = self.table["budget"] == self.table["budget"].max()
        return {
            "three smallest sizes mistuned by 3, 2, 1%": shift,
            "largest budget 1% low": np.where(largest, np.log(0.99), 0.0),
            "bent law": self._bent(),
        }

    def _bent(self) -> Array:
        """How the law outside the catalogue departs from Chinchilla's at the same places around its optimum."""
        bent = replace(self.design, noise=Noise(0), largest=1e12).study(np.random.default_rng(0), outside_the_stack)
        assert len(bent) == len(self.table)
        return fit("chinchilla", bent).residuals

    def without_law(self, errors: Array) -> Array:
        """Errors (n,) less what the law takes up of them."""
        return errors - self.basis @ (self.basis.T @ errors)

    def test(self, errors: Array) -> tuple[Tested, ...]:
        """The tests of a study with these errors of ln loss (n,)."""
        even = np.ones(len(errors))
        residual = clipped(self.without_law(errors), even, self.free)
        model = noise_model(residual, self.columns, self.log_n, even, self.label)
        return _test(self.known, self.columns, clipped(residual, model.sd, self.free), model, self.free)[0]

    def named(self, noise: Noise, shift: Array | float, studies: range) -> Iterator[str]:
        """Of each study the departures that are named, their names joined."""
        for study in studies:
            errors = noise.errors(self.table, np.random.default_rng([study, 5])) + shift
            yield ", ".join(one.departure.name for one in self.test(errors) if one.p < LEVEL)

    def bound(self, shift: Array, sd: float, level: float) -> float:
        """The power that no test of a level exceeds, though it knows the fault and the noise (Neyman and Pearson)."""
        return float(norm.cdf(np.linalg.norm(self.without_law(shift)) / sd - norm.isf(level)))
