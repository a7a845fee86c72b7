"""A law of N, D and unique tokens U: what repeated data are worth."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np

from isoflop.scaling.laws.cost import SIX_ND, Cost
from isoflop.scaling.laws.law import (
    AMPLITUDE,
    COARSE,
    COMPLEX_STEP,
    EXPONENT,
    FLOOR,
    Allocation,
    Array,
    Box,
    Law,
    Paper,
    Preset,
)

REPEAT_WORTH = 15.387756  # R_D as fitted by Muennighoff et al. 2023
EXCESS_WORTH = 5.309743  # R_N
MOST_REPEATS = 700.0  # ln of them: beyond, floating point ends


PAPER = Paper(
    "muennighoff2023scaling",
    "Muennighoff, Niklas and Rush, Alexander M. and Barak, Boaz and others",
    "Scaling Data-Constrained Language Models",
    2023,
    "2305.16264",
)


@dataclass(frozen=True)
class DataConstrained(Law):
    """L(N, D, U) = E + A N'^-alpha + B D'^-beta  (Muennighoff et al. 2023, eqs. 5 to 7), U the unique tokens

    D' = U (1 + R_D (1 - exp(-(D/U - 1)/R_D))): repeats are worth less and less. N' likewise from U_N = min(N, the
    compute-optimal N of U tokens), with R_N: parameters beyond what the data can teach decay too.
    """

    E: float
    A: float
    B: float
    alpha: float
    beta: float
    R_D: float
    R_N: float

    name: ClassVar[str] = "data-constrained"
    formula: ClassVar[str] = "L = E + A N'^-alpha + B D'^-beta, D' = U(1 + R_D(1 - e^(-(D/U-1)/R_D))), N' likewise"
    paper: ClassVar[Paper | None] = PAPER
    source: ClassVar[str] = PAPER.cite("eqs. 5-7")
    caution: ClassVar[str] = (
        "Beyond the epochs that the table holds. Where no size is large enough to over-fit, R_N ends at its bound."
    )
    typical: ClassVar[tuple[float, ...]] = (1.9, 520.0, 1490.0, 0.35, 0.36, 15.0, 5.0)
    rank: ClassVar[int] = 40
    presets: ClassVar[dict[str, Preset]] = {"data-constrained": Preset(roles=("choose",))}
    floor_name: ClassVar[str | None] = "E"
    usual: ClassVar[dict[str, tuple[float, float]]] = Law.usual | {"alpha": (0.15, 0.9), "beta": (0.15, 0.9)}
    open_ended: ClassVar[dict[str, str]] = {
        "R_D": "add runs with at least four epochs at three or more sizes of unique data",
        "R_N": "add runs with several times more parameters than their unique data support",
    }
    inputs: ClassVar[tuple[str, ...]] = ("N", "D", "U")
    scales: ClassVar[tuple[str, ...]] = ("N", "D")
    ties: ClassVar[tuple[str, str] | None] = ("alpha", "beta")
    amplitudes: ClassVar[tuple[str, ...]] = ("E", "A", "B")
    box: ClassVar[dict[str, Box]] = {
        "E": FLOOR,
        "A": AMPLITUDE,
        "B": AMPLITUDE,
        "alpha": EXPONENT,
        "beta": EXPONENT,
        "R_D": Box(1e-2, 1e4, log=True, grid=(2.0, 10.0, 60.0)),
        "R_N": Box(1e-2, 1e4, log=True),
    }

    def __call__(self, N: Any, D: Any, U: Any) -> Any:
        # In logarithms: U_N of a small alpha lies outside floating point.
        n, balance = np.log(N), np.log(self.alpha * self.A / (self.beta * self.B))
        n_opt = (balance + self.beta * np.log(U)) / self.alpha
        u_n = np.where(np.real(n) < np.real(n_opt), n, n_opt)
        over = np.where(np.real(n - u_n) < MOST_REPEATS, n - u_n, MOST_REPEATS)
        size = u_n + np.log(_effective(np.exp(over), 1.0, self.R_N))
        tokens = _effective(D, np.where(np.real(D) < np.real(U), D, U), self.R_D)
        return self.E + self.A * np.exp(-self.alpha * size) + self.B * np.power(tokens, -self.beta)

    @classmethod
    def evaluate(cls, theta: Array, x: Mapping[str, Array]) -> tuple[Array, Array]:
        """Loss and analytic derivatives, on either side of the kink at U_N = N."""
        E, log_A, log_B, alpha, beta, log_R_D, log_R_N = theta.T[..., None]
        unique = np.minimum(x["U"], x["D"])
        n_opt = (np.log(alpha / beta) + log_A - log_B + beta * x["U"]) / alpha
        capped = n_opt < x["N"]
        u_n = np.where(capped, n_opt, x["N"])
        d_log, _, d_by_r = _log_effective(x["D"], unique, log_R_D)
        n_log, n_by_u, n_by_r = _log_effective(x["N"], u_n, log_R_N)
        n_term, d_term = np.exp(log_A - alpha * n_log), np.exp(log_B - beta * d_log)
        # Where the optimum of U caps U_N, the amplitudes and exponents move it too.
        pull = np.where(capped, -alpha * n_term * n_by_u, 0.0)
        jacobian = [
            np.ones_like(n_term),
            n_term + pull / alpha,
            d_term - pull / alpha,
            -n_log * n_term + pull * (1.0 / alpha - n_opt) / alpha,
            -d_log * d_term + pull * (x["U"] - 1.0 / beta) / alpha,
            -beta * d_term * d_by_r,
            -alpha * n_term * n_by_r,
        ]
        return E + n_term + d_term, np.stack(jacobian, axis=1)

    def rescaled(self, units: Mapping[str, float]) -> Self:
        """A takes the factor unit^-alpha, B unit^-beta; U must be counted in the unit of D."""
        A = self.A * np.power(units.get("N", 1.0), -self.alpha)
        B = self.B * np.power(units.get("D", 1.0), -self.beta)
        return type(self)(self.E, A, B, self.alpha, self.beta, self.R_D, self.R_N)

    @classmethod
    def shapes(cls, x: Mapping[str, Array], loss: Array) -> dict[str, tuple[float, ...]]:
        """Grids of both exponents and of R_D."""
        return {"alpha": COARSE, "beta": COARSE, "R_D": cls.box["R_D"].grid}

    @classmethod
    def linearise(cls, shape: Mapping[str, Array], x: Mapping[str, Array], loss: Array) -> tuple[Array, Array, Array]:
        """L = E + A N^-alpha + B D'^-beta, as if parameters never decayed; linear in E, A and B."""
        d_log, _, _ = _log_effective(x["D"], np.minimum(x["U"], x["D"]), np.log(shape["R_D"]))
        n_term = np.exp(-shape["alpha"] * x["N"])
        basis = np.stack([np.ones_like(n_term), n_term, np.exp(-shape["beta"] * d_log)], axis=1)
        return basis, loss, 1.0 / loss

    @classmethod
    def more_starts(cls, theta: Array, free: frozenset[str]) -> Array:
        """The starts at several values of R_N, where it is free."""
        starts = []
        for R_N in (1.0, 5.0, 30.0, 300.0) if "R_N" in free else (np.nan,):
            start = theta.copy()
            if "R_N" in free:
                start[:, 6] = np.log(R_N)
            starts.append(start)
        return np.concatenate(starts)

    def optimal(self, C: Any, cost: Cost = SIX_ND, *, unique_tokens: Any = np.inf) -> Allocation:
        """Numerical; `unique_tokens` is the U available, by default enough never to repeat."""
        C = np.asarray(C, dtype=float)
        return self.search(C, cost, lambda N, D: self(N, D, np.where(np.real(D) < unique_tokens, D, unique_tokens)))


