"""What a fit minimises: always a weighted sum over points, never a mean; and the terms of the solver that does it."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class Huber:
    """Sum of Huber's function of the residuals: r^2/2 up to delta, delta(|r| - delta/2) beyond (Huber 1964).

    `delta` is in units of the residual; "auto" is 1.345 times their robust scale. `residual` is "log" for residuals of
    ln loss, "raw" for residuals of loss. Raises ValueError for another value of either.

    >>> import isoflop
    >>> fitted = isoflop.fit("chinchilla", isoflop.example("quick"), objective=isoflop.Huber(1e-3))
    >>> fitted.delta
    0.001
    """

    delta: float | Literal["auto"] = "auto"
    residual: Literal["log", "raw"] = "log"

    def __post_init__(self) -> None:
        _check_residual(self.residual)
        if self.delta != "auto" and not self.delta > 0:
            raise ValueError(f"Huber delta must be positive or 'auto', not {self.delta}")

    def __str__(self) -> str:
        return f"sum of Huber on {'ln loss' if self.residual == 'log' else 'loss'}"


@dataclass(frozen=True)
class LeastSquares:
    """Half the sum of squared residuals, of ln loss ("log") or of loss ("raw").

    >>> import isoflop
    >>> fitted = isoflop.fit("chinchilla", isoflop.example("quick"), objective=isoflop.LeastSquares())
    >>> str(fitted.objective)
    'half the sum of squares on ln loss'
    """

    residual: Literal["log", "raw"] = "log"

    def __post_init__(self) -> None:
        _check_residual(self.residual)

    @property
    def delta(self) -> float:
        """Infinite: Huber's function without a linear part."""
        return np.inf

    def __str__(self) -> str:
        return f"half the sum of squares on {'ln loss' if self.residual == 'log' else 'loss'}"


def _check_residual(residual: str) -> None:
    if residual not in ("log", "raw"):
        raise ValueError(f"residual must be 'log' or 'raw', not {residual!r}")


Objective = Huber | LeastSquares


def huber(residual: Array, weights: Array, delta: float | Array) -> Array:
    """Sum over the last axis of weight times Huber's function: r^2/2 within delta, delta(|r| - delta/2) beyond."""
    return huber_of(residual, within(residual, delta), weights)


def within(residual: Array, delta: float | Array) -> Array:
    """Residuals moved to the nearest of -delta and delta where they are beyond: Huber's psi."""
    return np.minimum(np.maximum(residual, -delta), delta)


def huber_of(residual: Array, bounded: Array, weights: Array) -> Array:
    """The sum of `huber` for residuals whose `within` is known."""
    return np.einsum("...n,...n->...", weights, bounded * (residual - 0.5 * bounded))


class Problem(Protocol):
    """What `minimise` needs of a problem with P coordinates and n rows.

    One that can be worked out at once with others also has `alike`, `beside` and `take`, as a `FitProblem` has.
    """

    @property
    def lower(self) -> Array:
        """Lower bounds (P,) of the coordinates."""

    @property
    def upper(self) -> Array:
        """Upper bounds (P,) of the coordinates."""

    @property
    def one_basin(self) -> bool:
        """Whether `curvature` is to be trusted from the first step; otherwise it is called only after many steps."""

    @property
    def log(self) -> bool:
        """Whether the residuals are differences of ln loss, otherwise of loss."""

    def residuals(self, theta: Array) -> tuple[Array, Array, Array]:
        """Residuals (B, n), their gradient in theta (B, P, n), and their gradient in every parameter of the form."""

    def curvature(self, theta: Array, full: Array, weight: Array) -> Array:
        """Sum of weight times the second derivative of the fitted loss (relative to it when `log`), (B, P, P)."""


@dataclass(frozen=True)
class Anchor:
    """A quadratic pull of a quantity towards values: stiffness/2 (quantity - target)^2, one target per problem."""

    quantity: Callable[[Array], tuple[Array, Array]]  # theta (B, P) -> value (B,), gradient (B, P)
    target: Array
    stiffness: Array


@dataclass(frozen=True)
class Solution:
    """Where each of B problems ended: coordinates theta (B, P), objective without any anchor (B,), steps taken (B,)."""

    theta: Array
    value: Array
    converged: Array
    steps: Array


@dataclass(frozen=True)
class Task:
    """A problem to be minimised from every row of start (B, P), with weights (n,) or (B, n) of its rows.

    `delta` is Huber's, one for all rows or (n,), infinite for half squares.
    """

    problem: Problem
    start: Array
    delta: float | Array
    weights: Array

    @cached_property
    def alike(self) -> Hashable:
        """Equal for tasks whose problems can be worked out at once, each on rows of its own."""
        kind = getattr(self.problem, "alike", None)
        return id(self) if kind is None else (kind, self.robust, self.squares)

    @cached_property
    def squares(self) -> bool:
        """Whether every residual counts by its square."""
        return bool(np.isinf(self.delta).all())

    @cached_property
    def robust(self) -> bool:
        """Whether every residual counts less beyond delta: not of least squares, nor where some rows have no delta."""
        return bool(np.isfinite(self.delta).all())
