"""Which runs of a table are of the kind that a registered forecast is of: of its arm, its text, its settings."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from isoflop.scaling.findings.settings import IDENTITIES, OUTCOMES, PROGRESS
from isoflop.scaling.prediction.registered.reading import Reading
from isoflop.scaling.selection.best_of import APART, CELL, best_of
from isoflop.scaling.table.columns import TableError, is_numbers, texts
from isoflop.scaling.table.meaning import meaning

SCALE = (*CELL, "unique_tokens", "d_ff", "n_head", "warmup_tokens", "learning_rate")  # what a larger run has more of
MOST_NAMED = 4  # values or columns in a message


def of_the_kind(
    table: pd.DataFrame, fitted: pd.DataFrame, reading: Reading
) -> tuple[pd.DataFrame, dict[str, int], list[str]]:
    """The rows of `table` that a forecast of the runs `fitted`, read so, may be measured by; how many runs are left out
    by reason; and what is taken on trust.

    Runs of an arm, a text or a setting that a condition chose by, of which no run fitted is, are left out, and where
    the best of a setting was chosen, so are the others.
    """
    left_out: dict[str, int] = {}
    notes = []
    for name in _kinds(fitted, reading):
        values = texts(fitted[name]).unique()
        if name not in table or not any(texts(table[name])):
            if name not in APART:
                notes.append(f"the table has no column {name}, which the forecast's runs were chosen by")
            continue
        other = ~_same(table[name], fitted[name])
        if other.any():
            seen = _listed(texts(table[name])[other].unique())
            left_out[f"whose {name} is {seen}, and {_listed(values)} where the forecast was fitted"] = _runs(
                table, other
            )
            table = _kept(table, ~other)
    if reading.best_of and len(table):
        kept = _best(table, reading.best_of, notes)
        if lost := _runs(table) - _runs(kept):
            left_out[f"that are not the best {', '.join(reading.best_of)} of their size and tokens"] = lost
        table = kept
    return table, left_out, notes


def other_settings(rows: pd.DataFrame, fitted: pd.DataFrame) -> list[str]:
    """What is said of settings that all runs fitted share and `rows`, of the runs that score, have otherwise."""
    names = [str(name) for name in fitted if name in rows and name not in (*SCALE, *APART) and _is_setting(str(name))]
    said = []
    for name in names:
        before, now = texts(fitted[name]).unique(), texts(rows[name]).unique()
        if len(before) == 1 and not _same(rows[name], fitted[name]).all():
            said.append(f"{name} {_listed(now)} (fitted: {before[0] or 'none'})")
    more = f" and {len(said) - MOST_NAMED} more" if len(said) > MOST_NAMED else ""
    return [f"runs that score it differ from those fitted: {', '.join(said[:MOST_NAMED])}{more}"] if said else []


def _kinds(fitted: pd.DataFrame, reading: Reading) -> Iterator[str]:
    """The columns of the runs fitted that say of which kind they are: APART, and settings that a condition names."""
    for name in map(str, fitted):
        named = re.search(rf"(?<!\w){re.escape(name)}(?!\w)", reading.where or "") is not None
        chosen = named and name not in (*SCALE, "seed") and _is_setting(name)
        whole = chosen and (not is_numbers(fitted[name]) or fitted[name].nunique() == 1)
        if (whole or (name in APART and name != "unique_tokens")) and any(texts(fitted[name])):
            yield name


def _is_setting(name: str) -> bool:
    return name.lower() not in OUTCOMES | IDENTITIES | PROGRESS and "seed" not in name.lower() and meaning(name) is None


def _same(column: pd.Series, fitted: pd.Series) -> pd.Series:
    """The rows (bool) with a value that some run fitted has."""
    if is_numbers(column) and is_numbers(fitted):
        return column.isin(fitted.unique())
    return texts(column).isin(texts(fitted).unique())


def _kept(table: pd.DataFrame, rows: pd.Series) -> pd.DataFrame:
    kept = table[rows]
    kept.attrs = table.attrs
    return kept


def _best(table: pd.DataFrame, columns: Sequence[str], notes: list[str]) -> pd.DataFrame:
    """The runs of the best values of some columns; all of them where none varies among runs of one size and tokens."""
    there = [name for name in columns if name in table]
    if lacking := [name for name in columns if name not in there]:
        notes.append(f"the table has no column {', '.join(lacking)}, the best of which the forecast is of")
    try:
        return best_of(table, there) if there else table
    except TableError:
        return table


def _runs(table: pd.DataFrame, rows: pd.Series | None = None) -> int:
    """How many runs a table has, or some rows of it."""
    chosen = table if rows is None else table[rows]
    return int(chosen["run_id"].nunique()) if "run_id" in chosen else len(chosen)


def _listed(values: Sequence[Any]) -> str:
    shown = [str(value) or "none" for value in values]
    return ", ".join(shown[:MOST_NAMED]) + (f" and {len(shown) - MOST_NAMED} more" if len(shown) > MOST_NAMED else "")
