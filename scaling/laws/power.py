"""Power laws with a floor of one column: compute C, parameters N or tokens D."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from isoflop.scaling.laws.cost import SIX_ND, Cost
from isoflop.scaling.laws.law import AMPLITUDE, FLOOR, Array, Box, Law, Paper, power_term_curvature

PAPER = Paper(
    "henighan2020scaling",
    "Henighan, Tom and Kaplan, Jared and Katz, Mor and others",
    "Scaling Laws for Autoregressive Generative Modeling",
    2020,
    "2010.14701",
)


@dataclass(frozen=True)
class Power(Law):
    """L(C) = E + K C^-g  (Henighan et al. 2020, eq. 1.1); `PowerN` and `PowerD` read N or D instead."""

    E: float
    K: float
    g: float

    name: ClassVar[str] = "power"
    formula: ClassVar[str] = "L = E + K C^-g"
    paper: ClassVar[Paper | None] = PAPER
    source: ClassVar[str] = PAPER.cite("eq. 1.1")
    caution: ClassVar[str] = (
        "Off the line that the runs lie on: what it does not read must move as it did in the data, or not matter."
    )
    typical: ClassVar[tuple[float, ...]] = (1.7, 160.0, 0.16)
    rank: ClassVar[int] = 60
    floor_name: ClassVar[str | None] = "E"
    inputs: ClassVar[tuple[str, ...]] = ("C",)
    scales: ClassVar[tuple[str, ...]] = ("C",)
    amplitudes: ClassVar[tuple[str, ...]] = ("E", "K")
    box: ClassVar[dict[str, Box]] = {
        "E": FLOOR,
        "K": AMPLITUDE,
        "g": Box(0.002, 3.0, grid=tuple(np.geomspace(0.004, 1.6, 60).tolist())),
    }

    def __call__(self, x: Any) -> Any:
        return self.E + self.K * np.power(x, -self.g)

    @classmethod
    def evaluate(cls, theta: Array, x: Mapping[str, Array]) -> tuple[Array, Array]:
        """Loss and analytic derivatives of E + exp(log_K - g ln x)."""
        (column,) = (x[k] for k in cls.inputs)
        E, log_K, g = theta.T[..., None]
        term = np.exp(log_K - g * column)
        return E + term, np.stack([np.ones_like(term), term, -column * term], axis=1)

    @classmethod
    def curvature(cls, theta: Array, x: Mapping[str, Array], jacobian: Array, weight: Array) -> Array:
        """The power term differentiates into itself."""
        (column,) = (x[k] for k in cls.inputs)
        second = np.zeros((len(theta), 3, 3))
        second[:, 1:, 1:] = power_term_curvature(weight * jacobian[:, 1], column)
        return second

    def rescaled(self, units: Mapping[str, float]) -> Self:
        """K takes the factor unit^-g."""
        (unit,) = (units.get(k, 1.0) for k in self.inputs)
        return type(self)(self.E, self.K * np.power(unit, -self.g), self.g)

    @classmethod
    def linearise(cls, shape: Mapping[str, Array], x: Mapping[str, Array], loss: Array) -> tuple[Array, Array, Array]:
        """L = E + K x^-g, linear in E and K."""
        (column,) = (x[k] for k in cls.inputs)
        term = np.exp(-shape["g"] * column)
        return np.stack([np.ones_like(term), term], axis=1), loss, 1.0 / loss

    def exponents(self, cost: Cost = SIX_ND) -> dict[str, float]:
        """For a law of C, g is the exponent of the frontier; a law of N or D has none."""
        return {"frontier": self.g} if self.inputs == ("C",) else {}


@dataclass(frozen=True)
class PowerN(Power):
    """L(N) = E + K N^-g  (Henighan et al. 2020, eq. 1.1)"""

    name: ClassVar[str] = "power-n"
    formula: ClassVar[str] = "L = E + K N^-g"
    inputs: ClassVar[tuple[str, ...]] = ("N",)
    scales: ClassVar[tuple[str, ...]] = ("N",)


@dataclass(frozen=True)
class PowerD(Power):
    """L(D) = E + K D^-g  (Henighan et al. 2020, eq. 1.1)"""

    name: ClassVar[str] = "power-d"
    formula: ClassVar[str] = "L = E + K D^-g"
    inputs: ClassVar[tuple[str, ...]] = ("D",)
    scales: ClassVar[tuple[str, ...]] = ("D",)
