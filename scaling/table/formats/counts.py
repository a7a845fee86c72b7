"""Counts beside size, tokens and compute, with a unit in the name of their column: unique_tokens (B), step_k.

They are tokens, parameters, steps or sequences, and so are taken in single ones as the size is.
"""

import re
from collections.abc import Iterable

from isoflop.scaling.table.formats.run_columns import COLUMNS
from isoflop.scaling.table.meaning import QUANTITIES, Meaning, in_unit, suffix, words

_COUNTED = ("tokens", "parameters", "steps")
COUNTS = (
    *(column.name for column in COLUMNS if column.unit in _COUNTED and column.name not in QUANTITIES),
    "batch_sequences", "steps_to_target",
)  # fmt: skip
_BRACKETS = re.compile(r"\s*(.+?)\s*[(\[]\s*(.+?)\s*[)\]]\s*")
_NAMES = re.compile(r"param|parameters|token|tok|step|sequence|batch|vocab|embedding|size|total|active")


def is_count(name: str) -> bool:
    """Whether our name is that of a count, or of the unique tokens of a domain."""
    return name in COUNTS or name.startswith("unique_tokens_")


def count_as(column: str, count: str) -> Meaning:
    """What the name of a column says of the count that it holds, as the user states: its scale.

    >>> count_as("embedding (M)", "n_params_embedding").scale, count_as("unique", "unique_tokens").scale
    (1000000.0, 1.0)
    """
    whole = Meaning(count)
    if match := _BRACKETS.fullmatch(column):
        return in_unit(whole, match[2]) or whole
    head, scale = suffix(words(column))
    return Meaning(count, scale) if scale and (head == count or _NAMES.search(head)) else whole


def counts_in(names: Iterable[str]) -> dict[str, list[str]]:
    """The columns that are a count by its own name with a unit, by the count.

    >>> counts_in(["loss", "unique_tokens (B)", "batch_tokens_m"])
    {'unique_tokens': ['unique_tokens (B)'], 'batch_tokens': ['batch_tokens_m']}
    """
    found: dict[str, list[str]] = {}
    for name in names:
        match = _BRACKETS.fullmatch(name)
        head, scale = (words(match[1]), 1.0) if match else suffix(words(name))
        if scale and is_count(head) and (not match or in_unit(Meaning(head), match[2]) is not None):
            found.setdefault(head, []).append(name)
    return found
