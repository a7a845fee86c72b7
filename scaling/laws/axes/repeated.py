"""A law of N, D and unique tokens U that bends back: repeats teach less and less, and too many harm."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from isoflop.scaling.laws.cost import SIX_ND, Cost
from isoflop.scaling.laws.law import AMPLITUDE, EXPONENT, FLOOR, Allocation, Array, Box, Law, Paper, Preset

PAPER = Paper(
    "lovelace2026prescriptive",
    "Lovelace, Justin and Belardi, Christian and Kundurthy, Srivatsa and others",
    "Prescriptive Scaling Laws for Data Constrained Training",
    2026,
    "2605.01640",
)
ONCE = 1.0001  # epochs up to which no token is seen twice
SHAPES = {
    "alpha": (0.15, 0.3, 0.5, 0.8),
    "beta": (0.15, 0.3, 0.5, 0.8),
    "g": (0.1, 0.4, 1.0),
    "d": (0.2, 0.6, 1.2),
    "r": (0.3, 0.7, 1.2),
}


@dataclass(frozen=True)
class Repeated(Law):
    """L(N, D, U) = E + (ceiling - E) h / (1 + h), h = A N^-alpha + B D^-beta + C N^g U^-d (D/U - 1)^r

    The last term is over-fitting: it grows with the epochs D / U and with the size, and is 0 for one epoch. The loss
    never leaves [E, ceiling]; the ceiling is ln of the table's vocab_size where it has one. r is 1 unless a fit frees
    it, as "repeated-r" does: runs of few epochs leave it open, and so every forecast of many. "repeated-tied" has one
    exponent of size and of tokens, alpha = beta.
    """

    E: float
    A: float
    B: float
    C: float
    alpha: float
    beta: float
    g: float
    d: float
    ceiling: float
    r: float = 1.0

    name: ClassVar[str] = "repeated"
    formula: ClassVar[str] = "L = E + (ceiling - E) h/(1 + h), h = A N^-alpha + B D^-beta + C N^g U^-d (D/U - 1)^r"
    paper: ClassVar[Paper | None] = PAPER
    source: ClassVar[str] = PAPER.cite("its over-fitting term, with the bounds of arXiv 2605.09189")
    caution: ClassVar[str] = "Beyond the epochs that the table holds, and where no run repeats its data often."
    typical: ClassVar[tuple[float, ...]] = (1.5, 60.0, 200.0, 0.002, 0.35, 0.37, 0.3, 0.4, 10.8, 1.2)
    rank: ClassVar[int] = 210
    presets: ClassVar[dict[str, Preset]] = {
        "repeated": Preset(),
        "repeated-r": Preset(free=("r",)),
        "repeated-tied": Preset(tied=True),
    }
    floor_name: ClassVar[str | None] = "E"
    ceiling_name: ClassVar[str | None] = "ceiling"
    inputs: ClassVar[tuple[str, ...]] = ("N", "D", "U")
    scales: ClassVar[tuple[str, ...]] = ("N", "D")
    ties: ClassVar[tuple[str, str] | None] = ("alpha", "beta")
    amplitudes: ClassVar[tuple[str, ...]] = ("A", "B", "C")
    box: ClassVar[dict[str, Box]] = {
        "E": FLOOR,
        "A": AMPLITUDE,
        "B": AMPLITUDE,
        "C": Box(1e-12, 1e4, log=True),
        "alpha": EXPONENT,
        "beta": EXPONENT,
        "g": Box(0.0, 3.0),
        "d": Box(0.0, 3.0),
        "ceiling": Box(0.1, 100.0),
        "r": Box(0.05, 3.0),
    }

    def __call__(self, N: Any, D: Any, U: Any) -> Any:
        twice = np.real(D) > ONCE * np.real(U)
        again = np.where(twice, np.where(twice, D, 2.0 * U) / U - 1.0, 1.0)
        over = self.C * np.power(N, self.g) * np.power(U, -self.d) * np.power(again, self.r)
        h = self.A * np.power(N, -self.alpha) + self.B * np.power(D, -self.beta) + np.where(twice, over, 0.0)
        return self.E + (self.ceiling - self.E) * h / (1.0 + h)

    @classmethod
    def evaluate(cls, theta: Array, x: Mapping[str, Array]) -> tuple[Array, Array]:
        """Loss and analytic derivatives."""
        E, log_A, log_B, log_C, alpha, beta, g, d, ceiling, r = theta.T[..., None]
        size, seen, unique = x["N"], x["D"], x["U"]
        ratio = np.exp(seen - unique) - 1.0
        log_again = np.where(ratio > ONCE - 1.0, np.log(np.maximum(ratio, ONCE - 1.0)), 0.0)
        a, b = np.exp(log_A - alpha * size), np.exp(log_B - beta * seen)
        c = np.where(ratio > ONCE - 1.0, np.exp(log_C + g * size - d * unique + r * log_again), 0.0)
        h = a + b + c
        share, slope = h / (1.0 + h), (ceiling - E) / (1.0 + h) ** 2
        jacobian = [
            1.0 - share, slope * a, slope * b, slope * c, -slope * a * size, -slope * b * seen, slope * c * size,
            -slope * c * unique, share, slope * c * log_again,
        ]  # fmt: skip
        return E + (ceiling - E) * share, np.stack(jacobian, axis=1)

    def rescaled(self, units: Mapping[str, float]) -> Self:
        """A takes the factor unit^-alpha, B unit^-beta, C both of its powers; U must be counted in the unit of D."""
        n, d = units.get("N", 1.0), units.get("D", 1.0)
        A, B = self.A * np.power(n, -self.alpha), self.B * np.power(d, -self.beta)
        C = self.C * np.power(n, self.g) * np.power(d, -self.d)
        return type(self)(
            self.E, A, B, C, self.alpha, self.beta, self.g, self.d, self.ceiling, self.r
        )  # fmt: skip

    @classmethod
    def shapes(cls, x: Mapping[str, Array], loss: Array) -> dict[str, tuple[float, ...]]:
        """Grids of the exponents, of E and of a ceiling that the table does not give."""
        floors = tuple(float(share * loss.min()) for share in (0.2, 0.6, 0.9))
        return SHAPES | {"E": floors, "ceiling": (float(1.2 * loss.max()), float(3 * loss.max()))}

    @classmethod
    def linearise(cls, shape: Mapping[str, Array], x: Mapping[str, Array], loss: Array) -> tuple[Array, Array, Array]:
        """(L - E) / (ceiling - L) = h, linear in A, B and C."""
        ratio = np.exp(x["D"] - x["U"]) - 1.0
        again = np.where(ratio > ONCE - 1.0, np.power(np.maximum(ratio, 1e-12), shape["r"]), 0.0)
        one = np.ones_like(again)
        size, data = np.exp(-shape["alpha"] * x["N"]) * one, np.exp(-shape["beta"] * x["D"]) * one
        over = np.exp(shape["g"] * x["N"] - shape["d"] * x["U"]) * again
        basis = np.stack([size, data, over], axis=1)
        room = np.maximum(shape["ceiling"] - loss, 1e-3 * loss)
        excess = np.maximum(loss - shape["E"], 0.0)
        return basis, excess / room, room**2 / (shape["ceiling"] - shape["E"]) / loss

    def optimal(self, C: Any, cost: Cost = SIX_ND, *, unique_tokens: Any = np.inf) -> Allocation:
        """Numerical; `unique_tokens` is the U available, by default enough never to repeat."""
        C = np.asarray(C, dtype=float)
        return self.search(C, cost, lambda N, D: self(N, D, np.where(np.real(D) < unique_tokens, D, unique_tokens)))
