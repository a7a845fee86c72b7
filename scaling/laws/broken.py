"""Forms whose exponent changes: a smoothly broken power law, and Farseer's, whose data exponent depends on N."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar, Self

import numpy as np

from isoflop.scaling.laws.law import AMPLITUDE, FLOOR, Array, Box, Law


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
    source: ClassVar[str] = "Caballero et al. 2022, arXiv 2210.14891, eq. 1 with one break"
    inputs: ClassVar[tuple[str, ...]] = ("C",)
    scales: ClassVar[tuple[str, ...]] = ("C",)
    amplitudes: ClassVar[tuple[str, ...]] = ("a", "b")
    box: ClassVar[dict[str, Box]] = {
        "a": FLOOR,
        "b": AMPLITUDE,
        "c0": Box(0.0, 3.0),
        "c1": Box(-3.0, 3.0),
        "d": Box(1e-5, 1e5, log=True),
        "f": Box(0.02, 5.0, log=True),
    }

    def __call__(self, x: Any) -> Any:
        bend = self.c1 * self.f * _softplus(np.log(x / self.d) / self.f)
        return self.a + self.b * np.power(x, -self.c0) * np.exp(-bend)

    @classmethod
    def evaluate(cls, theta: Array, x: Mapping[str, Array]) -> tuple[Array, Array]:
        (column,) = (x[k] for k in cls.inputs)
        a, b, c0, c1, d, log_f = theta.T[..., None]
        f = np.exp(log_f)
        z = (column - d) / f
        soft = _softplus(z)
        sigmoid = np.exp(z - soft)
        term = np.exp(b - c0 * column - c1 * f * soft)
        jacobian = [np.ones_like(term), term, -column * term, -f * soft * term, c1 * sigmoid * term]
        jacobian.append(c1 * f * (z * sigmoid - soft) * term)
        return a + term, np.stack(jacobian, axis=1)

    def rescaled(self, units: Mapping[str, float]) -> Self:
        (unit,) = (units.get(k, 1.0) for k in self.inputs)
        return type(self)(self.a, self.b * np.power(unit, -self.c0), self.c0, self.c1, self.d / unit, self.f)

    @classmethod
    def shapes(cls, x: Mapping[str, Array], loss: Array) -> dict[str, tuple[float, ...]]:
        (column,) = (x[k] for k in cls.inputs)
        breaks = tuple(np.exp(np.quantile(column, np.linspace(0.05, 0.95, 8))).tolist())
        slopes = tuple(np.geomspace(0.02, 1.2, 9).tolist())
        return {"c0": slopes, "c1": (-0.4, -0.15, -0.05, 0.05, 0.15, 0.4, 0.9), "d": breaks, "f": (0.1, 0.5, 1.5)}

    @classmethod
    def linearise(cls, shape: Mapping[str, Array], x: Mapping[str, Array], loss: Array) -> tuple[Array, Array, Array]:
        (column,) = (x[k] for k in cls.inputs)
        bend = shape["c1"] * shape["f"] * _softplus((column - np.log(shape["d"])) / shape["f"])
        term = np.exp(-shape["c0"] * column - bend)
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
    large = np.real(z) > 0
    return np.where(large, z, 0.0) + np.log(1.0 + np.exp(np.where(large, -z, z)))


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
    source: ClassVar[str] = "Li et al. 2025, arXiv 2506.10972"
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
        drop = np.exp(self.A * np.power(N, self.a) + self.E)
        floor = np.exp(self.s * np.power(N, self.q) + self.S)
        return floor + np.exp(self.B * np.power(N, self.b) + self.Q - drop * np.log(D))

    @classmethod
    def encode(cls, values: Array) -> Array:
        """Each s N^q + S as its value and slope at the centre of ln N: q then bends a line and may pass through 0."""
        theta = np.array(values, dtype=float)
        theta[..., 0::3] = values[..., 0::3] * values[..., 1::3]
        theta[..., 2::3] = values[..., 2::3] + values[..., 0::3]
        return theta

    @classmethod
    def decode(cls, theta: Array) -> Array:
        values = np.array(theta)
        power = theta[..., 1::3]
        values[..., 1::3] = np.where(np.abs(power) < 1e-9, 1e-9, power)
        values[..., 0::3] = theta[..., 0::3] / values[..., 1::3]
        values[..., 2::3] = theta[..., 2::3] - values[..., 0::3]
        return values

    @classmethod
    def evaluate(cls, theta: Array, x: Mapping[str, Array]) -> tuple[Array, Array]:
        slope, power, level = theta.T[0::3, :, None], theta.T[1::3, :, None], theta.T[2::3, :, None]
        bend, by_power = _bent(x["N"], power)
        line = level + slope * bend
        floor, drop = np.exp(line[0]), np.exp(line[2])
        term = np.exp(line[1] - drop * x["D"])
        outer = np.stack([floor, term, -x["D"] * drop * term])
        jacobian = np.empty((*theta.shape, x["N"].size))
        jacobian[:, 0::3] = (outer * bend).swapaxes(0, 1)
        jacobian[:, 1::3] = (outer * slope * by_power).swapaxes(0, 1)
        jacobian[:, 2::3] = outer.swapaxes(0, 1)
        return floor + term, jacobian

    def rescaled(self, units: Mapping[str, float]) -> Self:
        unit = units.get("N", 1.0)
        s, B, A = (p * np.power(unit, e) for p, e in ((self.s, self.q), (self.B, self.b), (self.A, self.a)))
        return type(self)(s, self.q, self.S, B, self.b, self.Q, A, self.a, self.E)

    @classmethod
    def propose(cls, x: Mapping[str, Array], loss: Array, weights: Array) -> Array:
        """Starts with a constant data exponent: ln of the floor nearly a line in ln N, the rest a power law of D."""
        starts = []
        bends = (-0.2, 0.2)
        for beta, share, q, b, a in product((0.15, 0.3, 0.5, 0.8), (0.5, 0.7, 0.85, 0.95), bends, bends, bends):
            Q = np.log(np.median((loss - share * loss.min()) * np.exp(beta * x["D"])))
            rest = np.maximum(loss - np.exp(Q - beta * x["D"]), 0.3 * loss.min())
            design = np.stack([_bent(x["N"], np.array(q))[0], np.ones_like(loss)], axis=1) * np.sqrt(weights)[:, None]
            s, S = np.linalg.lstsq(design, np.log(rest) * np.sqrt(weights), rcond=None)[0]
            starts.append([s, q, S, 0.0, b, Q, 0.0, a, np.log(beta)])
        return np.array(starts)


def _bent(log_x: Array, power: Array) -> tuple[Array, Array]:
    """(x^p - 1)/p and its derivative in p, by series where p ln x is small."""
    z = power * log_x
    small = np.abs(z) < 2e-2
    safe = np.where(small, 1.0, z)
    value = np.where(
        small, 1 + z * (1 / 2 + z * (1 / 6 + z * (1 / 24 + z * (1 / 120 + z / 720)))), np.expm1(safe) / safe
    )
    series = 1 / 2 + z * (1 / 3 + z * (1 / 8 + z * (1 / 30 + z * (1 / 144 + z / 840))))
    slope = np.where(small, series, (safe * np.exp(safe) - np.expm1(safe)) / safe**2)
    return log_x * value, log_x**2 * slope
