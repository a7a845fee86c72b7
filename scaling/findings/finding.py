"""`Finding`, an objection of a careful reviewer found by software, and `Case`, the fit that checks look at.

Checks refit variants of the fit and compare them by likelihood ratio: `variant` and `likelihood_ratio` do that.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pandas as pd

from isoflop.scaling.fitting.draws import Draws
from isoflop.scaling.fitting.fit import Fit, Huber, LeastSquares, fit
from isoflop.scaling.laws.law import Array
from isoflop.scaling.table.conventions import Points, counted_rows
from isoflop.scaling.table.runs import final_rows, is_runs

Severity = Literal["info", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """One objection: a stable code, how bad it is, the numbers, and what would remove it.

    `columns` are those of the table that it is about, where it is about columns.
    """

    code: str
    severity: Severity
    message: str
    remedy: str
    columns: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "code": self.code, "severity": self.severity, "message": self.message, "remedy": self.remedy,
            "columns": list(self.columns),
        }  # fmt: skip

    def __str__(self) -> str:
        return f"[{self.severity}] {self.code}: {self.message}. {self.remedy[:1].upper()}{self.remedy[1:]}."


@dataclass(frozen=True)
class Case:
    """What the checks look at: a fit, its draws and its table where they are known, and the compute it is meant for.

    `level` is that of every interval and test.
    """

    fit: Fit
    draws: Draws | None
    table: pd.DataFrame | None
    target_flops: float | None
    level: float

    @property
    def points(self) -> Points:
        """The points fitted, with their conventions."""
        return self.fit.points

    @property
    def frame(self) -> pd.DataFrame:
        """The rows of those points."""
        return self.fit.points.frame

    @cached_property
    def runs(self) -> pd.DataFrame | None:
        """Final rows with every column, when the table is a run table."""
        return final_rows(self.table) if self.table is not None and is_runs(self.table) else None

    @cached_property
    def rows(self) -> pd.DataFrame | None:
        """The rows of the table that were fitted, in the order of `frame`; None without a table that holds them."""
        return rows_of(self.table, self.frame)

    @property
    def joint(self) -> bool:
        """Whether the law weighs parameters against tokens."""
        return {"N", "D"} <= set(self.fit.law.inputs)

    def half_width(self, name: str) -> float:
        """Half the width of the interval of a parameter or exponent; NaN without draws."""
        return float(np.ptp(self.draws.interval(name, self.level)) / 2) if self.draws else float("nan")


Check = Callable[[Case], Iterator[Finding]]


def rows_of(table: pd.DataFrame | None, frame: pd.DataFrame) -> pd.DataFrame | None:
    """The rows of a table, with every column, that the points of `frame` were made from; None where it has others."""
    if table is None:
        return None
    rows = counted_rows(table).reset_index(drop=True)
    same = len(rows) == len(frame) and np.allclose(rows["loss"].to_numpy(float), frame["loss"].to_numpy(float))
    return rows if same else None


def variant(
    fitted: Fit,
    *,
    fixed: dict[str, float] | None = None,
    free: tuple[str, ...] = (),
    delta: float | Literal["auto"] | None = None,
    rows: np.ndarray | None = None,
) -> Fit:
    """The same fit with parameters fixed or freed, at another delta, or of some rows.

    `delta` is a number, "auto", or None for the fit's own; `rows` is a mask (n,), or positions in an order. Raises
    FitError as `fit` does.
    """
    data, weights = fitted.points, fitted.table_weights
    if rows is not None:
        data, weights = replace(data, frame=data.frame.iloc[rows].reset_index(drop=True)), weights[rows]
    delta = fitted.delta if delta is None else delta
    residual = fitted.objective.residual
    objective = LeastSquares(residual) if delta == np.inf else Huber(delta, residual)
    pinned = {k: v for k, v in fitted.problem.pinned.items() if k not in free} | (fixed or {})
    form = type(fitted.law)
    return fit(
        form, data, objective=objective, fixed=pinned, tied=fitted.problem.tied,
        free=tuple(p for p in form.defaults() if p not in pinned), weights=weights, falls=fitted.falls,
    )  # fmt: skip


def likelihood_ratio(full: Fit, restricted: Fit) -> float:
    """Likelihood-ratio statistic of a restricted fit against the full one: chi-square with one degree of freedom.

    For Huber's objective the sum is divided by E[psi^2] / E[psi'] of the full fit (Huber and Ronchetti 2009, 7.6).
    Only ratios of weights matter.
    """
    residual = full.problem.residuals(full.theta[None])[0]
    values = np.array([restricted.value]), np.array([full.value])
    return float(likelihood_ratios(*values, residual, full.weights, full.deltas, len(full.free))[0])


def likelihood_ratios(
    restricted: Array, full: Array, residual: Array, weights: Array, delta: float | Array, n_free: int
) -> Array:
    """Likelihood-ratio statistics (S,) of many pairs of fits.

    `restricted` and `full` are their objectives (S,), `residual` (S, n) that of the full fits, `weights` (n,).
    """
    total, used = float(weights.sum()), int(np.sum(weights > 0))
    inside = np.maximum((np.abs(residual) <= delta) @ weights / total, 1.0 / used)
    psi_squared = np.minimum(np.abs(residual), delta) ** 2 @ weights / max(used - n_free, 1)
    return 2.0 * np.maximum(restricted - full, 0.0) * inside / np.maximum(psi_squared, 1e-30 * total / used)
