"""Forms whose exponent changes: a smoothly broken power law, and Farseer's, whose data exponent depends on N."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar, Self

import numpy as np

from scaling.law import AMPLITUDE, FLOOR, Array, Box, Law


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
    box: ClassVar[dict[str, Box]] = {
        "s": Box(-50.0, 50.0),
        "q": Box(-1.0, 1.0),
        "S": Box(-50.0, 50.0),
        "B": Box(-50.0, 50.0),
        "b": Box(-1.0, 1.0),
        "Q": Box(-50.0, 80.0),
        "A": Box(-20.0, 20.0),
        "a": Box(-1.0, 1.0),
        "E": Box(-20.0, 20.0),
    }

    def __call__(self, N: Any, D: Any) -> Any:
        drop = np.exp(self.A * np.power(N, self.a) + self.E)
        floor = np.exp(self.s * np.power(N, self.q) + self.S)
        return floor + np.exp(self.B * np.power(N, self.b) + self.Q - drop * np.log(D))

    @classmethod
    def evaluate(cls, theta: Array, x: Mapping[str, Array]) -> tuple[Array, Array]:
        s, q, S, B, b, Q, A, a, E = theta.T[..., None]
        n_q, n_b, n_a = np.exp(q * x["N"]), np.exp(b * x["N"]), np.exp(a * x["N"])
        drop = np.exp(A * n_a + E)
        floor, term = np.exp(s * n_q + S), np.exp(B * n_b + Q - drop * x["D"])
        fall = -x["D"] * drop * term
        jacobian = [n_q * floor, s * n_q * x["N"] * floor, floor, n_b * term, B * n_b * x["N"] * term, term]
        jacobian += [n_a * fall, A * n_a * x["N"] * fall, fall]
        return floor + term, np.stack(jacobian, axis=1)

    def rescaled(self, units: Mapping[str, float]) -> Self:
        unit = units.get("N", 1.0)
        s, B, A = (p * np.power(unit, e) for p, e in ((self.s, self.q), (self.B, self.b), (self.A, self.a)))
        return type(self)(s, self.q, self.S, B, self.b, self.Q, A, self.a, self.E)

    @classmethod
    def propose(cls, x: Mapping[str, Array], loss: Array, weights: Array) -> Array:
        """Starts with a constant data exponent: ln of the floor is linear in N^q, the rest a power law of D."""
        starts = []
        q_values, betas, shares = (-0.3, -0.1, 0.1, 0.3), (0.15, 0.3, 0.5), (0.5, 0.7, 0.85, 0.95)
        depth = x["D"].max()
        for q, beta, share in product(q_values, betas, shares):
            floor = share * loss.min()
            Q = np.log(np.median((loss - floor) * np.exp(beta * x["D"])))
            rest = np.maximum(loss - np.exp(Q - beta * x["D"]), 0.3 * loss.min())
            design = np.stack([np.exp(q * x["N"]), np.ones_like(loss)], axis=1) * np.sqrt(weights)[:, None]
            s, S = np.linalg.lstsq(design, np.log(rest) * np.sqrt(weights), rcond=None)[0]
            for b, a in ((-0.1, 0.1), (0.1, -0.1), (0.1, 0.1), (-0.1, -0.1)):
                starts.append([s, q, S, 1e-3, b, Q, 1e-3 / max(depth, 1.0), a, np.log(beta)])
        return np.array(starts)
