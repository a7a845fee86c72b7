"""A law of N and D that is bounded above by the loss of a model that knows nothing."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from isoflop.scaling.laws.cost import SIX_ND, Cost
from isoflop.scaling.laws.law import (
    AMPLITUDE,
    COARSE,
    EXPONENT,
    FLOOR,
    Allocation,
    Array,
    Box,
    Law,
    Paper,
    Preset,
    balanced,
    outer_sum,
    power_term_curvature,
)

PAPER = Paper(
    "alabdulmohsin2022revisiting",
    "Alabdulmohsin, Ibrahim and Neyshabur, Behnam and Zhai, Xiaohua",
    "Revisiting Neural Scaling Laws in Language and Vision",
    2022,
    "2209.06640",
)


@dataclass(frozen=True)
class Saturating(Law):
    """L(N, D) = E + S H / (S + H), S = A N^-alpha + B D^-beta, H = ceiling - E  (Alabdulmohsin et al. 2022, a = 1)

    The excess S of a power law, bounded so that no model is worse than `ceiling`: ln of the vocabulary, the loss of a
    model that knows nothing. Tiny models need it. A fit takes it from the table's vocab_size, else leaves it free.
    """

    E: float
    A: float
    B: float
    alpha: float
    beta: float
    ceiling: float

    name: ClassVar[str] = "saturating"
    formula: ClassVar[str] = "L = E + 1 / (1/(A N^-alpha + B D^-beta) + 1/(ceiling - E))"
    paper: ClassVar[Paper | None] = PAPER
    source: ClassVar[str] = PAPER.cite("M4 with a = 1, in N and D")
    caution: ClassVar[str] = "Without runs near the loss of a uniform guess the ceiling is not identified."
    typical: ClassVar[tuple[float, ...]] = (1.8, 480.0, 2100.0, 0.35, 0.37, 10.8)
    rank: ClassVar[int] = 30
    presets: ClassVar[dict[str, Preset]] = {"saturating": Preset(roles=("choose",))}
    floor_name: ClassVar[str | None] = "E"
    ceiling_name: ClassVar[str | None] = "ceiling"
    usual: ClassVar[dict[str, tuple[float, float]]] = Law.usual | {"alpha": (0.15, 0.9), "beta": (0.15, 0.9)}
    scales: ClassVar[tuple[str, ...]] = ("N", "D")
    ties: ClassVar[tuple[str, str] | None] = ("alpha", "beta")
    amplitudes: ClassVar[tuple[str, ...]] = ("A", "B")
    box: ClassVar[dict[str, Box]] = {
        "E": FLOOR,
        "A": AMPLITUDE,
        "B": AMPLITUDE,
        "alpha": EXPONENT,
        "beta": EXPONENT,
        "ceiling": Box(0.1, 100.0),
    }

    def __call__(self, N: Any, D: Any) -> Any:
        excess = self.A * np.power(N, -self.alpha) + self.B * np.power(D, -self.beta)
        with np.errstate(divide="ignore"):  # no excess, or no room for any: E
            return self.E + 1.0 / (np.divide(1.0, excess) + np.divide(1.0, self.ceiling - self.E))

    @classmethod
    def evaluate(cls, theta: Array, x: Mapping[str, Array]) -> tuple[Array, Array]:
        """Loss and analytic derivatives: excess times room over their sum, room = ceiling - E."""
        E, log_A, log_B, alpha, beta, ceiling = theta.T[..., None]
        n_term, d_term = np.exp(log_A - alpha * x["N"]), np.exp(log_B - beta * x["D"])
        excess, room = n_term + d_term, ceiling - E
        by_excess, by_room = np.square(room / (excess + room)), np.square(excess / (excess + room))
        n_part, d_part = by_excess * n_term, by_excess * d_term
        jacobian = np.stack([1.0 - by_room, n_part, d_part, -x["N"] * n_part, -x["D"] * d_part, by_room], axis=1)
        return E + excess * room / (excess + room), jacobian

    @classmethod
    def curvature(cls, theta: Array, x: Mapping[str, Array], jacobian: Array, weight: Array) -> Array:
        """By t = excess / (excess + room): the derivatives in excess and room are (1 - t)^2 and t^2."""
        second = np.zeros((len(theta), 6, 6))
        room = (theta[:, 5] - theta[:, 0])[:, None]
        scale = jacobian[:, 0] + jacobian[:, 5]  # what the Jacobian is multiplied by
        t = np.sqrt(jacobian[:, 5] / scale)
        inner = jacobian[:, 1:5]
        second[:, 1:5, 1:5] = outer_sum(-2.0 * weight / (scale * room * (1.0 - t)), inner)
        second[:, 1:5:2, 1:5:2] += power_term_curvature(weight * inner[:, 0], x["N"])
        second[:, 2:5:2, 2:5:2] += power_term_curvature(weight * inner[:, 1], x["D"])
        mixed = (inner @ (2.0 * weight * t / room)[..., None])[..., 0]
        second[:, 5, 1:5] = second[:, 1:5, 5] = mixed
        second[:, 0, 1:5] = second[:, 1:5, 0] = -mixed
        by_room = -2.0 * np.sum(weight * scale * t**2 * (1.0 - t) / room, axis=-1)
        second[:, 0, 0] = second[:, 5, 5] = by_room
        second[:, 0, 5] = second[:, 5, 0] = -by_room
        return second

    def rescaled(self, units: Mapping[str, float]) -> Self:
        """A takes the factor unit^-alpha, B unit^-beta."""
        A = self.A * np.power(units.get("N", 1.0), -self.alpha)
        B = self.B * np.power(units.get("D", 1.0), -self.beta)
        return type(self)(self.E, A, B, self.alpha, self.beta, self.ceiling)

    @classmethod
    def shapes(cls, x: Mapping[str, Array], loss: Array) -> dict[str, tuple[float, ...]]:
        """Grids of the floor below the lowest loss, the ceiling above the highest, and both exponents."""
        floors = tuple(float(f * loss.min()) for f in (0.0, 0.4, 0.7, 0.9))
        ceilings = tuple(float(f * loss.max()) for f in (1.03, 1.2, 1.6, 3.0))
        return {"E": floors, "alpha": COARSE, "beta": COARSE, "ceiling": ceilings}

    @classmethod
    def linearise(cls, shape: Mapping[str, Array], x: Mapping[str, Array], loss: Array) -> tuple[Array, Array, Array]:
        """(L - E) (ceiling - E) / (ceiling - L) is the excess, linear in A and B."""
        above, below = np.maximum(loss - shape["E"], 1e-3 * loss), np.maximum(shape["ceiling"] - loss, 1e-3 * loss)
        target = above * (shape["ceiling"] - shape["E"]) / below
        basis = np.stack([np.exp(-shape["alpha"] * x["N"]), np.exp(-shape["beta"] * x["D"])], axis=1)
        return basis, target, np.square(above / target) / loss

    def optimal(self, C: Any, cost: Cost = SIX_ND) -> Allocation:
        """That of the unbounded law, because the loss is increasing in its excess."""
        log_ratio = np.log(self.alpha * self.A / (self.beta * self.B))
        return balanced(self, log_ratio, self.alpha, self.beta, C, cost)

    def exponents(self, cost: Cost = SIX_ND) -> dict[str, float]:
        """Those of the unbounded law; its frontier is no power law."""
        a = self.beta / (self.alpha + (1.0 + cost.slope) * self.beta)
        return {"a": a, "b": 1.0 - (1.0 + cost.slope) * a}
