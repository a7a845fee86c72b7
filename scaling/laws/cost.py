"""The training compute of a family of models as a function of its size.

A dense model spends 6 FLOPs per parameter and token on its matrix products, forward and backward, and more on
attention, whose share falls as models grow: as N^-1/3 where the width per layer stays the same. A power law through
the sizes of one table falls below 6 when it is extrapolated; `fitted_cost` gives a form that tends to 6 from above.
"""

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

Array = np.ndarray

DENSE = 6.0  # FLOPs per parameter and token of matrix products, forward and backward (Kaplan et al. 2020)
WIDTH_POWER = 1 / 3  # of N, that the width grows with while the width per layer stays the same
SAME = 1e-9  # in ln: rates this close are one constant
LEAST = 1e-4  # of the limit: a rate on its other side, or on it, counts as this far from it
MUCH_BELOW = 0.5  # of the limit: rates so low count other operations, or in another unit
STEPS, CLOSE = 60, 1e-15  # of the search for an optimum, in ln N
NEAR = 1e-6  # steps in ln N too short to measure a slope by


@dataclass(frozen=True)
class Cost:
    """Training compute of N parameters on D tokens: C = rate(N) N D, the rate in FLOPs per parameter and token.

    Without a `limit` the rate is k N^slope, between the sizes `within`, and constant beyond them. With one it is
    limit (1 + 1/y), or limit / (1 + 1/y) where `below`, with y = t0 x^2 + t1 x + t2 + t3/x of x = N^(1/3) and `terms` t
    that are not negative. Then k and slope are the power law through the table: exponents are stated under `slope`.
    """

    k: float = DENSE
    slope: float = 0.0
    limit: float | None = None
    terms: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)
    below: bool = False
    within: tuple[float, float] = (0.0, np.inf)

    @property
    def power(self) -> "Cost":
        """The power law through the table, at every size."""
        return Cost(self.k, self.slope)

    @property
    def is_power(self) -> bool:
        """Whether C is a power law of N, which has optima in closed form."""
        return self.limit is None and (self.slope == 0 or self.within == (0.0, np.inf))

    def rate(self, N: Any) -> Any:
        """FLOPs per parameter and token of N parameters, elementwise."""
        return self._rate_and_growth(N, growth=False)[0]

    def growth(self, N: Any) -> Any:
        """d ln C / d ln N at fixed D, elementwise: 1 where FLOPs per parameter do not change with size."""
        return self._rate_and_growth(N)[1]

    def _rate_and_growth(self, N: Any, *, growth: bool = True) -> tuple[Any, Any]:
        """Both, of which the width is a part, and a power dearer than all else; the second only where requested."""
        if self.limit is None:
            inside = (np.real(N) > self.within[0]) & (np.real(N) < self.within[1])
            return self.k * np.power(self._inside(N), self.slope), 1.0 + np.where(inside, self.slope, 0.0)
        x = np.power(N, WIDTH_POWER)
        y = self._gap(x)
        rate = self.limit * (y / (y + 1) if self.below else (y + 1) / y)
        if not growth:
            return rate, None
        share = WIDTH_POWER * (2 * self.terms[0] * x**2 + self.terms[1] * x - self.terms[3] / x) / (y * (y + 1))
        return rate, 1.0 + share if self.below else 1.0 - share

    def flops(self, N: Any, D: Any) -> Any:
        """Training FLOPs of N parameters on D tokens, elementwise."""
        return self.k * np.power(N, 1.0 + self.slope) * D if self.is_power else self.rate(N) * N * D

    def tokens(self, C: Any, N: Any) -> Any:
        """Tokens that C FLOPs pay for at N parameters, elementwise."""
        return C / (self.k * np.power(N, 1.0 + self.slope)) if self.is_power else C / (self.rate(N) * N)

    def size(self, C: Any, *, tokens: Any = None, ratio: Any = 1.0) -> Any:
        """Parameters that C FLOPs pay for on so many tokens, or at the ratio D / N, elementwise."""
        known, power = (ratio, 2.0) if tokens is None else (tokens, 1.0)
        if self.is_power:
            return np.power(C / (self.k * known), 1 / (power + self.slope))
        log_c = np.log(C / known)
        begin = (log_c - np.log(DENSE)) / power
        return _root(
            lambda u: log_c - np.log(self.rate(np.exp(u))) - power * u, begin, power, smooth=self.limit is not None
        )

    def optimal_size(self, log_ratio: Any, alpha: float, beta: float, C: Array) -> Array:
        """N where alpha A N^-alpha = growth beta B D^-beta at C FLOPs; `log_ratio` is ln(alpha A / (beta B)).

        That is where a loss that falls with A N^-alpha + B D^-beta is least (Hoffmann et al. 2022, eq. 4).
        """
        s = 1.0 + self.slope
        log_n = (log_ratio - np.log(s) + beta * np.log(C / self.k)) / (alpha + s * beta)
        if self.is_power:
            return np.exp(log_n)

        def balance(u: Any) -> Any:
            n = np.exp(u)
            rate, growth = self._rate_and_growth(n)
            return log_ratio - alpha * u + beta * np.log(C / (rate * n)) - np.log(growth)

        return _root(balance, log_n, alpha + beta, smooth=self.limit is not None)

    def _inside(self, N: Any) -> Any:
        lo, hi = self.within
        return np.where(np.real(N) < lo, lo, np.where(np.real(N) > hi, hi, N))

    def _gap(self, x: Any) -> Any:
        """How many times smaller than its matrix products the rest of a model's compute is; x is N^(1/3)."""
        return (self.terms[0] * x + self.terms[1]) * x + self.terms[2] + self.terms[3] / x


