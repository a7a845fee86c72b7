"""What a run table keeps of the domains of a mixture: one text a row, read as columns weight_NAME, loss_NAME, ..."""

import json
from collections.abc import Callable, Mapping
from typing import TypedDict

import numpy as np
import pandas as pd

from isoflop.read_json import JsonError, parse_json


class Domain(TypedDict):
    """One domain of a run at a step: its share of the mixture, held-out loss, epochs read and unique tokens."""

    weight: float
    loss: float
    epochs: float
    unique_tokens: int


PARTS = tuple(Domain.__annotations__)


def written(domains: Mapping[str, Domain]) -> str:
    """The text of a row."""
    return json.dumps(domains, sort_keys=True)


def with_domains(frame: pd.DataFrame, error: Callable[[str], Exception]) -> pd.DataFrame:
    """A run table with the columns weight_NAME, loss_NAME, epochs_NAME and unique_tokens_NAME of its mixtures, if any.

    A run without one, or without a domain, has NaN there, and the weight 0 where others of its run are. Raises `error`
    with what is wrong.
    """
    if not (frame["mixture"] != "").any():
        return frame
    try:
        rows = [parse_json(text, dict[str, Domain], source="mixture", nan=True) if text else {}
                for text in frame["mixture"]]  # fmt: skip
    except JsonError as wrong:
        raise error(str(wrong)) from wrong
    found = {}
    for name in sorted({name for row in rows for name in row}):
        for part in PARTS:
            absent = [0.0 if part == "weight" and row else np.nan for row in rows]
            values = [row[name][part] if name in row else without for row, without in zip(rows, absent, strict=True)]  # type: ignore[literal-required]
            found[f"{part}_{name}"] = np.array(values, dtype=float)
    return frame.assign(**found)
