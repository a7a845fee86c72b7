"""A law of size, tokens and the bits of weights and activations in training."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from isoflop.scaling.laws.inputs import Column
from isoflop.scaling.laws.law import AMPLITUDE, COARSE, EXPONENT, FLOOR, Array, Box, Law
from isoflop.scaling.laws.paper import Paper

PAPER = Paper(
    "kumar2024scaling",
    "Kumar, Tanishq and Ankner, Zachary and Spector, Benjamin F. and others",
    "Scaling Laws for Precision",
    2024,
    "2411.04330",
)
BITS = Box(0.05, 20.0, log=True, grid=(0.7, 2.0, 5.0))


@dataclass(frozen=True)
class Precision(Law):
    """L(N, D, P, Q) = E + A M^-alpha + B D^-beta, M = N (1 - e^(-P/G_w)) (1 - e^(-Q/G_a))  (Kumar et al. 2024, eq. 3)

    P are the bits of the weights, Q those of the activations, in training. Fewer bits count as fewer parameters.
    """

    E: float
    A: float
    B: float
    alpha: float
    beta: float
    G_w: float
    G_a: float

    name: ClassVar[str] = "precision"
    formula: ClassVar[str] = "L = E + A M^-alpha + B D^-beta, M = N(1 - e^(-P/G_w))(1 - e^(-Q/G_a))"
    paper: ClassVar[Paper | None] = PAPER
    source: ClassVar[str] = PAPER.cite("eq. 3, weights and activations")
    caution: ClassVar[str] = "Where no run has few bits: G_w and G_a are then not identified."
    typical: ClassVar[tuple[float, ...]] = (1.9, 520.0, 1490.0, 0.35, 0.36, 2.67, 2.21)
    rank: ClassVar[int] = 220
    floor_name: ClassVar[str | None] = "E"
    inputs: ClassVar[tuple[str, ...]] = ("N", "D", "P", "Q")
    columns: ClassVar[Mapping[str, Column | str]] = {
        "P": Column("weight_bits", "bits", usual=(1.0, 64.0), typical=8.0),
        "Q": Column("activation_bits", "bits", usual=(1.0, 64.0), typical=8.0),
    }
    scales: ClassVar[tuple[str, ...]] = ("N", "D")
    amplitudes: ClassVar[tuple[str, ...]] = ("E", "A", "B")
    ties: ClassVar[tuple[str, str] | None] = ("alpha", "beta")
    box: ClassVar[dict[str, Box]] = {
        "E": FLOOR, "A": AMPLITUDE, "B": AMPLITUDE, "alpha": EXPONENT, "beta": EXPONENT, "G_w": BITS, "G_a": BITS,
    }  # fmt: skip

    def __call__(self, N: Any, D: Any, P: Any, Q: Any) -> Any:
        M = N * (1.0 - np.exp(-P / self.G_w)) * (1.0 - np.exp(-Q / self.G_a))
        return self.E + self.A * np.power(M, -self.alpha) + self.B * np.power(D, -self.beta)

    def rescaled(self, units: Mapping[str, float]) -> Self:
        """A takes the factor unit^-alpha, B unit^-beta."""
        A = self.A * np.power(units.get("N", 1.0), -self.alpha)
        B = self.B * np.power(units.get("D", 1.0), -self.beta)
        return type(self)(self.E, A, B, self.alpha, self.beta, self.G_w, self.G_a)

    @classmethod
    def shapes(cls, x: Mapping[str, Array], loss: Array) -> dict[str, tuple[float, ...]]:
        """Grids of both exponents and of both scales of bits."""
        return {"alpha": COARSE, "beta": COARSE, "G_w": BITS.grid, "G_a": BITS.grid}

    @classmethod
    def linearise(cls, shape: Mapping[str, Array], x: Mapping[str, Array], loss: Array) -> tuple[Array, Array, Array]:
        """L = E + A M^-alpha + B D^-beta, linear in E, A and B."""
        kept = (1.0 - np.exp(-np.exp(x["P"]) / shape["G_w"])) * (1.0 - np.exp(-np.exp(x["Q"]) / shape["G_a"]))
        size = np.exp(-shape["alpha"] * (x["N"] + np.log(kept)))
        data = np.exp(-shape["beta"] * x["D"]) * np.ones_like(size)
        return np.stack([np.ones_like(size), size, data], axis=1), loss, 1.0 / loss
