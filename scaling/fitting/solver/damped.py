"""Damped quadratic models of many problems, solved for their steps."""

import math
from dataclasses import dataclass

import numpy as np

from isoflop.scaling.fitting.objective import Array


@dataclass
class Damped:
    """Damped quadratic models (B, P, P) made ready to be solved for the parameters that are not `fixed` (B, P).

    `matrix` is the model over the roots of its diagonal, `scale` (B, P), with the unit matrix in the rows and columns
    of what is fixed; `size` (B, P) and `along` (B, P, P) are its eigenvalues and vectors, where steps may bend.
    """

    model: Array
    fixed: Array
    scale: Array
    matrix: Array
    size: Array | None = None
    along: Array | None = None

    @classmethod
    def of(cls, model: Array, fixed: Array, *, curved: bool) -> "Damped":
        """The models with those parameters fixed; `curved` where their steps may bend."""
        scale = np.sqrt(np.maximum(np.abs(diagonal(model)), 1e-200))
        matrix = model / (scale[:, :, None] * scale[:, None, :])
        if some_fixed := np.count_nonzero(fixed):
            free = ~fixed
            matrix = np.where(free[:, :, None] & free[:, None, :], matrix, 0.0)
        own = diagonal(matrix)
        own += np.where(fixed, 1.0, 1e-14) if some_fixed else 1e-14
        if not math.isfinite(np.add.reduce(matrix, axis=None)):
            matrix = np.where(np.isfinite(matrix), matrix, 0.0)
        size, along = np.linalg.eigh(matrix) if curved else (None, None)
        return cls(model, fixed, scale, matrix, size, along)

    def take(self, keep: Array) -> "Damped":
        """Those of the problems at the places `keep`."""
        if len(keep) == len(self.model):
            return self
        kept = (self.model[keep], self.fixed[keep], self.scale[keep], self.matrix[keep])
        return Damped(*kept, *(None if a is None else a[keep] for a in (self.size, self.along)))

    def replace(self, at: Array, other: "Damped") -> None:
        """Fix and decompose the problems at the places `at` as the other has them."""
        self.fixed[at] = other.fixed
        if self.size is not None and self.along is not None:
            self.size[at], self.along[at] = other.size, other.along

    def solve(self, right: Array, held: Array | None = None) -> Array:
        """What solves model x = right (B, P) over the parameters not fixed, those being held at these values, or at 0.

        With eigenvalues every negative one is taken as if it were positive.
        """
        if held is not None and np.count_nonzero(held):
            right = right - np.einsum("bpq,bq->bp", self.model, held)
        if some_fixed := np.count_nonzero(self.fixed):
            right = np.where(self.fixed, 0.0, right)
        right = right / self.scale
        if not math.isfinite(np.add.reduce(right, axis=None)):
            right = np.nan_to_num(right)
        if self.size is None or self.along is None:
            solved = _plain_solve(self.matrix, right)
        else:
            part = np.einsum("bpq,bp->bq", self.along, right) / np.maximum(np.abs(self.size), 1e-14)
            solved = np.einsum("bpq,bq->bp", self.along, part)
        solved /= self.scale
        return np.where(self.fixed, 0.0 if held is None else held, solved) if some_fixed else solved


def diagonal(matrix: Array) -> Array:
    """The diagonals (B, P) of matrices (B, P, P) that lie in one piece, to be read and written."""
    return matrix.reshape(len(matrix), -1)[:, :: matrix.shape[-1] + 1]


def _plain_solve(matrix: Array, right: Array) -> Array:
    """Solve with those matrices (B, P, P) alone that are singular made regular."""
    try:
        return np.linalg.solve(matrix, right[..., None])[..., 0]
    except np.linalg.LinAlgError:
        if len(matrix) > 1:
            return np.concatenate([_plain_solve(matrix[k : k + 1], right[k : k + 1]) for k in range(len(matrix))])
        return np.linalg.solve(matrix + 1e-8 * np.eye(matrix.shape[-1]), right[..., None])[..., 0]
