"""Farseer's law, whose data exponent depends on the number of parameters."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar, Self

import numpy as np

from isoflop.scaling.laws.law import Array, Box, Law, Paper, outer_sum

PAPER = Paper(
    "li2025farseer",
    "Li, Houyi and Zheng, Wenzhen and Wang, Qiufeng and others",
    "Predictable Scale: Part II, Farseer: A Refined Scaling Law in Large Language Models",
    2025,
    "2506.10972",
)

SERIES = 2e-2  # of a power times ln x: below, Box-Cox transforms are taken by series


@dataclass(frozen=True)
class Farseer(Law):
    """L(N, D) = exp(s N^q + S) + exp(B N^b + Q) D^(-exp(A N^a + E))  (Li et al. 2025, eq. 1)

    Nine parameters: with fewer than about 60 cells it diagnoses (does the data exponent drift with N?), it does not
    extrapolate. E is the paper's letter for the intercept of the ln exponent, not a floor.
    """

    s: float
    q: float
    S: float
    B: float
    b: float
    Q: float
    A: float
    a: float
    E: float

    name: ClassVar[str] = "farseer"
    formula: ClassVar[str] = "L = exp(s N^q + S) + exp(B N^b + Q) D^(-exp(A N^a + E))"
    paper: ClassVar[Paper | None] = PAPER
    source: ClassVar[str] = PAPER.cite()
    caution: ClassVar[str] = (
        "Nine parameters need many sizes and budgets; beyond them exponentials of powers part quickly."
    )
    typical: ClassVar[tuple[float, ...]] = (-0.021, 0.169, -0.091, 88.0, -0.1, -6.3, -0.124, 0.123, 0.424)
    rank: ClassVar[int] = 50
    scales: ClassVar[tuple[str, ...]] = ("N",)
    coupled: ClassVar[dict[str, str]] = {"s": "q", "S": "s", "B": "b", "Q": "B", "A": "a", "E": "A"}
    box: ClassVar[dict[str, Box]] = {
        "s": Box(-3.0, 3.0),
        "q": Box(-1.0, 1.0),
        "S": Box(-10.0, 5.0),
        "B": Box(-3.0, 3.0),
        "b": Box(-1.0, 1.0),
        "Q": Box(-10.0, 60.0),
        "A": Box(-1.0, 1.0),
        "a": Box(-1.0, 1.0),
        "E": Box(-5.0, 1.0),
    }

    def __call__(self, N: Any, D: Any) -> Any:
        with np.errstate(over="ignore", invalid="ignore"):  # far from the data an exponential of a power is infinite
            return self._loss(N, D)

    def _loss(self, N: Any, D: Any) -> Any:
        drop = np.exp(self.A * np.power(N, self.a) + self.E)
        floor = np.exp(self.s * np.power(N, self.q) + self.S)
        return floor + np.exp(self.B * np.power(N, self.b) + self.Q - drop * np.log(D))

    @classmethod
    def encode(cls, values: Array) -> Array:
        """Each s N^q + S as its value and slope at the mean of ln N: q is then a curvature that may pass through 0."""
        theta = np.array(values, dtype=float)
        theta[..., 0::3] = values[..., 0::3] * values[..., 1::3]
        theta[..., 2::3] = values[..., 2::3] + values[..., 0::3]
        return theta

    @classmethod
    def decode(cls, theta: Array) -> Array:
        """The inverse of `encode`; a q of 0 becomes 1e-9."""
        values = np.array(theta)
        power = theta[..., 1::3]
        values[..., 1::3] = np.where(np.abs(power) < 1e-9, 1e-9, power)
        values[..., 0::3] = theta[..., 0::3] / values[..., 1::3]
        values[..., 2::3] = theta[..., 2::3] - values[..., 0::3]
        return values

    @classmethod
    def evaluate(cls, theta: Array, x: Mapping[str, Array]) -> tuple[Array, Array]:
        """Loss and analytic derivatives in value, slope and power of each of the three functions of N."""
        slope, power, level = theta[:, 0::3, None], theta[:, 1::3, None], theta[:, 2::3, None]
        curve, by_power = _box_cox(x["N"][..., None, :], power)
        line = level + slope * curve
        jacobian = np.empty((*theta.shape, x["N"].shape[-1]))
        by_slope, by_its_power, by_line = np.moveaxis(jacobian.reshape(len(theta), 3, 3, -1), 2, 0)
        floor, drop = np.exp(line[:, 0]), np.exp(line[:, 2])
        term = np.exp(line[:, 1] - drop * x["D"])
        by_line[:, 0], by_line[:, 1], by_line[:, 2] = floor, term, -x["D"] * drop * term
        by_slope[:], by_its_power[:] = by_line * curve, by_line * slope * by_power
        return floor + term, jacobian

    @classmethod
    def curvature(cls, theta: Array, x: Mapping[str, Array], jacobian: Array, weight: Array) -> Array:
        """Through the three lines level + slope (N^power - 1) / power that the law is an exponential of."""
        by_line = jacobian.reshape(len(theta), 3, 3, -1)  # in slope, power and level of each line
        outer = by_line[:, :, 2]  # in each line itself: floor, term, -drop ln D term
        some = np.where(outer == 0.0, 1.0, outer)
        line = by_line / some[:, :, None]
        weighted = weight[:, None] * outer
        second = np.zeros((len(theta), 9, 9))
        second[:, :3, :3] = outer_sum(weighted[:, 0], line[:, 0])
        second[:, 6:, 6:] = outer_sum(weighted[:, 2], line[:, 2])
        line[:, 2] *= (outer[:, 2] / some[:, 1])[:, None]  # ln term has the derivatives 1 and -drop ln D in its lines
        second[:, 3:, 3:] += outer_sum(weighted[:, 1], line[:, 1:].reshape(len(theta), 6, -1))
        own = np.einsum("bkikj->bkij", second.reshape(-1, 3, 3, 3, 3))  # each line with itself
        by_power, by_power_twice = _box_cox_slopes(x["N"][..., None, :], theta[:, 1::3, None])
        own[:, :, 0, 1] += (mixed := np.einsum("bkn,bkn->bk", weighted, by_power))
        own[:, :, 1, 0] += mixed
        own[:, :, 1, 1] += theta[:, 0::3] * np.einsum("bkn,bkn->bk", weighted, by_power_twice)
        return second

    def rescaled(self, units: Mapping[str, float]) -> Self:
        """s, B and A take the factors unit^q, unit^b and unit^a; only N can change its unit."""
        unit = units.get("N", 1.0)
        s, B, A = (p * np.power(unit, e) for p, e in ((self.s, self.q), (self.B, self.b), (self.A, self.a)))
        return type(self)(s, self.q, self.S, B, self.b, self.Q, A, self.a, self.E)

    @classmethod
    def propose(cls, x: Mapping[str, Array], loss: Array, weights: Array) -> Array:
        """Starts with a constant data exponent: ln of the floor nearly a line in ln N, the rest a power law of D."""
        starts = []
        powers = (-0.2, 0.2)
        for beta, share, q, b, a in product((0.15, 0.3, 0.5, 0.8), (0.5, 0.7, 0.85, 0.95), powers, powers, powers):
            Q = np.log(np.median((loss - share * loss.min()) * np.exp(beta * x["D"])))
            rest = np.maximum(loss - np.exp(Q - beta * x["D"]), 0.3 * loss.min())
            curve, _ = _box_cox(x["N"], np.array(q))
            design = np.stack([curve, np.ones_like(loss)], axis=1) * np.sqrt(weights)[:, None]
            s, S = np.linalg.lstsq(design, np.log(rest) * np.sqrt(weights), rcond=None)[0]
            starts.append([s, q, S, 0.0, b, Q, 0.0, a, np.log(beta)])
        return np.array(starts)


def _box_cox(log_x: Array, power: Array) -> tuple[Array, Array]:
    """The Box-Cox transform (x^p - 1)/p and its derivative in p, by series where p ln x is small."""
    z = power * log_x
    small = np.abs(z) < SERIES
    safe = np.where(small, 1.0, z)
    less = np.expm1(safe)
    value, slope = less / safe, (safe * np.exp(safe) - less) / safe**2
    if np.count_nonzero(small):
        z = z[small]
        value[small] = 1 + z * (1 / 2 + z * (1 / 6 + z * (1 / 24 + z * (1 / 120 + z / 720))))
        slope[small] = _slope_series(z)
    return log_x * value, log_x**2 * slope


def _box_cox_slopes(log_x: Array, power: Array) -> tuple[Array, Array]:
    """The first and second derivative of the Box-Cox transform in p."""
    z = power * log_x
    small = np.abs(z) < SERIES
    safe = np.where(small, 1.0, z)
    grown, square = np.exp(safe), safe**2
    slope = (safe * grown - np.expm1(safe)) / square
    bend = (grown * (square - 2 * safe + 2) - 2) / (square * safe)
    if np.count_nonzero(small):
        z = z[small]
        slope[small] = _slope_series(z)
        bend[small] = 1 / 3 + z * (1 / 4 + z * (1 / 10 + z * (1 / 36 + z * (1 / 168 + z / 960))))
    return log_x**2 * slope, log_x**3 * bend


def _slope_series(z: Array) -> Array:
    """(z e^z - e^z + 1) / z^2 where z is small."""
    return 1 / 2 + z * (1 / 3 + z * (1 / 8 + z * (1 / 30 + z * (1 / 144 + z / 840))))
