"""JSON as rows: a record a line, a list of records, columns, and the forms that pandas writes."""

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from isoflop.read_json import JsonError, parse_json
from isoflop.scaling.table.columns import TableError
from isoflop.scaling.table.ended.diverged import of_losses, with_diverged
from isoflop.scaling.table.formats.text import LONGEST_LINE
from isoflop.scaling.table.meaning import meaning

LARGEST_JSON = 2**27  # characters of a file of JSON that is one value
_LINE_END = re.compile(r"\r\n?|\n")  # others may stand inside a text of JSON
_RECORD = re.compile(r"\s*\{[^\r\n]*\}[ \t]*[\r\n]\s*\{")  # a whole object on the first line, and another below
NESTED = ("summary", "config", "summary_metrics", "summarymetrics", "history")  # of W&B, opened by its importer


def read_json_rows(text: str, kind: str, path: Path) -> pd.DataFrame:
    """JSON records, columns, pandas' split, index and table forms, or one list of records under any key."""
    if kind == "jsonl":
        lines = [(number, line) for number, line in enumerate(_LINE_END.split(text), 1) if line.strip()]
        if long := next(((number, line) for number, line in lines if len(line) > LONGEST_LINE), None):
            raise TableError(
                f"{path}: line {long[0]} has {len(long[1]):,} characters, and a row of a table at most {LONGEST_LINE:,}"
            )
        records = [parse_json(line, Any, source=f"{path}: line {number}", nan=True) for number, line in lines]
        if not _records(records):
            raise TableError(f"{path}: not a record a line; write each line as {{column: value, ...}}")
        return _of_records(records)
    if len(text) > LARGEST_JSON:
        raise TableError(
            f"{path}: {len(text):,} characters of JSON, and at most {LARGEST_JSON:,} are read; "
            "write a record a line, as .jsonl"
        )
    try:
        held = parse_json(text, Any, source=str(path), nan=True)
    except JsonError:
        if _RECORD.match(text):  # a record a line, as DuckDB and pandas write under .json too
            return read_json_rows(text, "jsonl", path)
        raise
    if isinstance(held, dict) and {"columns", "data"} <= set(held) and isinstance(held["data"], list):
        return pd.DataFrame(held["data"], columns=held["columns"]).reset_index(drop=True)
    if isinstance(held, dict):
        lists = [value for value in held.values() if _records(value)]
        held = lists[0] if len(lists) == 1 else held
    inner = [value for value in held.values() if isinstance(value, dict)] if isinstance(held, dict) else []
    if len(inner) == 1 and len(inner[0]) > 1 and all(isinstance(row, dict) for row in inner[0].values()):
        held = inner[0]  # records by name under one key
    if isinstance(held, dict) and held and all(isinstance(row, dict) for row in held.values()):
        names = [*map(str, held)]
        if not any(map(meaning, names)):  # a record under the name of each row
            inner = pd.DataFrame(list(held.values()))
            return inner if "run_id" in inner or set(names) == {*map(str, range(len(names)))} else inner.assign(
                run_id=names)  # fmt: skip
    elif isinstance(held, dict) and not any(isinstance(column, list) for column in held.values()):
        held = [held]  # one record
    if isinstance(held, dict):
        held = _columns(held, path)
    if not isinstance(held, dict) and not _records(held):
        raise TableError(f"{path}: not a list of records; write it as [{{column: value, ...}}, ...] or as CSV")
    if isinstance(held, dict):
        _refuse_uneven(held, path)
    return (pd.DataFrame(held) if isinstance(held, dict) else _of_records(held)).reset_index(drop=True)


def _of_records(records: list[dict]) -> pd.DataFrame:
    """The rows of records; a loss that is NaN is one, what a record lacks or has as null is none."""
    frame = pd.DataFrame(records)
    nan = {name: [record.get(name) != record.get(name) for record in records] for name in of_losses(frame)}
    return with_diverged(frame, pd.DataFrame(nan, index=frame.index, dtype=bool))


def _refuse_uneven(held: Mapping[str, Any], path: Path) -> None:
    """Raise TableError where of columns that are lists one has another length."""
    lengths = {str(name): len(value) for name, value in held.items() if isinstance(value, list)}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name}: {count} values" for name, count in lengths.items())
        raise TableError(
            f"{path}: its keys are no columns of one length ({listed}); keep the columns of runs, each a list of as "
            "many values"
        )


def _columns(held: dict, path: Path) -> dict:
    """The columns of a table that is written by column, without the objects beside lists, which tell of all rows."""
    beside = [key for key, value in held.items() if isinstance(value, dict)]
    if not beside or len(beside) == len(held):
        return held
    if odd := next((key for key in beside if meaning(str(key))), None):
        listed = next(key for key in held if key not in beside)
        raise TableError(
            f"{path}: column {odd} is an object and {listed} is none; write every column as a list, or a record a row"
        )
    return {key: value for key, value in held.items() if key not in beside}


def flattened(frame: pd.DataFrame) -> pd.DataFrame:
    """Inner objects as columns, lists of equal length as rows; what else is inside a cell is JSON text."""
    inner = {c: [v if isinstance(v, dict) else {} for v in frame[c]] for c in frame
             if str(c).lower() not in NESTED and any(isinstance(v, dict) for v in frame[c])}  # fmt: skip
    made = {c: pd.DataFrame([flat(row) for row in rows], index=frame.index) for c, rows in inner.items()}
    plain = frame.drop(columns=list(inner))
    counts = Counter([*map(str, plain), *(name for columns in made.values() for name in columns)])
    for column, held in made.items():
        plain = plain.join(held.rename(columns={name: f"{column}/{name}" for name in held if counts[name] > 1}))
    lists = [c for c in plain if any(isinstance(v, list) for v in plain[c])]
    lengths = [[len(v) if isinstance(v, list) else -1 for v in plain[c]] for c in lists]
    if (
        lists
        and all(held == lengths[0] for held in lengths)
        and min(lengths[0]) > 0
        and not plain[lists].map(_is_nested).any(axis=None)
    ):
        plain = plain.explode(lists, ignore_index=True).infer_objects()
    for name in [c for c in plain if any(isinstance(v, dict | list) for v in plain[c])]:
        plain[name] = [json.dumps(v) if isinstance(v, dict | list) else v for v in plain[name]]
    return plain


def _is_nested(values: object) -> bool:
    return isinstance(values, list) and any(isinstance(value, dict | list) for value in values)


def flat(value: Mapping, before: str = "") -> dict[str, object]:
    """Keys of inner dictionaries joined by a slash; a W&B {"value": x} is x; lists are left out of inner ones."""
    found: dict[str, object] = {}
    for key, held in value.items():
        if isinstance(held, dict) and set(held) <= {"value", "desc"} and "value" in held:
            held = held["value"]
        if isinstance(held, dict):
            found |= flat(held, f"{before}{key}/")
        elif not isinstance(held, list):
            found[f"{before}{key}"] = held
    return found


def _records(held: object) -> bool:
    return isinstance(held, list) and bool(held) and all(isinstance(record, dict) for record in held)
