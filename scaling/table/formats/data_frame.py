"""What a function takes for a table: a DataFrame, or what becomes one without a guess."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from isoflop.scaling.table.columns import OPTIONAL, TableError
from isoflop.scaling.table.meaning import QUANTITIES
from isoflop.scaling.table.runs import is_runs


def as_frame(table: Any) -> pd.DataFrame:
    """The table as a DataFrame: itself, or columns by name, records, or a table of polars or pyarrow made one.

    Raises TypeError for anything else, a path among it, and TableError for a table without rows, one whose size,
    tokens, compute or loss is in its index, and one with several columns of a name that is read.
    """
    if isinstance(table, str | Path):
        raise TypeError(
            f"{table}: a table is a DataFrame, and this is a path: isoflop.read_table({str(table)!r}) reads it"
        )
    if not isinstance(table, pd.DataFrame):
        if hasattr(table, "to_pandas"):
            table = table.to_pandas()
        elif isinstance(table, Mapping) or (isinstance(table, list) and all(isinstance(row, Mapping) for row in table)):
            table = pd.DataFrame(table)
    if not isinstance(table, pd.DataFrame):
        raise TypeError(
            f"a table is a DataFrame with a row per run, and this is of type {type(table).__name__}; "
            "isoflop.read_table(PATH) reads one from a file"
        )
    source = table.attrs.get("source", "table")
    if not len(table):
        raise TableError(f"{source}: the table has no rows")
    if inside := [name for name in table.index.names if name in QUANTITIES and name not in table]:
        raise TableError(f"{source}: {', '.join(inside)} is in the index; table.reset_index() makes it a column")
    doubled = table.columns[table.columns.duplicated()]
    known = doubled if is_runs(table) else doubled.intersection([*QUANTITIES, *OPTIONAL])
    if len(known):
        raise TableError(
            f"{source}: several columns are called {', '.join(dict.fromkeys(map(str, known)))}; keep one of each, for "
            "example with table.loc[:, ~table.columns.duplicated()]"
        )
    return table
