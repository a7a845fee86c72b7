"""The curve that a law E + A/N^alpha + B/D^beta takes along a budget, with alpha and beta shared by every budget.

The loss is c0 + c1 N^-alpha + c2 D^-beta, linear in c given the exponents. At C = k N^(1+s) D, with u = ln(N / N*) and
b = beta (1+s), that is L* + q [(e^(-alpha u) - 1) / alpha + (e^(b u) - 1) / b]. So each budget costs a linear
least-squares fit of its relative residuals, and only the two exponents are searched for. A weak prior on them, whose
weight vanishes with the noise, keeps noisy profiles from chasing it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from isoflop.scaling.laws.cost import Cost

PRIOR_LOG_EXPONENT, PRIOR_SD = np.log(0.35), 0.5
LIMITS = (np.log(0.02), np.log(2.0))  # of the ln exponents


@dataclass(frozen=True)
class ProfileShape:
    """Exponents alpha and beta shared by the budgets, and the relative noise of the points around the curves.

    `freedom` is the number of degrees of freedom of the noise, for each budget.
    """

    alpha: float
    beta: float
    noise: float
    freedom: float = 0.0

    def minimum(
        self, frame: pd.DataFrame, flops: float, cost: Cost
    ) -> tuple[float, float, Callable[[np.ndarray], np.ndarray], str]:
        """The optimum of one budget: ln N* (infinite on a slope), its sd, the curve of loss against N, and a reason.

        The reason says why there is no optimum and is empty otherwise. `frame` has n_params, tokens and loss.
        """
        axes = _Axes.of(frame)
        design, c = axes.solve(self.alpha, self.beta)
        log_n0, log_d0 = axes.log_n0, axes.log_d0

        curve = partial(self._loss, c, log_n0, log_d0, flops, cost)
        if c[1] <= 0 and c[2] <= 0:
            return np.nan, np.nan, curve, "the profile is concave: the loss is highest between the sizes"
        if c[1] <= 0 or c[2] <= 0:
            return (-np.inf if c[1] <= 0 else np.inf), np.nan, curve, ""
        log_ratio = np.log(self.alpha * c[1] / (self.beta * c[2])) + self.alpha * log_n0 - self.beta * log_d0
        n_opt = cost.optimal_size(log_ratio, self.alpha, self.beta, np.asarray(flops))
        beta_n = self.beta * float(cost.growth(n_opt))
        gradient = np.array([0.0, 1 / c[1], -1 / c[2]]) / (self.alpha + beta_n)
        covariance = self.noise**2 * np.linalg.pinv(design.T @ design)
        return float(np.log(n_opt)), float(np.sqrt(gradient @ covariance @ gradient)), curve, ""

    def _loss(
        self, c: np.ndarray, log_n0: float, log_d0: float, flops: float, cost: Cost, n_params: np.ndarray
    ) -> np.ndarray:
        """The loss of sizes (n,) trained with `flops`, by the coefficients c (3,) about ln N and ln D."""
        log_n, log_d = np.log(n_params), np.log(cost.tokens(flops, n_params))
        return c[0] + c[1] * np.exp(-self.alpha * (log_n - log_n0)) + c[2] * np.exp(-self.beta * (log_d - log_d0))


def fit_shape(budgets: Sequence[pd.DataFrame], cost: Cost) -> ProfileShape:
    """The exponents that fit all budgets best; the prior's centre when no budget has more than three sizes."""
    informative = [g for g in budgets if g["n_params"].nunique() > 3]
    spare = sum(len(g) - 3 for g in informative) - 2
    start = np.full(2, PRIOR_LOG_EXPONENT)
    if not informative or spare <= 0:
        return ProfileShape(float(np.exp(start[0])), float(np.exp(start[1])), noise=0.0)

    misfit = _misfit([_Axes.of(g) for g in informative])
    noise = np.sqrt(np.sum(misfit(start[None]) ** 2) / spare)
    for _ in range(20):
        previous = noise

        def penalised(p: np.ndarray, weight: float = noise / PRIOR_SD) -> np.ndarray:
            return np.concatenate([misfit(p), weight * (p - PRIOR_LOG_EXPONENT)], axis=1)

        start = _descend(penalised, start)
        noise = np.sqrt(np.sum(misfit(start[None]) ** 2) / spare)
        if noise < 1e-12 or abs(noise / previous - 1) < 1e-2:
            break
    return ProfileShape(float(np.exp(start[0])), float(np.exp(start[1])), float(noise), spare / len(informative))


