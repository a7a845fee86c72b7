"""A law of size, tokens and the parameters of the vocabulary."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from isoflop.scaling.laws.inputs import Column
from isoflop.scaling.laws.law import AMPLITUDE, COARSE, EXPONENT, Array, Box, Law, Paper, power_term_curvature

PAPER = Paper(
    "tao2024scaling",
    "Tao, Chaofan and Liu, Qian and Dou, Longxu and others",
    "Scaling Laws with Vocabulary: Larger Models Deserve Larger Vocabularies",
    2024,
    "2407.13623",
)


@dataclass(frozen=True)
class Vocabulary(Law):
    """L(N, V, D) = E + A N^-alpha + G V^-g + B D^-beta  (Tao et al. 2024, eq. 6)

    V are the parameters of the vocabulary, N all others (`--params no-embedding`). Losses of different vocabularies are
    comparable only in nats a byte, or less the loss of a unigram model, which may be negative: so may E.
    """

    E: float
    A: float
    G: float
    B: float
    alpha: float
    g: float
    beta: float

    name: ClassVar[str] = "vocabulary"
    formula: ClassVar[str] = "L = E + A N^-alpha + G V^-g + B D^-beta"
    paper: ClassVar[Paper | None] = PAPER
    source: ClassVar[str] = PAPER.cite("eq. 6")
    caution: ClassVar[str] = "On losses per token of different vocabularies, which are not one quantity."
    typical: ClassVar[tuple[float, ...]] = (0.3, 150.0, 40.0, 1500.0, 0.35, 0.4, 0.36)
    rank: ClassVar[int] = 230
    floor_name: ClassVar[str | None] = "E"
    inputs: ClassVar[tuple[str, ...]] = ("N", "V", "D")
    columns: ClassVar[Mapping[str, Column | str]] = {
        "V": Column("n_params_embedding", "parameters", usual=(1.0, 1e12), typical=3e7)
    }
    scales: ClassVar[tuple[str, ...]] = ("N", "V", "D")
    amplitudes: ClassVar[tuple[str, ...]] = ("E", "A", "G", "B")
    box: ClassVar[dict[str, Box]] = {
        "E": Box(-100.0, 1e3), "A": AMPLITUDE, "G": AMPLITUDE, "B": AMPLITUDE, "alpha": EXPONENT, "g": EXPONENT,
        "beta": EXPONENT,
    }  # fmt: skip

    def __call__(self, N: Any, V: Any, D: Any) -> Any:
        terms = self.A * np.power(N, -self.alpha) + self.G * np.power(V, -self.g) + self.B * np.power(D, -self.beta)
        return self.E + terms

    @classmethod
    def evaluate(cls, theta: Array, x: Mapping[str, Array]) -> tuple[Array, Array]:
        """Loss and analytic derivatives."""
        jacobian = np.empty((*theta.shape, x["N"].shape[-1]))
        jacobian[:, 0] = 1.0
        for k, column in enumerate(("N", "V", "D")):
            amplitude, exponent = theta[:, 1 + k, None], theta[:, 4 + k, None]
            jacobian[:, 1 + k] = np.exp(amplitude - exponent * x[column])
            jacobian[:, 4 + k] = -x[column] * jacobian[:, 1 + k]
        return theta[:, :1] + jacobian[:, 1:4].sum(axis=1), jacobian

    @classmethod
    def curvature(cls, theta: Array, x: Mapping[str, Array], jacobian: Array, weight: Array) -> Array:
        """Each power term differentiates into itself."""
        second = np.zeros((len(theta), 7, 7))
        for k, column in enumerate(("N", "V", "D")):
            second[:, 1 + k :: 3, 1 + k :: 3][:, :2, :2] = power_term_curvature(weight * jacobian[:, 1 + k], x[column])
        return second

    def rescaled(self, units: Mapping[str, float]) -> Self:
        """Each amplitude takes the factor unit^-exponent of its column."""
        A, G, B = (
            amplitude * np.power(units.get(k, 1.0), -exponent)
            for k, amplitude, exponent in (("N", self.A, self.alpha), ("V", self.G, self.g), ("D", self.B, self.beta))
        )
        return type(self)(self.E, A, G, B, self.alpha, self.g, self.beta)

    @classmethod
    def shapes(cls, x: Mapping[str, Array], loss: Array) -> dict[str, tuple[float, ...]]:
        """Grids of the three exponents."""
        return dict.fromkeys(("alpha", "g", "beta"), COARSE[::2])

    @classmethod
    def linearise(cls, shape: Mapping[str, Array], x: Mapping[str, Array], loss: Array) -> tuple[Array, Array, Array]:
        """The sum, linear in E, A, G and B."""
        terms = [np.exp(-shape[e] * x[k]) for e, k in (("alpha", "N"), ("g", "V"), ("beta", "D"))]
        one = np.ones(np.broadcast_shapes(*(t.shape for t in terms)))
        return np.stack([one, *(t * one for t in terms)], axis=1), loss, 1.0 / loss
