"""Columns that a run keeps under their own names: what laws and commands read besides the quantities of a table, and
what else is one in each run and few among runs, by which a fit sees that runs of several kinds stand in one law."""

from collections.abc import Collection, Iterable, Mapping

import numpy as np
import pandas as pd

from isoflop.scaling.laws import columns_read, law_names
from isoflop.scaling.laws.mixtures.means import SHARES
from isoflop.scaling.table.columns import OPTIONAL, is_numbers
from isoflop.scaling.table.formats.run_columns import with_roles
from isoflop.scaling.table.law_inputs import components
from isoflop.scaling.table.meaning import meaning, words
from isoflop.scaling.table.schedules.read_curves import HORIZONS

# Made of every run by `assemble`, each from the columns that may hold it.
_MADE = ("run_id", "arm", "seed", "n_params", "tokens", "flops", "batch_tokens", "peak_learning_rate")
_SETTINGS = (
    *with_roles("ruler", "experiment", "setting"), "n_layer", "d_model", "n_head", "d_ff", "bytes_per_token", "mixture",
    "batch_sequences", "steps_to_target", "target_loss",
)  # fmt: skip
_READ = (*OPTIONAL, *(column.name for column in columns_read(law_names())), *_SETTINGS, *HORIZONS)
KEPT = tuple(name for name in dict.fromkeys(_READ) if name not in (*_MADE, "device"))
UNTOLD = {"weight": 1.0}  # of a run whose source has no such column
_SAID = ("loss_unit", "params_convention", "compute_convention", "source", "final")  # of tables that import wrote
_OUTCOMES = {"loss", "acc", "accuracy", "ppl", "perplexity", "bpb"}  # words of what a run brings out
MOST_NAMED = 6


def is_kept(name: str) -> bool:
    """Whether a column of that name stays as it is: one of KEPT, or a share of a mixture (weight_web)."""
    return name in KEPT or bool(components([name], SHARES))


def kept_columns(frame: pd.DataFrame, mapping: Mapping[str, str]) -> dict[str, str]:
    """The columns that runs keep, by the names that laws and commands read them under."""
    found = {name: name for name in frame if isinstance(name, str) and is_kept(name)}
    return found | {ours: theirs for ours, theirs in mapping.items() if is_kept(ours) and theirs in frame}


def setting_columns(frame: pd.DataFrame, groups: Collection[np.ndarray], used: Iterable[object]) -> list[str]:
    """The columns with one value, or none, in the rows of each run, which are no quantity and not `used` for one."""
    taken = {*used, *_SAID}
    names = [name for name in frame if isinstance(name, str) and name not in taken and not _is_measured(frame, name)]
    held = frame[[name for name in names if frame[name].notna().any()]]
    if len(groups) == len(frame):
        return list(held)
    run = pd.Series({row: k for k, rows in enumerate(groups) for row in rows})
    most = held.set_axis(range(len(held))).groupby(run).nunique().max()
    return [str(name) for name in most.index[most <= 1]]


def _is_measured(frame: pd.DataFrame, name: str) -> bool:
    """Whether a column is of a quantity, or of numbers that a run brings out, by its name."""
    outcome = bool(_OUTCOMES & set(words(name).split("_")))
    return meaning(name) is not None or (outcome and is_numbers(frame[name]))


def are_few(values: Collection[object]) -> bool:
    """Whether the values of so many runs are few, as those of a setting."""
    return len({value for value in values if value is not None}) <= max(len(values) // 2, 2)


def left_out_note(frame: pd.DataFrame, used: Iterable[object]) -> str:
    """What is said of the columns with values that no quantity, setting or score was made of; empty for none."""
    others = [str(name) for name in frame if name not in {*used, *_SAID} and frame[name].notna().any()]
    more = f" and {len(others) - MOST_NAMED} more" if len(others) > MOST_NAMED else ""
    return f"columns that are not kept: {', '.join(others[:MOST_NAMED])}{more}" if others else ""
