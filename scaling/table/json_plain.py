"""Values as JSON holds them: Python's own numbers, lists and dictionaries, and null for what is not finite."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd


def plain(value: Any) -> Any:
    """`value` ready for `json.dumps`: a table as a list of its rows, an array or tuple as a list, NaN and inf as None.

    Numbers keep full precision; keys become text. What JSON knows already is returned as it is.
    """
    if isinstance(value, float):  # numpy's float64 too
        return float(value) if np.isfinite(value) else None
    if isinstance(value, str | bool | int) or value is None:
        return value
    if isinstance(value, pd.DataFrame):
        return [plain(row) for row in value.to_dict("records")]
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic | np.ndarray):
        return plain(value.tolist())
    return value
