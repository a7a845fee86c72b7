"""Files of rows as tables: CSV in any separator and encoding, JSON lines, JSON records and parquet.

Numbers are numbers and text stays as it was written: a run or an arm called None, NA, null or nan keeps its name.
"""

import csv
import io
import json
import re
from pathlib import Path

import pandas as pd
import pyarrow as pa

from isoflop.scaling.table.columns import TableError
from isoflop.scaling.table.meaning import number
from isoflop.scaling.table.runs import first_line

LABELS = ("run_id", "trunk_id", "arm", "dataset")
_SEPARATORS = (",", ";", "\t", "|")
_SPELLED = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars", r"\s+": "blanks"}
_DECIMAL_COMMA = re.compile(r"\s*[+-]?\d*,\d+(e[+-]?\d+)?\s*|\s*[+-]?\d{1,3}(\.\d{3})+,\d+\s*", re.I)
_THOUSANDS = re.compile(r"\s*[+-]?[1-9]\d{0,2}(,\d{3})+\s*")


def read_file(path: Path, notes: list[str], labels: tuple[str, ...] = LABELS) -> pd.DataFrame:
    """The rows of a file in its own columns. `labels` are columns of names: never missing values, only empty cells.

    Adds to `notes` what is unusual of the file. Raises TableError naming the file, and what to do.
    """
    if path.stat().st_size == 0:
        raise TableError(f"{path}: the file is empty")
    suffix = path.suffix.lower()
    kind = suffix[1:] if suffix in (".parquet", ".json", ".jsonl", ".ndjson") else "CSV"
    if suffix in (".xlsx", ".xls", ".ods"):
        raise TableError(f"{path}: a spreadsheet; save its sheet as CSV")
    try:
        if kind == "parquet":
            return _without_index(pd.read_parquet(path))
        if kind == "CSV":
            return _csv(path, notes, labels)
        return _json(path)
    except TableError:
        raise
    except (ValueError, pa.ArrowInvalid, pd.errors.ParserError, pd.errors.EmptyDataError, csv.Error) as error:
        raise TableError(f"{path}: cannot be read as {kind} ({first_line(error)})") from error


def _without_index(frame: pd.DataFrame) -> pd.DataFrame:
    """The index that a parquet file was written with as columns where it has names."""
    named = [name for name in frame.index.names if name is not None and name not in frame]
    return frame.reset_index(level=named).reset_index(drop=True) if named else frame.reset_index(drop=True)


def _json(path: Path) -> pd.DataFrame:
    text = _text(path, [])
    if path.suffix.lower() == ".json":
        held = json.loads(text)
        if isinstance(held, dict):
            lists = [value for value in held.values() if _records(value)]
            held = lists[0] if len(lists) == 1 else held
        if not isinstance(held, dict) and not _records(held):
            raise TableError(f"{path}: not a list of records; write it as [{{column: value, ...}}, ...] or as CSV")
        return pd.DataFrame(held).reset_index(drop=True)
    records = [json.loads(line) for line in text.splitlines() if line.strip()]
    if not _records(records):
        raise TableError(f"{path}: not a record a line; write each line as {{column: value, ...}}")
    return pd.DataFrame(records)


def _records(held: object) -> bool:
    return isinstance(held, list) and bool(held) and all(isinstance(record, dict) for record in held)


def _text(path: Path, notes: list[str]) -> str:
    """The text of a file in UTF-8, UTF-16 or, where neither fits, Windows' Latin letters. Raises ValueError."""
    raw = path.read_bytes()
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        text = raw.decode("utf-16")
        if not re.search("[A-Za-z0-9]", text[:200]):
            raise ValueError("no text in UTF-16")
        return text
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        if b"\0" in raw:
            raise
    notes.append("the file is not UTF-8: read as Windows Latin (cp1252)")
    return raw.decode("cp1252")


