"""Kaplan's law: loss of N parameters on D tokens without a floor."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from isoflop.scaling.laws.cost import SIX_ND, Cost
from isoflop.scaling.laws.law import AMPLITUDE, Allocation, Array, Box, Law, Paper, Preset, balanced, outer_sum

PAPER = Paper(
    "kaplan2020scaling",
    "Kaplan, Jared and McCandlish, Sam and Henighan, Tom and others",
    "Scaling Laws for Neural Language Models",
    2020,
    "2001.08361",
)


FARTHEST = 650.0  # of ln N_c and ln D_c in internal units: further out no number holds them
LARGE = 600.0  # of the logarithm of a term: beyond it its exponential is taken of what it is short of the larger term


@dataclass(frozen=True)
class Kaplan(Law):
    """L(N, D) = [(N_c/N)^(alpha_N/alpha_D) + D_c/D]^alpha_D  (Kaplan et al. 2020, eq. 1.5)

    Its internal coordinates are log_L_N and log_L_D in place of N_c and D_c: ln of the loss that each term alone would
    give at the geometric means of the data. N_c and D_c themselves lie far outside any data.
    """

    N_c: float
    D_c: float
    alpha_N: float
    alpha_D: float

    name: ClassVar[str] = "kaplan"
    formula: ClassVar[str] = "L = [(N_c/N)^(alpha_N/alpha_D) + D_c/D]^alpha_D"
    paper: ClassVar[Paper | None] = PAPER
    source: ClassVar[str] = PAPER.cite("eq. 1.5")
    caution: ClassVar[str] = (
        "It has no floor: near one its exponents come out too small, and far beyond the data the loss goes to 0."
    )
    typical: ClassVar[tuple[float, ...]] = (6.4e13, 1.8e13, 0.076, 0.103)
    rank: ClassVar[int] = 20
    presets: ClassVar[dict[str, Preset]] = {"kaplan": Preset(roles=("choose",))}
    scales: ClassVar[tuple[str, ...]] = ("N", "D")
    amplitudes: ClassVar[tuple[str, ...]] = ("N_c", "D_c")
    pair: ClassVar[tuple[str, str] | None] = ("alpha_N", "alpha_D")
    coupled: ClassVar[dict[str, str]] = {"N_c": "alpha_N", "D_c": "alpha_D"}
    box: ClassVar[dict[str, Box]] = {
        "N_c": AMPLITUDE,
        "D_c": AMPLITUDE,
        "alpha_N": Box(0.002, 3.0, grid=tuple(np.geomspace(0.01, 1.0, 24).tolist())),
        "alpha_D": Box(0.002, 3.0, grid=tuple(np.geomspace(0.01, 1.0, 24).tolist())),
    }

    def __call__(self, N: Any, D: Any) -> Any:
        n_log = self.alpha_N / self.alpha_D * np.log(self.N_c / N)
        high = np.where(n_log > LARGE, n_log, 0.0)
        inner = np.exp(n_log - high) + self.D_c / D * np.exp(-high)
        return np.power(inner, self.alpha_D) * np.exp(self.alpha_D * high)

    @classmethod
    def encode(cls, values: Array) -> Array:
        """N_c and D_c to log_L_N = alpha_N ln N_c and log_L_D = alpha_D ln D_c."""
        theta = np.array(values, dtype=float)
        theta[..., :2] = theta[..., 2:] * np.log(np.maximum(theta[..., :2], 1e-300))
        return theta

    @classmethod
    def decode(cls, theta: Array) -> Array:
        """The inverse of `encode`; constants that no number holds end at the largest or the least that one does."""
        values = np.array(theta)
        values[..., :2] = np.exp(np.clip(theta[..., :2] / theta[..., 2:], -FARTHEST, FARTHEST))
        return values

    @classmethod
    def evaluate(cls, theta: Array, x: Mapping[str, Array]) -> tuple[Array, Array]:
        """Loss and analytic derivatives, by the shares of both terms in the inner sum."""
        log_L_N, log_L_D, alpha_N, alpha_D = _held(theta).T[..., None]
        n_log, d_log = (log_L_N - alpha_N * x["N"]) / alpha_D, log_L_D / alpha_D - x["D"]
        larger = np.maximum(n_log, d_log)
        high = np.where(np.abs(larger) > LARGE, larger, 0.0)
        n_part, d_part = np.exp(n_log - high), np.exp(d_log - high)
        inner = n_part + d_part
        log_inner = np.log(inner) + high
        loss = np.exp(alpha_D * log_inner)
        n_share, d_share = loss * n_part / inner, loss * d_part / inner
        by_alpha_d = loss * log_inner - n_share * n_log - d_share * (d_log + x["D"])
        return loss, np.stack([n_share, d_share, -x["N"] * n_share, by_alpha_d], axis=1)

    @classmethod
    def curvature(cls, theta: Array, x: Mapping[str, Array], jacobian: Array, weight: Array) -> Array:
        """ln L has the second derivative alpha_D p q u u', p and q being the shares of both terms in the inner sum."""
        log_L_N, log_L_D, alpha_N, alpha_D = _held(theta).T[..., None]
        loss = jacobian[:, 0] + jacobian[:, 1]
        apart = np.empty_like(jacobian)  # alpha_D u, the derivative of alpha_D times the log ratio of the terms
        apart[:, 0], apart[:, 1], apart[:, 2] = 1.0, -1.0, -x["N"]
        apart[:, 3] = (log_L_D - log_L_N + alpha_N * x["N"]) / alpha_D
        shares = jacobian[:, 0] * jacobian[:, 1] / (loss * alpha_D)
        return outer_sum(weight / loss, jacobian) + outer_sum(weight * shares, apart)

    def rescaled(self, units: Mapping[str, float]) -> Self:
        """N_c and D_c are divided by the units of N and D."""
        return type(self)(self.N_c / units.get("N", 1.0), self.D_c / units.get("D", 1.0), self.alpha_N, self.alpha_D)

    @classmethod
    def linearise(cls, shape: Mapping[str, Array], x: Mapping[str, Array], loss: Array) -> tuple[Array, Array, Array]:
        """(L / mean L)^(1 / alpha_D) is linear in N_c^(alpha_N / alpha_D) and D_c."""
        alpha_N, alpha_D = shape["alpha_N"], shape["alpha_D"]
        target = np.exp(np.log(loss / loss.mean()) / alpha_D)
        basis = np.stack([np.exp(-alpha_N / alpha_D * x["N"]), np.exp(0.0 * alpha_D - x["D"])], axis=1)
        return basis, target, alpha_D / target

    @classmethod
    def from_linear(cls, values: Array, loss: Array) -> Array:
        """Linear coefficients of (loss / mean loss)^(1/alpha_D) to N_c and D_c."""
        ratio = values[:, 3] / values[:, 2]
        mean = loss.mean()
        values[:, 0] = np.power(values[:, 0], ratio) * np.power(mean, 1.0 / values[:, 2])
        values[:, 1] *= np.power(mean, 1.0 / values[:, 3])
        return values

    def optimal(self, C: Any, cost: Cost = SIX_ND) -> Allocation:
        """Where (alpha_N / alpha_D) (N_c / N)^(alpha_N / alpha_D) = (d ln C / d ln N) D_c / D."""
        inner = self.alpha_N / self.alpha_D
        with np.errstate(divide="ignore"):  # an exponent of size at 0: no size pays
            log_ratio = np.log(inner) + inner * np.log(self.N_c) - np.log(self.D_c)
        return balanced(self, log_ratio, inner, 1.0, C, cost)

    def exponents(self, cost: Cost = SIX_ND) -> dict[str, float]:
        """Those of Chinchilla's law with exponents alpha_N / alpha_D and 1 inside a power kappa = alpha_D."""
        a = self.alpha_D / (self.alpha_N + (1.0 + cost.slope) * self.alpha_D)
        return {"a": a, "b": 1.0 - (1.0 + cost.slope) * a, "frontier": self.alpha_N * a}


def _held(theta: Array) -> Array:
    """Coordinates (..., 4) with log_L_N and log_L_D as `decode` can tell them."""
    farthest = FARTHEST * theta[..., 2:]
    return np.concatenate([np.clip(theta[..., :2], -farthest, farthest), theta[..., 2:]], axis=-1)
