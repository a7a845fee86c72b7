"""Forms of N and D other than Chinchilla's: Kaplan's, one bounded by the uniform loss, one for repeated data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from isoflop.scaling.laws.law import AMPLITUDE, EXPONENT, FLOOR, SIX_ND, Allocation, Array, Box, Cost, Law

COARSE = tuple(np.geomspace(0.05, 1.4, 12).tolist())


@dataclass(frozen=True)
class Kaplan(Law):
    """L(N, D) = [(N_c/N)^(alpha_N/alpha_D) + D_c/D]^alpha_D  (Kaplan et al. 2020, eq. 1.5)

    Fitted in ln of the loss that each term alone would give at the geometric means, so N_c and D_c, which lie far
    outside any data, never enter.
    """

    N_c: float
    D_c: float
    alpha_N: float
    alpha_D: float

    name: ClassVar[str] = "kaplan"
    formula: ClassVar[str] = "L = [(N_c/N)^(alpha_N/alpha_D) + D_c/D]^alpha_D"
    source: ClassVar[str] = "Kaplan et al. 2020, arXiv 2001.08361, eq. 1.5"
    scales: ClassVar[tuple[str, ...]] = ("N", "D")
    amplitudes: ClassVar[tuple[str, ...]] = ("N_c", "D_c")
    coupled: ClassVar[dict[str, str]] = {"N_c": "alpha_N", "D_c": "alpha_D"}
    box: ClassVar[dict[str, Box]] = {
        "N_c": AMPLITUDE,
        "D_c": AMPLITUDE,
        "alpha_N": Box(0.002, 3.0, grid=tuple(np.geomspace(0.01, 1.0, 24).tolist())),
        "alpha_D": Box(0.002, 3.0, grid=tuple(np.geomspace(0.01, 1.0, 24).tolist())),
    }

    def __call__(self, N: Any, D: Any) -> Any:
        inner = np.exp(self.alpha_N / self.alpha_D * np.log(self.N_c / N)) + self.D_c / D
        return np.power(inner, self.alpha_D)

    @classmethod
    def encode(cls, values: Array) -> Array:
        theta = np.array(values, dtype=float)
        theta[..., :2] = theta[..., 2:] * np.log(np.maximum(theta[..., :2], 1e-300))
        return theta

    @classmethod
    def decode(cls, theta: Array) -> Array:
        values = np.array(theta)
        values[..., :2] = np.exp(theta[..., :2] / theta[..., 2:])
        return values

    @classmethod
    def evaluate(cls, theta: Array, x: Mapping[str, Array]) -> tuple[Array, Array]:
        A, B, alpha_N, alpha_D = theta.T[..., None]
        n_log, d_log = (A - alpha_N * x["N"]) / alpha_D, B / alpha_D - x["D"]
        n_part, d_part = np.exp(n_log), np.exp(d_log)
        inner = n_part + d_part
        loss = np.exp(alpha_D * np.log(inner))
        n_share, d_share = loss * n_part / inner, loss * d_part / inner
        by_alpha_d = loss * np.log(inner) - n_share * n_log - d_share * (d_log + x["D"])
        return loss, np.stack([n_share, d_share, -x["N"] * n_share, by_alpha_d], axis=1)

    def rescaled(self, units: Mapping[str, float]) -> Self:
        return type(self)(self.N_c / units.get("N", 1.0), self.D_c / units.get("D", 1.0), self.alpha_N, self.alpha_D)

    @classmethod
    def linearise(cls, shape: Mapping[str, Array], x: Mapping[str, Array], loss: Array) -> tuple[Array, Array, Array]:
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
        C = np.asarray(C, dtype=float)
        inner, s = self.alpha_N / self.alpha_D, 1.0 + cost.slope
        N = np.exp((np.log(inner / s) + inner * np.log(self.N_c) + np.log(C / cost.k / self.D_c)) / (inner + s))
        D = cost.tokens(C, N)
        return Allocation(N, D, C, self(N, D))

    def exponents(self, cost: Cost = SIX_ND) -> dict[str, float]:
        a = self.alpha_D / (self.alpha_N + (1.0 + cost.slope) * self.alpha_D)
        return {"a": a, "b": 1.0 - (1.0 + cost.slope) * a, "frontier": self.alpha_N * a}


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
    source: ClassVar[str] = "Alabdulmohsin et al. 2022, arXiv 2209.06640, M4 with a = 1, in N and D"
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
        return self.E + 1.0 / (1.0 / excess + 1.0 / (self.ceiling - self.E))

    @classmethod
    def evaluate(cls, theta: Array, x: Mapping[str, Array]) -> tuple[Array, Array]:
        E, A, B, alpha, beta, ceiling = theta.T[..., None]
        n_term, d_term = np.exp(A - alpha * x["N"]), np.exp(B - beta * x["D"])
        excess, room = n_term + d_term, ceiling - E
        by_excess, by_room = np.square(room / (excess + room)), np.square(excess / (excess + room))
        n_part, d_part = by_excess * n_term, by_excess * d_term
        jacobian = np.stack([1.0 - by_room, n_part, d_part, -x["N"] * n_part, -x["D"] * d_part, by_room], axis=1)
        return E + excess * room / (excess + room), jacobian

    def rescaled(self, units: Mapping[str, float]) -> Self:
        A = self.A * np.power(units.get("N", 1.0), -self.alpha)
        B = self.B * np.power(units.get("D", 1.0), -self.beta)
        return type(self)(self.E, A, B, self.alpha, self.beta, self.ceiling)

    @classmethod
    def shapes(cls, x: Mapping[str, Array], loss: Array) -> dict[str, tuple[float, ...]]:
        floors = tuple(float(f * loss.min()) for f in (0.0, 0.4, 0.7, 0.9))
        ceilings = tuple(float(f * loss.max()) for f in (1.03, 1.2, 1.6, 3.0))
        return {"E": floors, "alpha": COARSE, "beta": COARSE, "ceiling": ceilings}

    @classmethod
    def linearise(cls, shape: Mapping[str, Array], x: Mapping[str, Array], loss: Array) -> tuple[Array, Array, Array]:
        above, below = np.maximum(loss - shape["E"], 1e-3 * loss), np.maximum(shape["ceiling"] - loss, 1e-3 * loss)
        target = above * (shape["ceiling"] - shape["E"]) / below
        basis = np.stack([np.exp(-shape["alpha"] * x["N"]), np.exp(-shape["beta"] * x["D"])], axis=1)
        return basis, target, np.square(above / target) / loss

    def optimal(self, C: Any, cost: Cost = SIX_ND) -> Allocation:
        """That of the unbounded law, because the loss is increasing in its excess."""
        s = 1.0 + cost.slope
        C = np.asarray(C, dtype=float)
        log_g = np.log(self.alpha * self.A / (s * self.beta * self.B))
        N = np.exp((log_g + self.beta * np.log(C / cost.k)) / (self.alpha + s * self.beta))
        D = cost.tokens(C, N)
        return Allocation(N, D, C, self(N, D))

    def exponents(self, cost: Cost = SIX_ND) -> dict[str, float]:
        a = self.beta / (self.alpha + (1.0 + cost.slope) * self.beta)
        return {"a": a, "b": 1.0 - (1.0 + cost.slope) * a}


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
    source: ClassVar[str] = "Muennighoff et al. 2023, arXiv 2305.16264, eqs. 5-7"
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
        N_opt = np.power(self.alpha * self.A / (self.beta * self.B) * np.power(U, self.beta), 1.0 / self.alpha)
        U_N = np.where(np.real(N) < np.real(N_opt), N, N_opt)
        tokens = _worth(D, np.where(np.real(D) < np.real(U), D, U), self.R_D)
        size = _worth(N, U_N, self.R_N)
        return self.E + self.A * np.power(size, -self.alpha) + self.B * np.power(tokens, -self.beta)

    @classmethod
    def evaluate(cls, theta: Array, x: Mapping[str, Array]) -> tuple[Array, Array]:
        E, A, B, alpha, beta, R_D, R_N = theta.T[..., None]
        unique = np.minimum(x["U"], x["D"])
        n_opt = (np.log(alpha / beta) + A - B + beta * x["U"]) / alpha
        capped = n_opt < x["N"]
        u_n = np.where(capped, n_opt, x["N"])
        d_log, _, d_by_r = _log_worth(x["D"], unique, R_D)
        n_log, n_by_u, n_by_r = _log_worth(x["N"], u_n, R_N)
        n_term, d_term = np.exp(A - alpha * n_log), np.exp(B - beta * d_log)
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
        A = self.A * np.power(units.get("N", 1.0), -self.alpha)
        B = self.B * np.power(units.get("D", 1.0), -self.beta)
        return type(self)(self.E, A, B, self.alpha, self.beta, self.R_D, self.R_N)

    @classmethod
    def shapes(cls, x: Mapping[str, Array], loss: Array) -> dict[str, tuple[float, ...]]:
        return {"alpha": COARSE, "beta": COARSE, "R_D": cls.box["R_D"].grid}

    @classmethod
    def linearise(cls, shape: Mapping[str, Array], x: Mapping[str, Array], loss: Array) -> tuple[Array, Array, Array]:
        d_log, _, _ = _log_worth(x["D"], np.minimum(x["U"], x["D"]), np.log(shape["R_D"]))
        n_term = np.exp(-shape["alpha"] * x["N"])
        basis = np.stack([np.ones_like(n_term), n_term, np.exp(-shape["beta"] * d_log)], axis=1)
        return basis, loss, 1.0 / loss

    @classmethod
    def vary(cls, theta: Array, free: frozenset[str]) -> Array:
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
        return self._search(C, cost, lambda N, D: self(N, D, np.where(np.real(D) < unique_tokens, D, unique_tokens)))


def _worth(seen: Any, unique: Any, R: Any) -> Any:
    """What `seen` is worth when only `unique` of it is new and repeats decay with R."""
    return unique * (1.0 + R * (1.0 - np.exp((1.0 - seen / unique) / R)))


def _log_worth(seen: Array, unique: Array, log_R: Array) -> tuple[Array, Array, Array]:
    """ln of `_worth` from logs of its arguments, and its derivatives in ln unique and ln R."""
    R = np.exp(log_R)
    ratio = np.exp(seen - unique)
    repeats = np.maximum(ratio - 1.0, 0.0)
    decay = np.exp(-repeats / R)
    factor = 1.0 + R * (1.0 - decay)
    by_unique = 1.0 - ratio * decay / factor
    by_R = (R * (1.0 - decay) - repeats * decay) / factor
    return unique + np.log(factor), by_unique, by_R