def _csv(path: Path, notes: list[str], labels: tuple[str, ...]) -> pd.DataFrame:
    if path.suffix.lower() in (".gz", ".bz2", ".xz", ".zip", ".zst"):
        return pd.read_csv(path)
    text = _uncommented(_text(path, notes), notes)
    if not text.strip():
        raise TableError(f"{path}: the file is empty")
    separator = _separator(text)
    if separator != ",":
        notes.append(f"columns are separated by {_SPELLED[separator]}")

    def read(**options: object) -> pd.DataFrame:
        return pd.read_csv(io.StringIO(text), sep=separator, skipinitialspace=True, low_memory=False, **options)

    frame = read()
    options: dict[str, object] = {}
    if not frame.index.equals(pd.RangeIndex(len(frame))):  # rows are longer than the header
        if frame.iloc[:, -1].notna().any():
            raise TableError(f"{path}: rows have more values than the header has names; name every column")
        options["index_col"] = False
        frame = read(**options)
    if len(frame.columns) > 1 and all(number(str(name)) is not None for name in frame):
        raise TableError(f"{path}: the first line holds numbers, not names; add a line with the names of the columns")
    words = [name for name in frame if _is_text(frame[name])]
    words += [name for name in frame if name not in words and name.strip() in labels and frame[name].isna().any()]
    if words:
        options |= {"dtype": dict.fromkeys(words, str), "keep_default_na": False, "na_values": [""]}
        written = read(**options)
        frame = frame.assign(**{name: written[name] for name in words if written[name].notna().any()})
        if separator != ",":
            _decimal_commas(frame, words, path, notes)
    frame.columns = [str(name).strip() for name in frame]
    return frame


def _is_text(column: pd.Series) -> bool:
    if pd.api.types.is_numeric_dtype(column):
        return False
    return not column.dropna().map(lambda value: isinstance(value, bool)).all()


def _uncommented(text: str, notes: list[str]) -> str:
    """The text without lines that begin with #; the last of them before the rows where it holds the names."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not re.search(r"^\s*#", text, re.M):
        return text
    lines = text.split("\n")
    kept = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
    before = 0
    while before < len(lines) and (not lines[before].strip() or lines[before].lstrip().startswith("#")):
        before += 1
    heading = [line.strip().lstrip("#").strip() for line in lines[:before] if line.strip()]
    if kept and heading:
        separator = _separator(kept[0])
        width = len(_split(kept[0], separator))
        row = [number(cell) is not None for cell in _split(kept[0], separator)]
        if any(row) and len(_split(heading[-1], separator)) == width > 1:
            kept.insert(0, heading[-1])
            notes.append("the names of the columns are the last line that begins with #")
    return "\n".join(kept) + "\n"


def _split(line: str, separator: str) -> list[str]:
    if separator == r"\s+":
        return line.split()
    return next(csv.reader([line], delimiter=separator), [])


def _separator(text: str) -> str:
    """The separator of the header, checked against the first row."""
    lines = [line for line in text[:200_000].split("\n")[:20] if line.strip()]
    widths = {mark: [len(_split(line, mark)) for line in lines[:2]] for mark in (*_SEPARATORS, r"\s+")}
    even = [mark for mark, width in widths.items() if width[0] > 1 and width[0] == width[-1]]
    best = max((mark for mark in even if mark != r"\s+"), key=lambda mark: widths[mark][0], default=None)
    if best:
        return best
    some = max(_SEPARATORS, key=lambda mark: widths[mark][0])
    return some if widths[some][0] > 1 else (r"\s+" if r"\s+" in even else ",")


def _decimal_commas(frame: pd.DataFrame, words: list[str], path: Path, notes: list[str]) -> None:
    """Columns of numbers with a decimal comma as numbers, in place; raises TableError where it may part thousands."""
    decimal: list[str] = []
    either: list[str] = []
    for name in words:
        cells = frame[name].dropna().str.strip()
        commas = cells[cells.str.contains(",", regex=False)]
        others = cells[~cells.str.contains(",", regex=False)]
        thousands = commas.str.fullmatch(_THOUSANDS)
        known = thousands | commas.str.fullmatch(_DECIMAL_COMMA)
        if commas.empty or not known.all() or others.map(lambda cell: number(cell.replace(".", "")) is None).any():
            continue
        if not (thousands & (commas.str.count(",") > 1)).any():  # 1,238,144 can only part thousands
            (either if thousands.all() else decimal).append(name)
    if either and not decimal:
        shown = next(cell for cell in frame[either[0]].dropna() if "," in cell)
        raise TableError(
            f"{path}: the comma in {either[0]} ({shown}) may part thousands or decimals; write the number without it"
        )
    for name in decimal + either:
        cells = frame[name].str.replace(".", "", regex=False).str.replace(",", ".", regex=False)
        frame[name] = pd.to_numeric(cells)
    if decimal:
        notes.append(f"numbers are written with a decimal comma in {', '.join(decimal + either)}")
