"""A law of mixture-of-experts models trained on several numbers of tokens: size, tokens, number of experts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from isoflop.scaling.laws.axes.experts import EXPERTS, saturated
from isoflop.scaling.laws.inputs import Column
from isoflop.scaling.laws.law import AMPLITUDE, COARSE, EXPONENT, FLOOR, Array, Box, Law, Paper

PAPER = Paper(
    "ludziejewski2025joint",
    "Ludziejewski, Jan and Pioro, Maciej and Krajewski, Jakub and others",
    "Joint MoE Scaling Laws: Mixture of Experts Can Be Memory Efficient",
    2025,
    "2502.05172",
)
S_START, S_MAX = 1.847, 314.478  # of S-Base routing (Clark et al. 2022): few numbers of experts do not tell them


@dataclass(frozen=True)
class ExpertsJoint(Law):
    """L = E + A X^delta N^(gamma ln X - alpha) + B X^omega D^(zeta ln X - beta)  (Ludziejewski et al. 2025)

    N counts the parameters that a token meets, D the tokens, M the experts of a layer (1 is dense). X is M saturated
    between E_start, its value at one expert, and E_max, as in the law of experts; both are those of S-Base there.
    """

    E: float
    A: float
    B: float
    alpha: float
    beta: float
    delta: float
    omega: float
    gamma: float
    zeta: float
    E_start: float = S_START
    E_max: float = S_MAX

    name: ClassVar[str] = "experts-joint"
    formula: ClassVar[str] = (
        "L = E + A X^delta N^(gamma ln X - alpha) + B X^omega D^(zeta ln X - beta), "
        "1/X = 1/(M - 1 + 1/(1/E_start - 1/E_max)) + 1/E_max"
    )
    paper: ClassVar[Paper | None] = PAPER
    source: ClassVar[str] = PAPER.cite("its joint law; E_start and E_max held at those of S-Base in arXiv 2202.01169")
    caution: ClassVar[str] = "Beyond the experts that were tried, and where no two numbers of tokens are in the table."
    typical: ClassVar[tuple[float, ...]] = (1.4, 40.0, 40.0, 0.19, 0.18, -0.2, 0.1, 0.005, -0.005, S_START, S_MAX)
    rank: ClassVar[int] = 205
    floor_name: ClassVar[str | None] = "E"
    inputs: ClassVar[tuple[str, ...]] = ("N", "D", "M")
    columns: ClassVar[Mapping[str, Column | str]] = {"M": EXPERTS}
    scales: ClassVar[tuple[str, ...]] = ("N", "D")
    amplitudes: ClassVar[tuple[str, ...]] = ("E", "A", "B")
    ties: ClassVar[tuple[str, str] | None] = ("alpha", "beta")
    box: ClassVar[dict[str, Box]] = {
        "E": FLOOR,
        "A": AMPLITUDE,
        "B": AMPLITUDE,
        "alpha": EXPONENT,
        "beta": EXPONENT,
        "delta": Box(-3.0, 3.0),
        "omega": Box(-3.0, 3.0),
        "gamma": Box(-0.5, 0.5),
        "zeta": Box(-0.5, 0.5),
        "E_start": Box(0.05, 50.0, log=True),
        "E_max": Box(51.0, 1e6, log=True),
    }

    def __call__(self, N: Any, D: Any, M: Any) -> Any:
        x = np.log(saturated(M, self.E_start, self.E_max))
        size = np.exp(self.delta * x + (self.gamma * x - self.alpha) * np.log(N))
        data = np.exp(self.omega * x + (self.zeta * x - self.beta) * np.log(D))
        return self.E + self.A * size + self.B * data

    @classmethod
    def evaluate(cls, theta: Array, x: Mapping[str, Array]) -> tuple[Array, Array]:
        """Loss and analytic derivatives."""
        E, log_A, log_B, alpha, beta, delta, omega, gamma, zeta, log_start, log_max = theta.T[..., None]
        n, d = x["N"], x["D"]
        first, last = np.exp(log_start), np.exp(log_max)
        one = 1.0 / (1.0 / first - 1.0 / last)
        further = np.exp(x["M"]) - 1.0 + one
        X = 1.0 / (1.0 / further + 1.0 / last)
        z = np.log(X)
        size = np.exp(log_A + delta * z + (gamma * z - alpha) * n)
        data = np.exp(log_B + omega * z + (zeta * z - beta) * d)
        by_z = size * (delta + gamma * n) + data * (omega + zeta * d)
        ratio = (one / further) ** 2
        jacobian = [
            np.ones_like(size), size, data, -size * n, -data * d, size * z, data * z, size * z * n, data * z * d,
            by_z * X * ratio / first, by_z * X * (1.0 - ratio) / last,
        ]  # fmt: skip
        return E + size + data, np.stack(jacobian, axis=1)

    def rescaled(self, units: Mapping[str, float]) -> Self:
        """A takes the factor unit^-alpha, B unit^-beta; delta and omega what gamma and zeta make of the unit."""
        n, d = units.get("N", 1.0), units.get("D", 1.0)
        return type(self)(
            self.E, self.A * np.power(n, -self.alpha), self.B * np.power(d, -self.beta), self.alpha, self.beta,
            self.delta + self.gamma * np.log(n), self.omega + self.zeta * np.log(d), self.gamma, self.zeta,
            self.E_start, self.E_max,
        )  # fmt: skip

    @classmethod
    def shapes(cls, x: Mapping[str, Array], loss: Array) -> dict[str, tuple[float, ...]]:
        """Grids of both exponents and of what experts do to both terms."""
        return {
            "alpha": COARSE[::3], "beta": COARSE[::3], "delta": (-0.4, -0.1, 0.1), "omega": (-0.2, 0.0, 0.2),
            "gamma": (0.0,), "zeta": (0.0,), "E_start": (S_START,), "E_max": (S_MAX,),
        }  # fmt: skip

    @classmethod
    def linearise(cls, shape: Mapping[str, Array], x: Mapping[str, Array], loss: Array) -> tuple[Array, Array, Array]:
        """The sum, linear in E, A and B."""
        z = np.log(saturated(np.exp(x["M"]), shape["E_start"], shape["E_max"]))
        size = np.exp(shape["delta"] * z + (shape["gamma"] * z - shape["alpha"]) * x["N"])
        data = np.exp(shape["omega"] * z + (shape["zeta"] * z - shape["beta"]) * x["D"])
        return np.stack([np.ones_like(size), size, data], axis=1), loss, 1.0 / loss
