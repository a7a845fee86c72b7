"""Rows of runs in a file of another kind than the run table: a CSV or a plain parquet of all its columns."""

import numpy as np
import pandas as pd

from isoflop.read_json import MAX_INT
from isoflop.scaling.table.columns import row_names
from isoflop.scaling.table.formats.run_columns import COLUMNS, NEEDED
from isoflop.scaling.table.migrate import complete
from isoflop.scaling.table.runs import RunTableError

POSITIVE = ("n_layer", "d_model", "vocab_size", "context_length", "n_params_total", "unique_tokens", "batch_tokens")
LEAST = dict.fromkeys(POSITIVE, 1) | {"seed": -MAX_INT}  # of whole numbers; the others are 0 or more
_BOOLS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}


def as_runs(frame: pd.DataFrame, *, source: str) -> pd.DataFrame:
    """Rows with the columns of a run table, as a file of another kind holds them, in its types.

    Columns that tables of earlier versions lack are added, and so are those of clocks and machines, empty. Raises
    RunTableError naming the column, the rows and a value that is no number, or neither true nor false, and columns that
    every run has.
    """
    if absent := [name for name in NEEDED if name not in frame]:
        raise RunTableError(
            f"{source}: it has the columns of a run table (final, state, n_params_total) and lacks "
            f"{', '.join(absent)}: keep all columns of a run, or n_params, tokens, flops and loss alone"
        )
    dtypes = {column.name: column.dtype for column in COLUMNS if column.name in frame}
    typed = {name: _typed(frame[name], name, dtype) for name, dtype in dtypes.items()}
    for name, values in typed.items():
        must = dtypes[name] in ("bool", "int64") and name in NEEDED
        wrong = (values.isna() & (frame[name].notna() | must)).to_numpy()
        if wrong.any():
            raise RunTableError(
                f"{source}: {name} is not {_kind(name, dtypes[name])} in {wrong.sum()} of {len(frame)} rows "
                f"({row_names(frame, wrong)}): {frame[name][wrong].tolist()[0]!r}; correct them"
            )
    unknown = {c.name: "" if c.dtype == "string" else np.nan for c in COLUMNS if c.volatile and c.name not in frame}
    return complete(frame.assign(**typed, **unknown))


def _kind(name: str, dtype: str) -> str:
    if dtype != "int64":
        return "true or false" if dtype == "bool" else "a number"
    return "a whole number" if name == "seed" else f"a whole number of {LEAST.get(name, 0)} or more"


def _typed(column: pd.Series, name: str, dtype: str) -> pd.Series:
    """A column as the run table has it, None or NaN where a value is none of its kind."""
    if dtype == "string":
        return column.astype("str").where(column.notna(), "")
    if dtype == "bool":
        return column if column.dtype == bool else column.map(lambda value: _BOOLS.get(str(value).strip().lower()))
    numbers = column if pd.api.types.is_numeric_dtype(column) else pd.to_numeric(column, errors="coerce")
    if dtype != "int64":
        return numbers
    whole = np.isfinite(numbers) & (numbers == np.floor(numbers)) & (numbers < MAX_INT)
    return numbers.where(whole & (numbers >= LEAST.get(name, 0)))