SIX_ND = Cost()


def fitted_cost(
    n_params: Array,
    rate: Array,
    *,
    limit: float = DENSE,
    further: tuple[Array, Array] | None = None,
    other_weights: bool = False,
) -> Cost:
    """The cost of sizes (n,) with known FLOPs per parameter and token (n,), which tend to `limit`.

    `further` are sizes and rates of larger models of the family, where they are known. `other_weights` says that N
    leaves weights of matrix products out, or counts others, whose share falls as x^-2. Rates that move away from the
    limit are a power law inside the table, and constant beyond.
    """
    x, y = np.log(n_params), np.log(rate)
    slope, intercept = np.polyfit(x - x.mean(), y, 1).tolist() if np.ptp(x) else (0.0, float(y.mean()))
    constant = np.ptp(y) < SAME
    if (constant and (further is None or np.ptp(np.log(further[1])) < SAME)) or (further is None and np.ptp(x) == 0):
        return Cost(float(np.exp(y.mean())))
    k = float(np.exp(intercept - slope * x.mean()))
    below = bool(y.mean() < np.log(limit))
    terms = _terms(
        n_params, rate / limit, below, further and (further[0], further[1] / limit), 0 if other_weights else 1
    )
    if terms[0] + terms[1] == 0 or np.exp(y.mean()) < MUCH_BELOW * limit:
        return Cost(k, slope, within=(float(n_params.min()), float(n_params.max())))
    return Cost(k, slope, limit, terms, below)


def _terms(
    n_params: Array, ratio: Array, below: bool, further: tuple[Array, Array] | None, first: int
) -> tuple[float, ...]:
    """The terms by least squares of the relative error of the rate, none negative, from the `first` on; the table
    counts as much as what lies further."""
    counts = np.full(len(n_params), 1 / len(n_params))
    if further is not None:
        n_params, ratio = np.concatenate([n_params, further[0]]), np.concatenate([ratio, further[1]])
        counts = np.concatenate([counts, np.full(len(further[0]), 1 / len(further[0]))])
    gap = 1 / np.maximum((1 / ratio if below else ratio) - 1, LEAST)
    weight = np.sqrt(counts) / (gap * (gap + 1))
    x = np.power(n_params, WIDTH_POWER)
    design, target = np.stack([x**2, x, np.ones_like(x), 1 / x], axis=1) * weight[:, None], gap * weight
    best, least = np.zeros(4), np.inf
    for columns in (list(c) for count in (1, 2, 3, 4) for c in combinations(range(first, 4), count)):
        values = np.linalg.lstsq(design[:, columns], target, rcond=None)[0]
        misfit = float(np.sum((design[:, columns] @ values - target) ** 2))
        if (values >= 0).all() and misfit < least * (1 - SAME):
            best, least = np.zeros(4), misfit
            best[columns] = values
    return tuple(best.tolist())


def _root(function: Any, start: Any, slope: Any, *, smooth: bool) -> Any:
    """exp(u) where a function that falls about as fast as slope x u crosses 0, from `start`, (n,) or (rows, n).

    Of a smooth function the slope is measured anew at each step: the secant method. A row stays once all of it is
    there, as it would alone.
    """
    u = np.asarray(start, dtype=float)
    before = move = np.zeros_like(u)
    moves: Any = True
    for _ in range(STEPS):
        value = function(u)
        far = np.abs(move) > NEAR
        if smooth and far.any():
            fall = (before - value) / np.where(far, move, 1.0)
            slope = np.where(far & (fall > 0), fall, slope)
        before, move = value, value / slope
        u = u + (move if np.all(moves) else np.where(moves, move, 0.0))
        near = np.asarray(np.abs(move) <= CLOSE * np.maximum(np.abs(u), 1.0))
        moves = moves & ~near.all(axis=-1, keepdims=True)
        if not moves.any():
            break
    return np.exp(u)
