"""Files of rows as tables: CSV in any separator and encoding, JSON, parquet, Arrow and sheets, packed or not.

Numbers are numbers and text stays as it was written: a run or an arm called None, NA, null, nan or 007 keeps its name.
"""

import csv
import io
import json
import lzma
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from isoflop.read_json import JsonError, require_regular
from isoflop.scaling.table.columns import TableError, is_numbers
from isoflop.scaling.table.formats.decimals import read_decimals
from isoflop.scaling.table.formats.json_rows import flattened, read_json_rows
from isoflop.scaling.table.formats.names import LABELS, one_line, refuse_repeated
from isoflop.scaling.table.formats.packed import unpacked, unpacked_name
from isoflop.scaling.table.formats.text import decoded, read_csv
from isoflop.scaling.table.runs import first_line

SHEETS = (".xlsx", ".xlsm")
OTHER_SHEETS = (".xls", ".ods", ".numbers")
ARROW = (".feather", ".arrow")
SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet", *ARROW, *SHEETS)


def read_file(path: Path, notes: list[str], labels: tuple[str, ...] = LABELS, sheet: str | None = None) -> pd.DataFrame:
    """The rows of a file in its own columns: the one reader of tables, for fit and import alike.

    `labels` are columns of names: never missing values, only empty cells. `sheet` names one of a spreadsheet.
    Adds to `notes` what is unusual of the file. Raises TableError naming the file, and what to do.
    """
    try:
        if require_regular(path).st_size == 0:
            raise TableError(f"{path}: the file is empty")
    except JsonError as error:
        raise TableError(str(error)) from error
    kind = kind_of(path)
    if path.suffix.lower() in OTHER_SHEETS:
        raise TableError(f"{path}: a spreadsheet of another kind; save its sheet as CSV or .xlsx")
    if sheet is not None and kind != "spreadsheet":
        raise TableError(f"{path}: --sheet {sheet} is for a spreadsheet, and this is a {kind} file")
    try:
        if kind == "spreadsheet":
            return _sheet(path, sheet, notes, labels)
        raw = unpacked(path)
        if kind in ("parquet", "Arrow"):
            frame = _parquet(raw) if kind == "parquet" else _arrow(raw)
            return _with_decimals(_flat_cells(_without_index(frame, path)), path, notes)
        if kind == "CSV":
            return read_csv(decoded(raw, notes), path, notes, labels)
        frame = flattened(read_json_rows(decoded(raw, notes), kind, path))
        frame.columns = [one_line(name) for name in frame]
        refuse_repeated(list(frame), path)
        return _with_decimals(_flat_cells(frame), path, notes)
    except TableError:
        raise
    except (
        ValueError, TypeError, OSError, EOFError, RuntimeError, OverflowError, pa.ArrowException, csv.Error,
        pd.errors.ParserError,
        pd.errors.EmptyDataError, pd.errors.ParserWarning, lzma.LZMAError, zlib.error, zipfile.BadZipFile,
    ) as error:  # fmt: skip
        suffix = unpacked_name(path).suffix.lower()
        remedy = f"; save the rows of a {suffix} file as parquet or CSV" if suffix and suffix not in SUFFIXES else ""
        why = first_line(error).removeprefix(f"{path}: ")
        raise TableError(f"{path}: cannot be read as {kind} ({why}){remedy}") from error


def _flat_cells(frame: pd.DataFrame) -> pd.DataFrame:
    """The same with lists and objects in cells as their JSON text: no cell is a container, which nothing can count."""
    containers = (dict, list, tuple, set, np.ndarray)

    def plain(value: object) -> object:
        return value.tolist() if isinstance(value, np.ndarray) else str(value)

    for at, column in enumerate(frame):
        values = frame.iloc[:, at]
        if values.dtype == object and any(isinstance(value, containers) for value in values):
            texts = [json.dumps(v, default=plain) if isinstance(v, containers) else v for v in values]
            frame = frame.assign(**{str(column): texts})
    return frame


