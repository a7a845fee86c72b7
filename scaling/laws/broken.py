"""Smoothly broken power laws of one column: compute C, parameters N or tokens D."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from isoflop.scaling.laws.law import AMPLITUDE, FLOOR, Array, Box, Law, Paper, outer_sum

PAPER = Paper(
    "caballero2022broken",
    "Caballero, Ethan and Gupta, Kshitij and Rish, Irina and Krueger, David",
    "Broken Neural Scaling Laws",
    2022,
    "2210.14891",
)


@dataclass(frozen=True)
class BNSL(Law):
    """L(C) = a + b C^-c0 (1 + (C/d)^(1/f))^(-c1 f)  (Caballero et al. 2022, eq. 1, one break)

    The slope goes from c0 to c0 + c1 around d, over a factor of about e^f to either side.
    """

    a: float
    b: float
    c0: float
    c1: float
    d: float
    f: float

    name: ClassVar[str] = "bnsl"
    formula: ClassVar[str] = "L = a + b C^-c0 (1 + (C/d)^(1/f))^(-c1 f)"
    paper: ClassVar[Paper | None] = PAPER
    source: ClassVar[str] = PAPER.cite("eq. 1 with one break")
    caution: ClassVar[str] = (
        "A break beyond the data cannot be seen, and between few budgets a sharp one (f at its bound) follows the "
        "noise."
    )
    typical: ClassVar[tuple[float, ...]] = (1.2, 300.0, 0.12, 0.06, 3e9, 0.5)
    rank: ClassVar[int] = 70
    floor_name: ClassVar[str | None] = "a"
    inputs: ClassVar[tuple[str, ...]] = ("C",)
    scales: ClassVar[tuple[str, ...]] = ("C",)
    amplitudes: ClassVar[tuple[str, ...]] = ("a", "b")
    side_by_side: ClassVar[bool] = True
    box: ClassVar[dict[str, Box]] = {
        "a": FLOOR,
        "b": AMPLITUDE,
        "c0": Box(0.0, 3.0),
        "c1": Box(-3.0, 3.0),
        "d": Box(1e-5, 1e5, log=True),
        "f": Box(0.02, 5.0, log=True),
    }

    def __call__(self, x: Any) -> Any:
        change = self.c1 * self.f * _softplus(np.log(x / self.d) / self.f)
        return self.a + self.b * np.power(x, -self.c0) * np.exp(-change)

    @classmethod
    def evaluate(cls, theta: Array, x: Mapping[str, Array]) -> tuple[Array, Array]:
        """Loss and analytic derivatives of a + exp(log_b - c0 ln x - c1 f ln(1 + e^z)), z = (ln x - log_d) / f."""
        (column,) = (x[k] for k in cls.inputs)
        a, log_b, c0, c1, log_d, log_f = theta.T[..., None]
        f = np.exp(log_f)
        z = (column - log_d) / f
        soft = _softplus(z)
        sigmoid = np.exp(z - soft)
        term = np.exp(log_b - c0 * column - c1 * f * soft)
        jacobian = np.empty((*theta.shape, column.shape[-1]))
        jacobian[:, 0], jacobian[:, 1], jacobian[:, 2] = 1.0, term, -column * term
        jacobian[:, 3], jacobian[:, 4] = -f * soft * term, c1 * sigmoid * term
        jacobian[:, 5] = c1 * f * (z * sigmoid - soft) * term
        return a + term, jacobian

    @classmethod
    def curvature(cls, theta: Array, x: Mapping[str, Array], jacobian: Array, weight: Array) -> Array:
        """ln of the term is linear in log_b and c0; its other second derivatives follow from the sigmoid of z."""
        (column,) = (x[k] for k in cls.inputs)
        _, _, _, c1, log_d, log_f = theta.T[..., None]
        term, f = jacobian[:, 1], np.exp(log_f)
        z = (column - log_d) / f
        soft = jacobian[:, 3] / (-f * term)
        sigmoid = np.exp(z - soft)
        second = outer_sum(weight / term, jacobian)
        second[:, 0] = second[:, :, 0] = 0.0  # the floor is linear
        weighted = weight * term
        slopes = weighted * sigmoid
        bell = slopes * (1.0 - sigmoid)
        bell_z = bell * z
        c1, f = c1[:, 0], f[:, 0]
        by_width = f * (np.einsum("bn,bn->b", slopes, z) - np.einsum("bn,bn->b", weighted, soft))
        second[:, 3, 4] += np.add.reduce(slopes, axis=1)
        second[:, 3, 5] += by_width
        second[:, 4, 4] -= c1 / f * np.add.reduce(bell, axis=1)
        second[:, 4, 5] -= c1 * np.add.reduce(bell_z, axis=1)
        second[:, 5, 5] += c1 * (by_width - f * np.einsum("bn,bn->b", bell_z, z))
        second[:, 4:, 3], second[:, 5, 4] = second[:, 3, 4:], second[:, 4, 5]
        return second

    def rescaled(self, units: Mapping[str, float]) -> Self:
        """b takes the factor unit^-c0, d is divided by the unit."""
        (unit,) = (units.get(k, 1.0) for k in self.inputs)
        return type(self)(self.a, self.b * np.power(unit, -self.c0), self.c0, self.c1, self.d / unit, self.f)

    @classmethod
    def shapes(cls, x: Mapping[str, Array], loss: Array) -> dict[str, tuple[float, ...]]:
        """A grid over both slopes, the place of the break among the data, and its width."""
        (column,) = (x[k] for k in cls.inputs)
        breaks = tuple(np.exp(np.quantile(column, np.linspace(0.05, 0.95, 8))).tolist())
        slopes = tuple(np.geomspace(0.02, 1.2, 9).tolist())
        return {"c0": slopes, "c1": (-0.4, -0.15, -0.05, 0.05, 0.15, 0.4, 0.9), "d": breaks, "f": (0.1, 0.5, 1.5)}

    @classmethod
    def linearise(cls, shape: Mapping[str, Array], x: Mapping[str, Array], loss: Array) -> tuple[Array, Array, Array]:
        """L = a + b times the power term, given c0, c1, d and f."""
        (column,) = (x[k] for k in cls.inputs)
        change = shape["c1"] * shape["f"] * _softplus((column - np.log(shape["d"])) / shape["f"])
        term = np.exp(-shape["c0"] * column - change)
        return np.stack([np.ones_like(term), term], axis=1), loss, 1.0 / loss


@dataclass(frozen=True)
class BNSLN(BNSL):
    """L(N) = a + b N^-c0 (1 + (N/d)^(1/f))^(-c1 f)  (Caballero et al. 2022, eq. 1, one break)"""

    name: ClassVar[str] = "bnsl-n"
    formula: ClassVar[str] = "L = a + b N^-c0 (1 + (N/d)^(1/f))^(-c1 f)"
    inputs: ClassVar[tuple[str, ...]] = ("N",)
    scales: ClassVar[tuple[str, ...]] = ("N",)


@dataclass(frozen=True)
class BNSLD(BNSL):
    """L(D) = a + b D^-c0 (1 + (D/d)^(1/f))^(-c1 f)  (Caballero et al. 2022, eq. 1, one break)"""

    name: ClassVar[str] = "bnsl-d"
    formula: ClassVar[str] = "L = a + b D^-c0 (1 + (D/d)^(1/f))^(-c1 f)"
    inputs: ClassVar[tuple[str, ...]] = ("D",)
    scales: ClassVar[tuple[str, ...]] = ("D",)


def _softplus(z: Any) -> Any:
    """ln(1 + e^z), stable for large z and analytic, so that a complex step passes through it."""
    if not np.iscomplexobj(z):
        return np.maximum(z, 0.0) + np.log(1.0 + np.exp(-np.abs(z)))
    large = np.real(z) > 0
    return np.where(large, z, 0.0) + np.log(1.0 + np.exp(np.where(large, -z, z)))