@dataclass(frozen=True)
class Repeats:
    """What repeats are worth to a law of N and D that does not read unique tokens (eqs. 5 to 7).

    Where D exceeds `unique`, its tokens count as the fresh ones D' worth as much, and its parameters as N', from the
    size that is compute-optimal for `unique` tokens under the law itself.
    """

    law: Callable[..., Any]
    unique: float
    R_D: float = REPEAT_WORTH
    R_N: float = EXCESS_WORTH

    def __call__(self, N: Any, D: Any) -> Any:
        """The law's loss of N parameters on D tokens, elementwise."""
        again = np.real(D) > self.unique
        first = np.where(np.real(N) < self._enough, N, self._enough)
        n = np.where(again, _effective(N, first, self.R_N), N)
        d = np.where(again, _effective(D, np.where(again, self.unique, D), self.R_D), D)
        return self.law(n, d)

    @cached_property
    def _enough(self) -> Any:
        """The size whose loss falls as fast with ln N as with ln D at `unique` tokens, by bisection."""
        if not np.isfinite(self.unique):
            return np.inf
        lo: Any = 0.0
        hi: Any = 60.0
        step = COMPLEX_STEP
        for _ in range(80):
            middle = 0.5 * (lo + hi)
            by_n = np.imag(self.law(np.exp(middle + 1j * step), self.unique))
            by_d = np.imag(self.law(np.exp(middle), self.unique * np.exp(1j * step)))
            lo, hi = np.where(by_n < by_d, middle, lo), np.where(by_n < by_d, hi, middle)
        return np.exp(middle)


def _effective(seen: Any, unique: Any, R: Any) -> Any:
    """The new tokens (or parameters) that `seen` ones are worth when only `unique` are new and repeats decay with R."""
    return unique * (1.0 + R * (1.0 - np.exp((1.0 - seen / unique) / R)))


def _log_effective(seen: Array, unique: Array, log_R: Array) -> tuple[Array, Array, Array]:
    """ln of `_effective` from logs of its arguments, and its derivatives in ln unique and ln R."""
    R = np.exp(log_R)
    ratio = np.exp(np.minimum(seen - unique, MOST_REPEATS))
    repeats = np.maximum(ratio - 1.0, 0.0)
    decay = np.exp(-repeats / R)
    factor = 1.0 + R * (1.0 - decay)
    by_unique = 1.0 - ratio * decay / factor
    by_R = (R * (1.0 - decay) - repeats * decay) / factor
    return unique + np.log(factor), by_unique, by_R
