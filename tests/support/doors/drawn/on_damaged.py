"""Command lines on committed tables of which rows are lost and columns are damaged as in `degenerate`."""

from pathlib import Path

import numpy as np
import pandas as pd

from tests.support.doors.drawn.degenerate import COLUMNS
from tests.support.doors.drawn.on_committed import on_committed

ROWS = (3, 6, 12, 40, 1000)
CELLS = ("empty", "text", "shuffled", "infinite", "of other rows")


def on_damaged(seed: int, folder: Path) -> list[str]:
    """Write the table of this number into `folder`; returns a command line of `on_committed` that reads it."""
    rng = np.random.default_rng([seed, 1])
    command, table, *options = on_committed(seed, folder)
    frame = pd.read_parquet(table)
    if rng.random() < 0.5 and "final" in frame:
        frame = frame[frame["final"]]
    count = min(int(rng.choice(ROWS)), len(frame))
    frame = frame.iloc[np.sort(rng.permutation(len(frame))[:count])].reset_index(drop=True)
    for name in rng.choice(frame.columns, int(rng.integers(4)), replace=False):
        frame[name] = _damaged(frame[name], rng)
    if rng.random() < 0.3:
        frame = frame.drop(columns=list(rng.choice(frame.columns, int(rng.integers(1, 4)), replace=False)))
    path = folder / "runs.csv"
    frame.to_csv(path, index=False)
    return [command, str(path), *options]


def _damaged(column: pd.Series, rng: np.random.Generator) -> pd.Series:
    numbers = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
    kind = str(rng.choice([*COLUMNS, *CELLS] if numbers else CELLS))
    if kind in COLUMNS:
        values = COLUMNS[kind](column.to_numpy(float), rng)
        return pd.Series(np.resize(values, len(column)))
    hit = rng.random(len(column)) < rng.choice([0.1, 0.5, 1.0])
    other = {
        "empty": None, "text": "x", "infinite": np.inf, "shuffled": column.to_numpy()[rng.permutation(len(column))],
        "of other rows": column.to_numpy()[0],
    }[kind]  # fmt: skip
    return column.astype(object).where(~hit, other)
