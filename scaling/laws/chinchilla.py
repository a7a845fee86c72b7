"""The catalogue of laws: the forms by name, and the two that most studies need.

N parameters, D tokens, C FLOPs, losses in nats/token.
"""

import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from isoflop.scaling.laws.broken import BNSL, BNSLD, BNSLN, Farseer
from isoflop.scaling.laws.kaplan import DataConstrained, Kaplan, Saturating
from isoflop.scaling.laws.law import AMPLITUDE, EXPONENT, FLOOR, SIX_ND, Allocation, Array, Box, Cost, Law

__all__ = [
    "BNSL", "BNSLD", "BNSLN", "LAWS", "PRESETS", "Allocation", "Box", "Chinchilla", "Cost", "DataConstrained",
    "Farseer", "Kaplan", "Law", "Power", "PowerD", "PowerN", "Saturating", "get_law",
]  # fmt: skip


@dataclass(frozen=True)
class Chinchilla(Law):
    """L(N, D) = E + (A N^-alpha + B D^-beta)^kappa  (Hoffmann et al. 2022, eq. 2; kappa: Busbridge et al. 2025)"""

    E: float
    A: float
    B: float
    alpha: float
    beta: float
    kappa: float = 1.0

    name: ClassVar[str] = "chinchilla"
    formula: ClassVar[str] = "L = E + (A N^-alpha + B D^-beta)^kappa"
    source: ClassVar[str] = "Hoffmann et al. 2022, arXiv 2203.15556, eq. 2"
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

    @classmethod
    def evaluate(cls, theta: Array, x: Mapping[str, Array]) -> tuple[Array, Array]:
        E, A, B, alpha, beta, kappa = theta.T[..., None]
        jacobian = np.empty((*theta.shape, x["N"].size))
        jacobian[:, 0] = 1.0
        n_term = np.exp(A - alpha * x["N"], out=jacobian[:, 1])
        d_term = np.exp(B - beta * x["D"], out=jacobian[:, 2])
        inner = n_term + d_term
        if not np.any(kappa):
            excess = inner
            jacobian[:, 5] = inner * np.log(inner) if theta.shape[1] > 5 else 0.0
        else:
            power = np.exp(kappa)
            excess = np.exp(power * np.log(inner))
            jacobian[:, 5] = power * np.log(inner) * excess
            jacobian[:, 1:3] *= (power * excess / inner)[:, None]
        np.multiply(jacobian[:, 1], -x["N"], out=jacobian[:, 3])
        np.multiply(jacobian[:, 2], -x["D"], out=jacobian[:, 4])
        return E + excess, jacobian

    @classmethod
    def bent(cls, pinned: Mapping[str, float]) -> bool:
        return pinned.get("kappa") == 1.0

    @classmethod
    def curvature(cls, x: Mapping[str, Array], jacobian: Array, weight: Array) -> Array:
        """Exact for kappa fixed at 1, where each power term differentiates into itself."""
        second = np.zeros((jacobian.shape[0], 6, 6))
        for amplitude, exponent, column in ((1, 3, x["N"]), (2, 4, x["D"])):
            moments = (weight * jacobian[:, amplitude]) @ np.stack([np.ones_like(column), -column, column**2], axis=1)
            second[:, amplitude, amplitude] = moments[:, 0]
            second[:, amplitude, exponent] = second[:, exponent, amplitude] = moments[:, 1]
            second[:, exponent, exponent] = moments[:, 2]
        return second

    def rescaled(self, units: Mapping[str, float]) -> Self:
        A = self.A * np.power(units.get("N", 1.0), -self.alpha)
        B = self.B * np.power(units.get("D", 1.0), -self.beta)
        return type(self)(self.E, A, B, self.alpha, self.beta, self.kappa)

    @classmethod
    def linearise(cls, shape: Mapping[str, Array], x: Mapping[str, Array], loss: Array) -> tuple[Array, Array, Array]:
        basis = np.ones((max(len(shape["alpha"]), len(shape["beta"])), 3, loss.size))
        for k, exponent, column in ((1, "alpha", x["N"]), (2, "beta", x["D"])):
            values, which = np.unique(shape[exponent], return_inverse=True)
            basis[:, k] = np.exp(-values[:, None] * column)[which.ravel()]
        return basis, loss, 1.0 / loss

    @classmethod
    def vary(cls, theta: Array, free: frozenset[str]) -> Array:
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
        """Where alpha A N^-alpha = (1 + slope) beta B D^-beta  (Hoffmann et al. 2022, eq. 4, with a cost exponent)."""
        C = np.asarray(C, dtype=float)
        a = self.exponents(cost)["a"]
        s = self.beta / a
        log_g = np.log(self.alpha * self.A / ((1.0 + cost.slope) * self.beta * self.B)) / s
        N = np.exp(log_g + a * np.log(C / cost.k))
        D = cost.tokens(C, N)
        return Allocation(N, D, C, self(N, D))

    def exponents(self, cost: Cost = SIX_ND) -> dict[str, float]:
        a = self.beta / (self.alpha + (1.0 + cost.slope) * self.beta)
        return {"a": a, "b": 1.0 - (1.0 + cost.slope) * a, "frontier": self.kappa * self.alpha * a}


