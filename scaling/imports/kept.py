"""Columns that a run keeps under their own names: what laws and commands read besides the quantities of a table."""

from collections.abc import Iterable, Mapping

import pandas as pd

from isoflop.scaling.laws import columns_read, law_names
from isoflop.scaling.laws.mixtures.means import SHARES
from isoflop.scaling.table.columns import OPTIONAL
from isoflop.scaling.table.formats.run_columns import with_roles
from isoflop.scaling.table.law_inputs import components

# Made of every run by `assemble`, each from the columns that may hold it.
_MADE = ("run_id", "arm", "seed", "n_params", "tokens", "flops", "batch_tokens", "peak_learning_rate")
_SETTINGS = (
    *with_roles("ruler", "experiment", "setting"), "n_layer", "d_model", "n_head", "d_ff", "bytes_per_token", "mixture",
    "batch_sequences", "steps_to_target", "target_loss",
)  # fmt: skip
KEPT = tuple(
    name for name in dict.fromkeys((*OPTIONAL, *(column.name for column in columns_read(law_names())), *_SETTINGS))
    if name not in (*_MADE, "device")
)  # fmt: skip
UNTOLD = {"weight": 1.0}  # of a run whose source has no such column
_SAID = ("loss_unit", "params_convention", "compute_convention", "source", "final")  # of tables that import wrote
MOST_NAMED = 6


def is_kept(name: str) -> bool:
    """Whether a column of that name stays as it is: one of KEPT, or a share of a mixture (weight_web)."""
    return name in KEPT or bool(components([name], SHARES))


def kept_columns(frame: pd.DataFrame, mapping: Mapping[str, str]) -> dict[str, str]:
    """The columns that runs keep, by the names that laws and commands read them under."""
    found = {name: name for name in frame if isinstance(name, str) and is_kept(name)}
    return found | {ours: theirs for ours, theirs in mapping.items() if is_kept(ours) and theirs in frame}


def left_out_note(frame: pd.DataFrame, used: Iterable[object]) -> str:
    """What is said of the columns with values that no quantity, setting or score was made of; empty for none."""
    others = [str(name) for name in frame if name not in {*used, *_SAID} and frame[name].notna().any()]
    more = f" and {len(others) - MOST_NAMED} more" if len(others) > MOST_NAMED else ""
    return f"columns that are not kept: {', '.join(others[:MOST_NAMED])}{more}" if others else ""
