"""The final evaluation of a run in detail: loss by position and by document, in `evaluation.parquet` of its folder.

Two runs that were measured on the same documents are compared document by document: the difference has far less noise
than either loss.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from isoflop.scaling.table.formats.run_columns import Column
from isoflop.scaling.table.runs import read_parquet, write_parquet

EVALUATION_FILE = "evaluation.parquet"
COLUMNS: tuple[Column, ...] = (
    Column("run_id", "string", "", "the run"),
    Column("measure", "string", "", "what a row is of: position, document, or window where documents are unknown"),
    Column("number", "int64", "", "position in the window from 1; document or window on the held-out side from 0"),
    Column("targets", "int64", "tokens", "tokens predicted there"),
    Column("loss", "float64", "nats/token", "their mean cross-entropy"),
    Column("accuracy", "float64", "", "share of them predicted exactly"),
)
NAMES = tuple(column.name for column in COLUMNS)
_ARROW_SCHEMA = pa.schema([(column.name, getattr(pa, column.dtype)()) for column in COLUMNS])


def write_evaluation(path: Path, rows: pd.DataFrame) -> None:
    """Write one run's rows (the columns of `COLUMNS`) to `path` atomically."""
    write_parquet(path, pa.Table.from_pandas(rows[list(NAMES)], schema=_ARROW_SCHEMA, preserve_index=False))


def read_evaluation(path: Path) -> pd.DataFrame:
    """One run's rows. Raises RunTableError for a file that is no evaluation."""
    remedy = "not the evaluation of a run: delete it to have it made anew"
    return read_parquet(path, _ARROW_SCHEMA, remedy).to_pandas()


@dataclass(frozen=True)
class Paired:
    """Mean of a less that of b over `units` documents, windows or items of both, with its standard error `se`."""

    difference: float
    se: float
    units: int
    unit: str

    @property
    def within_error(self) -> bool:
        """Whether the difference is at most two standard errors."""
        return abs(self.difference) <= 2 * self.se

    def __str__(self) -> str:
        text = f"{self.difference:+.4f} +- {self.se:.4f} over {self.units} {self.unit}s"
        return f"{text}, within two standard errors" if self.within_error else text


def paired_loss(a: pd.DataFrame, b: pd.DataFrame) -> Paired:
    """Difference in loss of two evaluations on the same text, nats/token.

    Raises ValueError unless both have the same targets in each document (or window), as the same text has.
    """
    (unit, left), (_, right) = _units(a), _units(b)
    if not left["targets"].equals(right["targets"]):
        names = " and ".join(str(frame["run_id"].iloc[0]) for frame in (a, b))
        raise ValueError(f"runs {names} were measured on different held-out text: their losses cannot be paired")
    return paired(left["loss"].to_numpy() - right["loss"].to_numpy(), left["targets"].to_numpy(), unit=unit)


def paired(differences: np.ndarray, weights: np.ndarray, *, unit: str) -> Paired:
    """The weighted mean of differences (n,) and its standard error, the units being independent of one another."""
    share = weights / weights.sum()
    mean = float(share @ differences)
    n = len(differences)
    spread = np.sqrt(np.sum((share * (differences - mean)) ** 2) * n / (n - 1)) if n > 1 else np.nan
    return Paired(mean, float(spread), n, unit)


def _units(rows: pd.DataFrame) -> tuple[str, pd.DataFrame]:
    units = rows[rows["measure"] != "position"].sort_values("number")
    return str(units["measure"].iloc[0]), units.set_index("number")
