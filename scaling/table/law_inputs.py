"""The columns that a law declares as its inputs: found in a table, as numbers that they can take."""

from collections.abc import Iterable
from fnmatch import fnmatchcase

import numpy as np
import pandas as pd

from isoflop.scaling.laws.inputs import STANDARD, Column
from isoflop.scaling.table.columns import OPTIONAL, TableError, absent, is_numbers, parse, row_names
from isoflop.scaling.table.meaning import QUANTITIES

SUM_TO = 0.01  # how far from 1 the shares of a row may add up to: they are written with few digits
_USUAL = {*QUANTITIES, *OPTIONAL, *(column.name for column in STANDARD.values())}
NO_SHARES = ("weight_bits", "weight_decay")


def components(names: Iterable[str], column: Column) -> list[str]:
    """The columns among `names` that an input is: one, or those of a vector in alphabetical order; empty for none.

    Columns of a run table that are named as a share would be are none.
    """
    if not column.vector:
        return [column.name] if column.name in names else []
    return sorted(name for name in names if fnmatchcase(name, column.name) and name not in NO_SHARES)


def unlike(columns: Iterable[Column]) -> list[Column]:
    """Those of the columns that are none of the usual quantities of a run."""
    return [column for column in columns if column.name not in _USUAL]


def sizeless(columns: Iterable[Column]) -> bool:
    """Whether a law of these columns reads neither size nor tokens nor compute, which its table may then lack."""
    return bool(columns := list(columns)) and not {column.name for column in columns} & {*QUANTITIES, "unique_tokens"}


def add_inputs(
    frame: pd.DataFrame, columns: Iterable[Column], notes: list[str], *, source: str
) -> tuple[pd.DataFrame, dict[str, str]]:
    """The table with the inputs among its columns as numbers, and what to say of each that it lacks, by name.

    Rows in which one is empty are left out, with a note. Raises TableError naming the rows whose values the input
    cannot take, and where no row is left.
    """
    lacking: dict[str, str] = {}
    made: dict[str, pd.Series] = {}
    for column in unlike(columns):
        names = [str(name) for name in frame.columns]
        found = components(names, column)
        if not found:
            lacking[column.name] = f"{source}: {_absent(column, names)}"
        for name in found:
            made[name] = _numbers(frame, name, source)
    empty = {name: values.isna().to_numpy() for name, values in made.items() if values.isna().any()}
    frame = frame.assign(**made)
    if empty:
        out = np.any(list(empty.values()), axis=0)
        counts = "; ".join(f"{name} is empty in {row_names(frame, rows)}" for name, rows in empty.items())
        if out.all():
            raise TableError(f"{source}: no row has {' and '.join(made)} ({counts})")
        notes.append(f"{out.sum()} of {len(frame)} rows are left out: {counts}")
        frame = frame[~out]
    for column in unlike(columns):
        if column.name not in lacking:
            _check(frame, column, source)
    return frame, lacking


def is_whole(frame: pd.DataFrame, column: Column) -> bool:
    """Whether a table has an input in every row, as the numbers that it can take."""
    if column.name in _USUAL:
        return True
    names = components(list(map(str, frame.columns)), column)
    if not names or not all(is_numbers(frame[name]) for name in names):
        return False
    values = frame[names].to_numpy(float)
    if column.vector:
        return bool((values >= 0).all() and (np.abs(values.sum(axis=1) - 1) <= SUM_TO).all())
    return bool(np.isfinite(values).all() and (column.transform != "log" or (values > 0).all()))


def input_values(frame: pd.DataFrame, column: Column) -> np.ndarray | None:
    """The values (n,) of an input, or (components, n) of a vector; None where some are absent."""
    if not column.vector:
        values = frame.get(column.name)
        return None if values is None or values.hasnans else values.to_numpy(float)
    names = components(list(map(str, frame.columns)), column)
    return None if not names or frame[names].isna().any(axis=None) else frame[names].to_numpy(float).T


def _absent(column: Column, names: list[str]) -> str:
    if column.vector:
        return f"no columns {column.name}; name yours with --map {column.name.replace('*', 'NAME')}=COLUMN"
    return absent(column.name, names)


def _numbers(frame: pd.DataFrame, name: str, source: str) -> pd.Series:
    values, wrong = parse(frame[name])
    if wrong.any():
        written = frame[name][wrong].iloc[0]
        rows = f"{wrong.sum()} of {len(frame)} rows ({row_names(frame, wrong.to_numpy())})"
        raise TableError(f"{source}: {name} is not a number in {rows}: {written!r}; correct them")
    return values.astype(float)


def _check(frame: pd.DataFrame, column: Column, source: str) -> None:
    names = components(list(map(str, frame.columns)), column)
    for name in names:
        values = frame[name].to_numpy(float)
        wrong, what = ~np.isfinite(values), "infinite"
        if not wrong.any() and column.transform == "log":
            wrong, what = values <= 0, "zero or negative, and its logarithm is what the law reads"
        if not wrong.any() and column.vector:
            wrong, what = (values < 0) | (values > 1 + SUM_TO), "no share between 0 and 1"
        if wrong.any() and wrong.all() and not column.vector:
            raise TableError(f"{source}: {name} is {what} in every row: no law that reads it fits here; choose another")
        if wrong.any():
            keep = f'"{name} > 0"' if column.transform == "log" else f'"{name} < 1e300"'
            remedy = f"correct them, or leave them out with --where {keep}"
            if column.vector:
                remedy = "correct them, or divide each row by its sum, as isoflop mix --normalise does"
            rows = f"{wrong.sum()} of {len(frame)} rows ({row_names(frame, wrong)})"
            raise TableError(f"{source}: {name} is {what} in {rows}: {values[wrong][0]:g}; {remedy}")
    if column.vector:
        sums = frame[names].to_numpy(float).sum(axis=1)
        wrong = np.abs(sums - 1) > SUM_TO
        if wrong.any():
            rows = f"{wrong.sum()} of {len(frame)} rows ({row_names(frame, wrong)})"
            raise TableError(
                f"{source}: {column.name} ({len(names)} columns) add up to {sums[wrong][0]:.4g} and not to 1 "
                f"in {rows}; "
                "divide each row by its sum, or name all of its shares alike"
            )
