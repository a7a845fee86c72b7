"""A law of size, tokens and the bits of weights and activations in training."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from isoflop.scaling.laws.inputs import Column
from isoflop.scaling.laws.law import (
    AMPLITUDE,
    COARSE,
    EXPONENT,
    FLOOR,
    Array,
    Box,
    Law,
    Paper,
    outer_sum,
    power_term_curvature,
)

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

    @classmethod
    def evaluate(cls, theta: Array, x: Mapping[str, Array]) -> tuple[Array, Array]:
        """Loss and analytic derivatives."""
        E, log_A, log_B, alpha, beta, log_G_w, log_G_a = theta.T[..., None]
        w, a = np.exp(x["P"] - log_G_w), np.exp(x["Q"] - log_G_a)
        log_M = x["N"] + np.log(-np.expm1(-w)) + np.log(-np.expm1(-a))
        n_term, d_term = np.exp(log_A - alpha * log_M), np.exp(log_B - beta * x["D"])
        jacobian = np.empty((*theta.shape, x["N"].shape[-1]))
        jacobian[:, 0], jacobian[:, 1], jacobian[:, 2] = 1.0, n_term, d_term
        jacobian[:, 3], jacobian[:, 4] = -log_M * n_term, -x["D"] * d_term
        jacobian[:, 5], jacobian[:, 6] = alpha * n_term * lost(w), alpha * n_term * lost(a)
        return E + n_term + d_term, jacobian

    @classmethod
    def curvature(cls, theta: Array, x: Mapping[str, Array], jacobian: Array, weight: Array) -> Array:
        """By u, the derivative of ln (A M^-alpha): that term differentiates into u u' + u' of itself."""
        second = np.zeros((len(theta), 7, 7))
        alpha, log_G_w, log_G_a = theta.T[[3, 5, 6], :, None]
        w, a = np.exp(x["P"] - log_G_w), np.exp(x["Q"] - log_G_a)
        size = weight * jacobian[:, 1]
        log_M = x["N"] + np.log(-np.expm1(-w)) + np.log(-np.expm1(-a))
        u = np.stack([np.ones_like(log_M), -log_M, alpha * lost(w), alpha * lost(a)], axis=1)
        part = outer_sum(size, u)
        for k, bits in ((2, w), (3, a)):
            part[:, 1, k] = part[:, k, 1] = part[:, 1, k] + np.sum(size * lost(bits), axis=-1)
            # d lost / d ln G = lost (w - 1 + lost), where lost = w / (e^w - 1)
            part[:, k, k] += np.sum(size * alpha * lost(bits) * (bits - 1.0 + lost(bits)), axis=-1)
        at = np.array([1, 3, 5, 6])
        second[:, at[:, None], at] = part
        second[:, 2:5:2, 2:5:2] = power_term_curvature(weight * jacobian[:, 2], x["D"])
        return second

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


def lost(bits: Array) -> Array:
    """-d ln (1 - e^-w) / d ln G at w = bits / G: w / (e^w - 1)."""
    return bits * np.exp(-bits) / -np.expm1(-bits)
