"""Chinchilla's law, loss of N parameters on D tokens, and its special cases."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from isoflop.printable import loss_text
from isoflop.scaling.laws.cost import SIX_ND, Cost
from isoflop.scaling.laws.law import (
    AMPLITUDE,
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
    "hoffmann2022training",
    "Hoffmann, Jordan and Borgeaud, Sebastian and Mensch, Arthur and others",
    "Training Compute-Optimal Large Language Models",
    2022,
    "2203.15556",
)
KAPPA = Paper(
    "busbridge2025distillation",
    "Busbridge, Dan and Shidani, Amitis and Weers, Floris and others",
    "Distillation Scaling Laws",
    2025,
    "2502.08606",
)


@dataclass(frozen=True)
class Chinchilla(Law):
    """L(N, D) = E + (A N^-alpha + B D^-beta)^kappa  (Hoffmann et al. 2022, eq. 2; kappa: Busbridge et al. 2025)

    kappa stays at 1 unless a fit frees it.
    """

    E: float
    A: float
    B: float
    alpha: float
    beta: float
    kappa: float = 1.0

    name: ClassVar[str] = "chinchilla"
    formula: ClassVar[str] = "L = E + (A N^-alpha + B D^-beta)^kappa"
    paper: ClassVar[Paper | None] = PAPER
    source: ClassVar[str] = PAPER.cite("eq. 2")
    caution: ClassVar[str] = (
        "Where the data exponent depends on the size (kappa away from 1), where one side of the optimum was never "
        "trained, and where every loss lies far above E: E and the exponents then trade off against one another."
    )
    typical: ClassVar[tuple[float, ...]] = (1.8, 480.0, 2100.0, 0.35, 0.37, 0.8)
    rank: ClassVar[int] = 10
    presets: ClassVar[dict[str, Preset]] = {
        "chinchilla": Preset(roles=("choose", "approach 3", "plan")),
        "chinchilla-kappa": Preset(free=("kappa",), roles=("choose", "approach 3", "plan"), paper=KAPPA),
        "chinchilla-tied": Preset(tied=True, roles=("choose", "plan")),
        "chinchilla-no-floor": Preset(fixed={"E": 0.0}, roles=("choose",)),
    }
    floor_name: ClassVar[str | None] = "E"
    usual: ClassVar[dict[str, tuple[float, float]]] = Law.usual | {"alpha": (0.15, 0.9), "beta": (0.15, 0.9)}
    prior_sd: ClassVar[dict[str, float]] = {"E": 1.0, "A": 2.0, "B": 2.0, "alpha": 0.3, "beta": 0.3, "kappa": 0.5}
    open_ended: ClassVar[dict[str, str]] = {
        "kappa": "fix kappa = 1, or add runs so that tokens per parameter span a factor 30"
    }
    scales: ClassVar[tuple[str, ...]] = ("N", "D")
    ties: ClassVar[tuple[str, str] | None] = ("alpha", "beta")
    amplitudes: ClassVar[tuple[str, ...]] = ("E", "A", "B")
    box: ClassVar[dict[str, Box]] = {
        "E": FLOOR,
        "A": AMPLITUDE,
        "B": AMPLITUDE,
        "alpha": EXPONENT,
        "beta": EXPONENT,
        "kappa": Box(0.05, 5.0, log=True),
    }

    def __call__(self, N: Any, D: Any) -> Any:
        inner = self.A * np.power(N, -self.alpha) + self.B * np.power(D, -self.beta)
        return self.E + np.power(inner, self.kappa)

    def written(self) -> str:
        """The fitted sum with its numbers, without a floor of 0 and without kappa = 1."""
        inner = f"{self.A:.5g} N^-{self.alpha:.4f} + {self.B:.5g} D^-{self.beta:.4f}"
        floor = "" if self.E == 0 else f"{loss_text(self.E)} + "
        return f"L(N, D) = {floor}" + (inner if self.kappa == 1 else f"({inner})^{self.kappa:.4f}")

    @classmethod
    def evaluate(cls, theta: Array, x: Mapping[str, Array]) -> tuple[Array, Array]:
        """Loss and analytic derivatives; log_kappa = 0 in every row skips the power."""
        E, log_A, log_B, alpha, beta, log_kappa = theta.T[..., None]
        jacobian = np.empty((*theta.shape, x["N"].shape[-1]))
        jacobian[:, 0] = 1.0
        n_term, d_term = np.exp(log_A - alpha * x["N"]), np.exp(log_B - beta * x["D"])
        inner = n_term + d_term
        if not np.count_nonzero(log_kappa):
            excess = inner
            jacobian[:, 5] = inner * np.log(inner)
        else:
            kappa = np.exp(log_kappa)
            excess = np.exp(kappa * np.log(inner))
            jacobian[:, 5] = kappa * np.log(inner) * excess
            by_inner = kappa * excess / inner
            n_term, d_term = n_term * by_inner, d_term * by_inner
        jacobian[:, 1], jacobian[:, 2] = n_term, d_term
        jacobian[:, 3], jacobian[:, 4] = -x["N"] * n_term, -x["D"] * d_term
        return E + excess, jacobian

    @classmethod
    def one_basin(cls, pinned: Mapping[str, float]) -> bool:
        """With kappa fixed at 1."""
        return pinned.get("kappa") == 1.0

    @classmethod
    def curvature(cls, theta: Array, x: Mapping[str, Array], jacobian: Array, weight: Array) -> Array:
        """By the shares p and q of both terms in their sum S: ln S has the second derivative p q u u'."""
        second = np.zeros((jacobian.shape[0], 6, 6))
        n_part, d_part = jacobian[:, 1], jacobian[:, 2]
        whole = n_part + d_part  # kappa S^kappa
        log_sum = jacobian[:, 5] / whole  # ln S
        if not np.count_nonzero(theta[:, 5]):  # kappa = 1: each power term differentiates into itself
            second[:, 1::2, 1::2][:, :2, :2] = power_term_curvature(weight * n_part, x["N"])
            second[:, 2:5:2, 2:5:2] = power_term_curvature(weight * d_part, x["D"])
            power = log_sum
        else:
            kappa = np.exp(theta[:, 5:])
            u = np.empty((4, x["N"].size))
            u[0], u[1], u[2], u[3] = 1.0, -1.0, -x["N"], x["D"]
            cross = weight * n_part * d_part / whole
            second[:, 1:5, 1:5] = outer_sum(weight * kappa / whole, jacobian[:, 1:5]) + (cross[:, None] * u) @ u.T
            power = kappa * log_sum
        mixed = weight * (1.0 + power)
        second[:, 5, 1:5] = second[:, 1:5, 5] = (jacobian[:, 1:5] @ mixed[..., None])[..., 0]
        second[:, 5, 5] = np.add.reduce(mixed * jacobian[:, 5], axis=-1)
        return second

    def rescaled(self, units: Mapping[str, float]) -> Self:
        """A takes the factor unit^-alpha, B unit^-beta."""
        A = self.A * np.power(units.get("N", 1.0), -self.alpha)
        B = self.B * np.power(units.get("D", 1.0), -self.beta)
        return type(self)(self.E, A, B, self.alpha, self.beta, self.kappa)

    @classmethod
    def linearise(cls, shape: Mapping[str, Array], x: Mapping[str, Array], loss: Array) -> tuple[Array, Array, Array]:
        """L = E + A N^-alpha + B D^-beta, linear in E, A and B."""
        basis = np.ones((max(len(shape["alpha"]), len(shape["beta"])), 3, loss.size))
        for k, exponent, column in ((1, "alpha", x["N"]), (2, "beta", x["D"])):
            values, which = np.unique(shape[exponent], return_inverse=True)
            basis[:, k] = np.exp(-values[:, None] * column)[which.ravel()]
        return basis, loss, 1.0 / loss

    @classmethod
    def more_starts(cls, theta: Array, free: frozenset[str]) -> Array:
        """The starts of kappa = 1 with exponents and amplitudes divided by several kappa, where kappa is free."""
        if "kappa" not in free:
            return theta
        starts = []
        for kappa in (0.3, 0.6, 1.0, 1.6):
            start = theta.copy()
            start[:, 1:5] /= kappa
            start[:, 5] = np.log(kappa)
            starts.append(start)
        return np.concatenate(starts)

    def optimal(self, C: Any, cost: Cost = SIX_ND) -> Allocation:
        """Where alpha A N^-alpha = (d ln C / d ln N) beta B D^-beta  (Hoffmann et al. 2022, eq. 4, under any cost)."""
        log_ratio = np.log(self.alpha * self.A / (self.beta * self.B))
        return balanced(self, log_ratio, self.alpha, self.beta, C, cost)

    def exponents(self, cost: Cost = SIX_ND) -> dict[str, float]:
        """Constant for every kappa: the optimum depends on the inner sum alone."""
        a = self.beta / (self.alpha + (1.0 + cost.slope) * self.beta)
        return {"a": a, "b": 1.0 - (1.0 + cost.slope) * a, "frontier": self.kappa * self.alpha * a}