def _with_decimals(frame: pd.DataFrame, path: Path, notes: list[str]) -> pd.DataFrame:
    """The same with columns of texts that are numbers with a decimal comma as numbers, as in a CSV."""
    if not frame.columns.is_unique:
        return frame
    held = {
        column: [*map(_text_of, frame[column])]
        for column in frame
        if not is_numbers(frame[column]) and any(isinstance(v, str) and "," in v for v in frame[column])
    }
    written = pd.DataFrame(held, index=frame.index, dtype=object)
    decimals = {str(v) for column in held for v in frame[column] if isinstance(v, float)}
    frame = frame.copy(deep=False)
    read_decimals(frame, written, list(held), path, notes, guess=True, decimals=decimals)
    return frame


def _text_of(value: object) -> str | None:
    return None if value is None or value is pd.NA or value != value else str(value)


def _parquet(raw: bytes) -> pd.DataFrame:
    try:
        return pd.read_parquet(io.BytesIO(raw))
    except Exception as error:  # pandas' own note in the file may hold anything
        raise ValueError(first_line(error)) from error


def _arrow(raw: bytes) -> pd.DataFrame:
    """The rows of a Feather or Arrow file, or of a stream of Arrow's, as Hugging Face's datasets write it."""
    is_file = raw.startswith(b"ARROW1")
    with pa.ipc.open_file(raw) if is_file else pa.ipc.open_stream(raw) as reader:
        table = reader.read_all()
    table.validate(full=True)
    return table.to_pandas()


def kind_of(path: Path) -> str:
    """parquet, Arrow, json, jsonl, spreadsheet or CSV, by the ending of a name without that of its packing."""
    suffix = unpacked_name(path).suffix.lower()
    if suffix in (*SHEETS, *ARROW):
        return "spreadsheet" if suffix in SHEETS else "Arrow"
    return {".parquet": "parquet", ".json": "json", ".jsonl": "jsonl", ".ndjson": "jsonl"}.get(suffix, "CSV")


def is_table_file(path: Path) -> bool:
    """Whether a file's name ends like that of a table, packed or not."""
    return path.is_file() and unpacked_name(path).suffix.lower() in SUFFIXES


def _without_index(frame: pd.DataFrame, path: Path) -> pd.DataFrame:
    """The index that a parquet file was written with as columns where it has names."""
    frame.columns = [one_line(name) for name in frame]
    refuse_repeated(list(frame), path)
    named = [name for name in frame.index.names if name is not None and name not in frame]
    return frame.reset_index(level=named).reset_index(drop=True) if named else frame.reset_index(drop=True)


def _sheet(path: Path, sheet: str | None, notes: list[str], labels: tuple[str, ...]) -> pd.DataFrame:
    """A sheet as it would be saved as CSV; of several sheets one must be named."""
    try:
        book = pd.ExcelFile(path, engine="openpyxl")
    except ImportError as error:
        raise TableError(
            f"{path}: a spreadsheet is read by openpyxl; pip install 'isoflop[excel]', or save the sheet as CSV"
        ) from error
    except (KeyError, RuntimeError, zipfile.BadZipFile) as error:
        raise TableError(f"{path}: cannot be read as spreadsheet ({first_line(error)})") from error
    with book:
        names = [str(name) for name in book.sheet_names]
        if sheet is None and len(names) > 1:
            raise TableError(f"{path}: {len(names)} sheets ({', '.join(names)}); name one with --sheet NAME")
        if sheet is not None and sheet not in names:
            raise TableError(f"{path}: no sheet {sheet!r} (there are: {', '.join(names)})")
        chosen = sheet or names[0]
        cells = pd.read_excel(book, sheet_name=chosen, header=None, dtype=object, keep_default_na=False, na_values=[""])
    decimals = {str(value) for value in cells.to_numpy().ravel() if isinstance(value, float)}
    return read_csv(cells.to_csv(index=False, header=False), path, notes, labels, decimals)
