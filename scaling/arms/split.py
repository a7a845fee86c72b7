"""The arms of a table: the rows of each, without copies, their points, and how far the runs of one are alike."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pandas as pd

from isoflop.scaling.findings.finding import Finding, rows_of
from isoflop.scaling.findings.settings import given_twice, unlike_runs
from isoflop.scaling.table.columns import TableError
from isoflop.scaling.table.conventions import Points, points
from isoflop.scaling.table.runs import is_runs


class MultiplierError(ValueError):
    """Arms cannot be compared; the message says why."""

    exit_code = 1


def split_arms(
    table: pd.DataFrame, by: str, baseline: str | None, params: str, compute: str
) -> tuple[str, dict[str, pd.DataFrame], dict[str, Points], dict[str, str]]:
    """The baseline (None: the first arm), the rows and the points of every arm, and why an arm has no points.

    Raises MultiplierError for one arm only, or an unknown baseline.
    """
    if by not in table:
        raise MultiplierError(
            f"--by {by}: no column {by!r} to separate arms by; the table has {', '.join(map(str, table.columns))}"
        )
    if is_runs(table) and (table.groupby("run_id")[by].nunique() > 1).any():
        lengths = "; horizon_tokens says how long each was to be" * (by in ("step", "tokens", "epochs", "flops"))
        raise MultiplierError(
            f"--by {by}: it changes along a run, from row to row: name a column with one value for each run{lengths}"
        )
    names = [str(a) for a in table[by].dropna().unique()]
    if len(names) < 2:
        named = (names[0] or "without a name") if names else "none"
        raise MultiplierError(
            f"one arm only ({named}) in column {by!r}: nothing to compare; name the column whose values are the arms "
            "with --by"
        )
    baseline = names[0] if baseline is None else str(baseline)
    if baseline not in names:
        raise MultiplierError(f"--baseline {baseline}: baseline {baseline!r} is not among the arms: {', '.join(names)}")
    rows = {a: _without_copies(table[table[by].astype(str) == a], a, table.attrs) for a in names}
    return baseline, rows, *_points_of(rows, baseline, params, compute)


def _without_copies(part: pd.DataFrame, arm: str, attrs: Mapping[Any, Any]) -> pd.DataFrame:
    """The rows of an arm, each once: a row that repeats another in every column is no pair of its own; a note counts.

    The `attrs` of the table stay.
    """
    again = part.astype(str).duplicated().to_numpy()
    part = part[~again].copy()
    part.attrs = dict(attrs)
    if again.any():
        note = f"arm {arm}: {again.sum()} rows that repeat another in every column are left out"
        part.attrs["notes"] = (*attrs.get("notes", ()), f"{note}: copies are no runs of their own")
    return part


def unlike_arms(
    rows: Mapping[str, pd.DataFrame], data: Mapping[str, Points], by: str
) -> dict[str, tuple[Finding, ...]]:
    """What is said of the runs of each arm: rows given twice, and runs that are not alike within one arm."""
    found = {}
    for arm, held in data.items():
        unlike = unlike_runs(rows_of(rows[arm], held.frame), unit=held.loss_unit, may_vary=[by])
        within = (*given_twice(held.frame), *unlike)
        found[arm] = tuple(replace(f, message=f"arm {arm}: {f.message}") for f in within)
    return found


def _points_of(
    rows: Mapping[str, pd.DataFrame], baseline: str, params: str, compute: str
) -> tuple[dict[str, Points], dict[str, str]]:
    """The points of every arm, and why an arm other than the baseline has none."""
    data, failed = {}, {}
    for arm, part in rows.items():
        try:
            data[arm] = points(part, params=params, compute=compute)
        except TableError as error:
            if arm == baseline:
                raise
            failed[arm] = str(error)
    return data, failed
