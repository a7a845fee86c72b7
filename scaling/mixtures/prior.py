"""What is known of a law of mixtures before any run, and the law that is likeliest given it and the runs.

With few runs, or a loss that hardly bends, exponents run to the ends of their box, and with them the best mixture.
Exponents of effective data in published fits lie between .1 and 1.5 (Ye et al. 2024, Shukor et al. 2025).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from isoflop.scaling.fitting.objective import huber
from isoflop.scaling.fitting.problem import FitProblem
from isoflop.scaling.fitting.solver.minimise import minimise
from isoflop.scaling.laws.law import Array
from isoflop.scaling.laws.mixtures.means import PIVOT, MixtureLaw

EXPONENT, EXPONENT_WIDTH = 0.5, 0.5  # its middle, and the standard deviation of its logarithm
FLOOR, FLOOR_WIDTH = 0.7, 0.25  # of E over the lowest loss
ALONE, ALONE_WIDTH = 0.5, 1.0  # of an excess loss: its middle over the lowest loss, and that of its logarithm
HUBER = 1.345  # standard deviations: 95% efficient where the noise is normal
ENOUGH, MOST_STEPS = 1e-8, 100


@dataclass(frozen=True)
class Prior:
    """Independent normals over the coordinates of a law, each with its `middle` and `width` (P,)."""

    middle: Array
    width: Array

    @classmethod
    def of(cls, form: type[MixtureLaw], lowest: float, scale: Mapping[str, float]) -> "Prior":
        """The prior of a form for runs whose lowest loss is `lowest`; `scale` has their mean ln N and ln D.

        Excess losses are stated at the PIVOT of N and D: they are as wide there as the exponent makes them.
        """
        middle = np.full(len(form.parameters()), np.log(ALONE * lowest))
        width = np.full(len(middle), ALONE_WIDTH)
        middle[0], width[0] = FLOOR * lowest, FLOOR_WIDTH * lowest
        for term, a, v in form.places():
            if a is not None:
                middle[a], width[a] = np.log(EXPONENT), EXPONENT_WIDTH
            if term.of:
                away = EXPONENT * (scale[term.of] - np.log(PIVOT[term.of]))
                middle[v] += away
                width[v] = np.hypot(ALONE_WIDTH, EXPONENT_WIDTH * away)
        return cls(middle, width)


@dataclass(frozen=True)
class Posterior:
    """Minus the logarithm of the posterior times the variance of the `noise` of ln loss, as the solver's problem.

    The rows of `problem`, with `weights` (n,), are followed by one for every coordinate: how far it is from the prior.
    """

    problem: FitProblem
    prior: Prior
    weights: Array
    noise: float

    @property
    def lower(self) -> Array:
        """The lower ends of the box."""
        return self.problem.lower

    @property
    def upper(self) -> Array:
        """The upper ends of the box."""
        return self.problem.upper

    @property
    def one_basin(self) -> bool:
        """As the law says."""
        return self.problem.one_basin

    @property
    def log(self) -> bool:
        """Residuals are of ln loss."""
        return self.problem.log

    def residuals(self, theta: Array) -> tuple[Array, Array, Array]:
        """Residuals (B, n + P) and their gradients, those of the prior in its standard deviations times the noise."""
        residual, gradient, full = self.problem.residuals(theta)
        unit = self.noise / self.prior.width
        own = np.broadcast_to(np.diag(unit), (len(theta), len(unit), len(unit)))
        both = np.concatenate([gradient, own], axis=2)
        return np.hstack([residual, (theta - self.prior.middle) * unit]), both, np.concatenate([full, own], axis=2)

    def curvature(self, theta: Array, full: Array, weight: Array) -> Array:
        """The second derivatives of the rows; the prior's are linear."""
        rows = len(self.weights)
        return self.problem.curvature(theta, full[:, :, :rows], weight[:, :rows])

    def value(self, theta: Array) -> Array:
        """What `highest` minimises (B,) at theta (B, P)."""
        weights = np.concatenate([self.weights, np.ones(theta.shape[1])])
        return huber(self.residuals(theta)[0], weights[None], self._deltas(theta.shape[1]))

    def highest(self, begin: Array, counts: Array) -> Array:
        """The coordinates (B, P) of the highest posterior from each row of `begin`, rows counted so often (B, n)."""
        weights = np.hstack([counts * self.weights, np.ones((len(begin), begin.shape[1]))])
        return minimise(self, begin, delta=self._deltas(begin.shape[1]), weights=weights, tolerance=ENOUGH,
                        max_steps=MOST_STEPS).theta  # fmt: skip

    def _deltas(self, coordinates: int) -> Array:
        return np.concatenate([np.full(len(self.weights), HUBER * self.noise), np.full(coordinates, np.inf)])