@dataclass(frozen=True)
class Power(Law):
    """L(C) = E + K C^-g  (Henighan et al. 2020, eq. 1.1); `PowerN` and `PowerD` read N or D instead."""

    E: float
    K: float
    g: float

    name: ClassVar[str] = "power"
    formula: ClassVar[str] = "L = E + K C^-g"
    source: ClassVar[str] = "Henighan et al. 2020, arXiv 2010.14701, eq. 1.1"
    inputs: ClassVar[tuple[str, ...]] = ("C",)
    scales: ClassVar[tuple[str, ...]] = ("C",)
    amplitudes: ClassVar[tuple[str, ...]] = ("E", "K")
    box: ClassVar[dict[str, Box]] = {
        "E": FLOOR,
        "K": AMPLITUDE,
        "g": Box(0.002, 3.0, grid=tuple(np.geomspace(0.004, 1.6, 60).tolist())),
    }

    def __call__(self, x: Any) -> Any:
        return self.E + self.K * np.power(x, -self.g)

    @classmethod
    def evaluate(cls, theta: Array, x: Mapping[str, Array]) -> tuple[Array, Array]:
        (column,) = (x[k] for k in cls.inputs)
        E, K, g = theta.T[..., None]
        term = np.exp(K - g * column)
        return E + term, np.stack([np.ones_like(term), term, -column * term], axis=1)

    def rescaled(self, units: Mapping[str, float]) -> Self:
        (unit,) = (units.get(k, 1.0) for k in self.inputs)
        return type(self)(self.E, self.K * np.power(unit, -self.g), self.g)

    @classmethod
    def linearise(cls, shape: Mapping[str, Array], x: Mapping[str, Array], loss: Array) -> tuple[Array, Array, Array]:
        (column,) = (x[k] for k in cls.inputs)
        term = np.exp(-shape["g"] * column)
        return np.stack([np.ones_like(term), term], axis=1), loss, 1.0 / loss

    def exponents(self, cost: Cost = SIX_ND) -> dict[str, float]:
        return {"frontier": self.g} if self.inputs == ("C",) else {}


@dataclass(frozen=True)
class PowerN(Power):
    """L(N) = E + K N^-g  (Henighan et al. 2020, eq. 1.1)"""

    name: ClassVar[str] = "power-n"
    formula: ClassVar[str] = "L = E + K N^-g"
    inputs: ClassVar[tuple[str, ...]] = ("N",)
    scales: ClassVar[tuple[str, ...]] = ("N",)


@dataclass(frozen=True)
class PowerD(Power):
    """L(D) = E + K D^-g  (Henighan et al. 2020, eq. 1.1)"""

    name: ClassVar[str] = "power-d"
    formula: ClassVar[str] = "L = E + K D^-g"
    inputs: ClassVar[tuple[str, ...]] = ("D",)
    scales: ClassVar[tuple[str, ...]] = ("D",)


FORMS: tuple[type[Law], ...] = (
    Chinchilla, Kaplan, Saturating, DataConstrained, Farseer, Power, PowerN, PowerD, BNSL, BNSLN, BNSLD,
)  # fmt: skip
LAWS: dict[str, type[Law]] = {form.name: form for form in FORMS}
PRESETS: dict[str, tuple[type[Law], tuple[str, ...]]] = {"chinchilla-kappa": (Chinchilla, ("kappa",))}


def get_law(name: str) -> tuple[type[Law], tuple[str, ...]]:
    """The form called `name`, and the parameters with a default that this name frees.

    `module:Class` names a user's own form, importable from the working directory. Raises ValueError on an unknown name.
    """
    if name in PRESETS:
        return PRESETS[name]
    if name in LAWS:
        return LAWS[name], ()
    if ":" in name:
        return _user_law(name), ()
    raise ValueError(f"law {name!r} is not known; choose one of {', '.join([*LAWS, *PRESETS])}, or module:Class")


def _user_law(name: str) -> type[Law]:
    module, _, attribute = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        form = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"law {name!r} cannot be imported: {error}") from error
    if not (isinstance(form, type) and issubclass(form, Law)):
        raise ValueError(f"law {name!r} is not a subclass of isoflop.scaling.laws.chinchilla.Law")
    missing = [p for p in form.parameters() if p not in form.box]
    if missing:
        raise ValueError(f"law {name!r} gives no search box for {', '.join(missing)}: add them to its `box`")
    return form