def _misfit(budgets: "Sequence[_Axes]") -> Callable[[np.ndarray], np.ndarray]:
    """The relative residuals (K, n) of all budgets at K pairs of ln exponents (K, 2).

    The budgets are solved at once: rows of zeros fill the shorter ones, and have no residual.
    """
    rows = max(len(b.loss) for b in budgets)
    log_n, log_d, loss, known = (
        np.stack([np.pad(values, (0, rows - len(values)), constant_values=fill) for values in of_each])
        for of_each, fill in (
            ([b.log_n for b in budgets], 0.0), ([b.log_d for b in budgets], 0.0), ([b.loss for b in budgets], 1.0),
            ([np.ones_like(b.loss) for b in budgets], 0.0),
        )
    )  # fmt: skip
    rounding = rows * np.finfo(float).eps

    def residuals(log_exponents: np.ndarray) -> np.ndarray:
        alpha, beta = np.exp(log_exponents).T[:, :, None, None]
        columns = np.broadcast_arrays(1.0, np.exp(-alpha * log_n), np.exp(-beta * log_d))
        basis, size, _ = np.linalg.svd(np.stack(columns, axis=-1) * (known / loss)[..., None], full_matrices=False)
        basis = basis * (size > rounding * size[..., :1])[..., None, :]  # of runs of one D there are two columns
        fitted = basis @ (np.swapaxes(basis, -1, -2) @ known[..., None])
        return np.asarray((known[..., None] - fitted).reshape(len(log_exponents), -1))

    return residuals


def _descend(function: Callable[[np.ndarray], np.ndarray], start: np.ndarray, *, step: float = 1e-6) -> np.ndarray:
    """Minimise the sum of squares of `function` from `start` inside LIMITS, by damped Gauss-Newton.

    `function` gives the residuals (K, n) of K points. scipy.optimize would do, but importing it costs as much as
    everything else that `isoflop fit` imports from scipy.
    """
    at, damping = start, 1e-3
    for _ in range(100):
        value, *moved_by = function(at + step * np.vstack([np.zeros(len(at)), np.eye(len(at))]))
        jacobian = np.stack([(one - value) / step for one in moved_by], axis=1)
        normal, gradient = jacobian.T @ jacobian, jacobian.T @ value
        while damping < 1e6:
            move = -np.linalg.solve(normal + damping * np.diag(np.diag(normal) + 1e-30), gradient)
            there = np.clip(at + move, *LIMITS)
            (lower,) = function(there[None])
            if lower @ lower <= value @ value:
                break
            damping *= 10
        else:
            return at
        moved, at, damping = np.abs(there - at).max(), there, damping / 10
        if moved < 1e-7:
            break
    return at


@dataclass(frozen=True)
class _Axes:
    """A budget's points as arrays: ln N and ln D about their means, and the loss."""

    log_n: np.ndarray
    log_d: np.ndarray
    loss: np.ndarray
    log_n0: float
    log_d0: float

    @classmethod
    def of(cls, frame: pd.DataFrame) -> "_Axes":
        log_n, log_d = np.log(frame["n_params"].to_numpy(float)), np.log(frame["tokens"].to_numpy(float))
        log_n0, log_d0 = float(log_n.mean()), float(log_d.mean())
        return cls(log_n - log_n0, log_d - log_d0, frame["loss"].to_numpy(float), log_n0, log_d0)

    def design(self, alpha: float, beta: float) -> np.ndarray:
        """Columns 1, N^-alpha, D^-beta divided by the loss: the target of relative residuals is 1."""
        columns = [np.ones_like(self.loss), np.exp(-alpha * self.log_n), np.exp(-beta * self.log_d)]
        return np.stack(columns, axis=1) / self.loss[:, None]

    def solve(self, alpha: float, beta: float) -> tuple[np.ndarray, np.ndarray]:
        design = self.design(alpha, beta)
        return design, np.linalg.lstsq(design, np.ones_like(self.loss), rcond=None)[0]
