"""Losses that a file writes as NaN: at the end of a curve the run diverged, elsewhere nothing was measured."""

import numpy as np
import pandas as pd

from isoflop.scaling.table.columns import VALIDATION, is_numbers
from isoflop.scaling.table.curves import run_column, step_columns
from isoflop.scaling.table.meaning import meaning, parse

_OF_A_RUN = " - "  # between run and metric in the columns of a panel that W&B exports


def is_measure(name: str) -> bool:
    """Whether a metric is a loss that a law may be of, by its name."""
    meant = meaning(name)
    return bool(VALIDATION.match(name.lower())) or (meant is not None and meant.quantity == "loss")


def of_losses(frame: pd.DataFrame) -> list[str]:
    """The columns that hold losses which a law may be of, also those of a panel with a column for each run."""
    return [name for name in frame if is_measure(str(name).rpartition(_OF_A_RUN)[2].strip())]


def with_diverged(frame: pd.DataFrame, nan: pd.DataFrame) -> pd.DataFrame:
    """The table with infinite losses where curves end in NaN; `nan` (bool) marks the cells that are written so.

    An empty cell is no evaluation. So is NaN in a column that has it before a loss of the same run.
    """
    steps = [name for name in step_columns(frame) if is_numbers(frame[name])]
    run = run_column(frame, steps[0] if steps else None)
    if not nan.any(axis=None) or (not steps and run is None):
        return frame
    at = frame[steps[0]].to_numpy(float) if steps else np.arange(len(frame))
    runs = np.append(0, np.diff(at) < 0).cumsum() if run is None else pd.factorize(frame[run])[0]
    order = np.lexsort((at, runs))
    for name in nan:
        known = parse(frame[name])[0].notna().iloc[order]
        written = nan[name].iloc[order]
        before = known.groupby(runs[order]).cummax()
        after = known[::-1].groupby(runs[order][::-1]).cummax()
        if not (written & after).any():
            ends = (written & before).reindex(frame.index)
            frame = frame.assign(**{str(name): frame[name].mask(ends, np.inf if is_numbers(frame[name]) else "inf")})
    return frame
