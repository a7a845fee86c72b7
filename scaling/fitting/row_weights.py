"""The weights of rows: inverse variances as a table states them, and those by noise that falls with size."""

from typing import Any

import numpy as np
import pandas as pd

from isoflop.scaling.laws.law import Array


def spread_of(frame: pd.DataFrame, falls: float) -> Array | float:
    """Relative standard deviations (n,) of noise that falls as N^-falls, 1 at the geometric mean size; 1.0 at 0.

    A column `excess` of a frame has what forecasts of losses err by beyond them.
    """
    own: Array | float = 1.0
    if falls:
        log_n = np.log(frame["n_params"].to_numpy(float))
        own = np.exp(-falls * (log_n - log_n.mean()))
    return np.hypot(own, frame["excess"].to_numpy(float)) if "excess" in frame else own


def typical_weight(weights: Array) -> float | None:
    """The weight of a row whose noise is quoted: 1, that of one run, where it lies among them; else their mean of logs.

    None where all weights that count are equal.
    """
    used = weights[weights > 0]
    if np.ptp(used) == 0:
        return None
    return 1.0 if used.min() <= 1 <= used.max() else float(np.exp(np.log(used).mean()))


def stated_spread(frame: pd.DataFrame, typical: float | None) -> Array | float:
    """Standard deviations (n,) that the weights of a frame state, 1 at the weight `typical`; 1.0 without it.

    A weight is an inverse variance: the mean of four runs weighs four times as much as one.
    """
    if typical is None or "weight" not in frame:
        return 1.0
    weights = frame["weight"].to_numpy(float)
    return np.sqrt(typical / np.where(weights > 0, weights, typical))


def search_weights(frame: pd.DataFrame, weights: Array, falls: float) -> tuple[Array, Array | float]:
    """The weights (n,) of a search, and the relative standard deviations of rows by which its delta goes."""
    spread = spread_of(frame, falls)
    return weights / (spread * spread), spread * stated_spread(frame.assign(weight=weights), typical_weight(weights))


def with_weights(table: pd.DataFrame, weights: pd.Series) -> pd.DataFrame:
    """The table with `weights` as its column of weights, by their index. Raises ValueError where an index has none."""
    same = weights.index.equals(table.index)
    lacking = int((~table.index.isin(weights.index)).sum())
    if not same and (lacking or not weights.index.is_unique):
        what = f"{lacking} of {len(table)} rows of the table are not in it" if lacking else "it holds one twice"
        raise ValueError(
            f"weights: a Series is matched with the table by its index, and {what}; weights.to_numpy() is taken by the "
            "order of the points"
        )
    return table.assign(weight=weights.to_numpy() if same else weights.reindex(table.index).to_numpy())


def checked_weights(weights: Any, frame: pd.DataFrame) -> Array:
    if weights is None:
        weights = frame["weight"] if "weight" in frame else np.ones(len(frame))
    weights = np.asarray(weights, dtype=float)
    if weights.shape != (len(frame),):
        raise ValueError(f"weights must be one per data point ({len(frame)}), not shape {weights.shape}")
    if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.any()):
        raise ValueError("weights must be finite, not negative and not all zero")
    return weights
