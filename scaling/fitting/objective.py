"""What a fit minimises: always a weighted sum over points, never a mean."""

from dataclasses import dataclass
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class Huber:
    """Sum of Huber's function of the residuals: r^2/2 up to delta, delta(|r| - delta/2) beyond (Huber 1964).

    `delta` is in units of the residual; "auto" is 1.345 times their robust scale. `residual` is "log" for residuals of
    ln loss, "raw" for residuals of loss. Raises ValueError for another value of either.
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
    """Half the sum of squared residuals, of ln loss ("log") or of loss ("raw")."""

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
