"""Files of rows as tables: CSV in any separator and encoding, JSON, parquet and sheets, packed or not.

Numbers are numbers and text stays as it was written: a run or an arm called None, NA, null, nan or 007 keeps its name.
"""

import bz2
import csv
import gzip
import io
import json
import lzma
import re
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import pandas as pd
import pyarrow as pa

from isoflop.read_json import JsonError, parse_json, read_bytes, require_regular
from isoflop.scaling.table.columns import TableError
from isoflop.scaling.table.meaning import meaning, number
from isoflop.scaling.table.runs import first_line

LARGEST = 2**33  # bytes of a file
UNPACKED = 2**30  # bytes that a packed file may hold
LARGEST_JSON = 2**27  # characters of a file of JSON that is one value
LONGEST_LINE = 2**22  # characters of a row as text
LABELS = ("run_id", "trunk_id", "arm", "dataset")
PACKED = (".gz", ".bz2", ".xz", ".zip")
SHEETS = (".xlsx", ".xlsm")
OTHER_SHEETS = (".xls", ".ods", ".numbers")
SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet", *SHEETS)
NESTED = ("summary", "config", "summary_metrics", "summarymetrics", "history")  # of W&B, opened by its importer
SUMMARIES = ("mean", "average", "avg", "total", "sum", "median", "std", "sd")  # rows under a table
_RULE = re.compile(r"^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$")  # under the names in markdown
_SEPARATORS = (",", ";", "\t", "|")
_SPELLED = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars", r"\s+": "blanks"}
_DECIMAL_COMMA = re.compile(r"\s*[+-]?\d*,\d+(e[+-]?\d+)?\s*|\s*[+-]?\d{1,3}(\.\d{3})+,\d+\s*", re.I)
_THOUSANDS = re.compile(r"\s*[+-]?[1-9]\d{0,2}(,\d{3})+\s*")
_DOTTED = re.compile(r"\s*[+-]?[1-9]\d{0,2}(\.\d{3})+\s*")
_LEADING_ZERO = re.compile(r"\s*0\d+\s*")


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
        raw = _unpacked(path)
        if kind == "parquet":
            return _flat_cells(_without_index(_parquet(raw), path))
        if kind == "CSV":
            return _csv(_text(raw, notes), path, notes, labels)
        frame = _flattened(_json(_text(raw, notes), kind, path))
        frame.columns = [_name(name) for name in frame]
        _refuse_repeated(list(frame), path)
        return _flat_cells(frame)
    except TableError:
        raise
    except (
        ValueError, TypeError, OSError, EOFError, RuntimeError, OverflowError, pa.ArrowException, csv.Error,
        pd.errors.ParserError,
        pd.errors.EmptyDataError, pd.errors.ParserWarning, lzma.LZMAError, zlib.error, zipfile.BadZipFile,
    ) as error:  # fmt: skip
        raise TableError(f"{path}: cannot be read as {kind} ({first_line(error)})") from error


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


def _parquet(raw: bytes) -> pd.DataFrame:
    try:
        return pd.read_parquet(io.BytesIO(raw))
    except Exception as error:  # pandas' own note in the file may hold anything
        raise ValueError(first_line(error)) from error


def kind_of(path: Path) -> str:
    """parquet, json, jsonl, spreadsheet or CSV, by the ending of a name without that of its packing."""
    suffix = _unpacked_name(path).suffix.lower()
    if suffix in SHEETS:
        return "spreadsheet"
    return {".parquet": "parquet", ".json": "json", ".jsonl": "jsonl", ".ndjson": "jsonl"}.get(suffix, "CSV")


def is_table_file(path: Path) -> bool:
    """Whether a file's name ends like that of a table, packed or not."""
    return path.is_file() and _unpacked_name(path).suffix.lower() in SUFFIXES


def _unpacked_name(path: Path) -> Path:
    return path.with_suffix("") if path.suffix.lower() in PACKED else path


def _unpacked(path: Path) -> bytes:
    """The bytes of a file, unpacked where its name says that it is packed."""
    raw, suffix = read_bytes(path, LARGEST), path.suffix.lower()
    if suffix == ".zip":
        with zipfile.ZipFile(io.BytesIO(raw)) as held:
            names = [name for name in held.namelist() if not name.endswith("/") and not name.startswith("__MACOSX")]
            if len(names) != 1:
                raise TableError(f"{path}: {len(names)} files are packed in it ({', '.join(names[:5])}); unpack one")
            with held.open(names[0]) as file:
                return _at_most(file, path)
    if suffix not in PACKED:
        return raw
    with _opened(io.BytesIO(raw), suffix) as file:
        return _at_most(file, path)


def _opened(packed: IO[bytes], suffix: str) -> IO[bytes]:
    """What unpacks bytes of one of PACKED, but .zip."""
    if suffix == ".gz":
        return cast(IO[bytes], gzip.GzipFile(fileobj=packed))
    return cast(IO[bytes], bz2.BZ2File(packed) if suffix == ".bz2" else lzma.LZMAFile(packed))


def _at_most(file: IO[bytes], path: Path) -> bytes:
    """What is packed in a file. Raises TableError where it is too much: a small file may unfold to any size."""
    content = file.read(UNPACKED + 1)
    if len(content) > UNPACKED:
        raise TableError(f"{path}: it unpacks to more than {UNPACKED:,} bytes; unpack it, and keep the rows of runs")
    return content


def _without_index(frame: pd.DataFrame, path: Path) -> pd.DataFrame:
    """The index that a parquet file was written with as columns where it has names."""
    frame.columns = [_name(name) for name in frame]
    _refuse_repeated(list(frame), path)
    named = [name for name in frame.index.names if name is not None and name not in frame]
    return frame.reset_index(level=named).reset_index(drop=True) if named else frame.reset_index(drop=True)


def _refuse_repeated(names: list[str], path: Path) -> None:
    """Raise TableError for a name with a meaning that stands over several columns."""
    repeated = [name for name, n in Counter(names).items() if n > 1 and (meaning(name) or name in LABELS)]
    if repeated:
        raise TableError(f"{path}: several columns are called {', '.join(repeated)}; rename all but one")


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
    return _csv(cells.to_csv(index=False, header=False), path, notes, labels)


def _json(text: str, kind: str, path: Path) -> pd.DataFrame:
    """JSON records, columns, pandas' split, index and table forms, or one list of records under any key."""
    if kind == "jsonl":
        lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
        if long := next(((number, line) for number, line in lines if len(line) > LONGEST_LINE), None):
            raise TableError(
                f"{path}: line {long[0]} has {len(long[1]):,} characters, and a row of a table at most {LONGEST_LINE:,}"
            )
        records = [parse_json(line, Any, source=f"{path}: line {number}", nan=True) for number, line in lines]
        if not _records(records):
            raise TableError(f"{path}: not a record a line; write each line as {{column: value, ...}}")
        return pd.DataFrame(records)
    if len(text) > LARGEST_JSON:
        raise TableError(
            f"{path}: {len(text):,} characters of JSON, and at most {LARGEST_JSON:,} are read; "
            "write a record a line, as .jsonl"
        )
    held = parse_json(text, Any, source=str(path), nan=True)
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
    if not isinstance(held, dict) and not _records(held):
        raise TableError(f"{path}: not a list of records; write it as [{{column: value, ...}}, ...] or as CSV")
    return pd.DataFrame(held).reset_index(drop=True)


def _flattened(frame: pd.DataFrame) -> pd.DataFrame:
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


def _text(raw: bytes, notes: list[str]) -> str:
    """Text in UTF-8, UTF-16, UTF-32 or, where none fits, Windows' Latin letters. Raises ValueError."""
    for mark, encoding in ((b"\xff\xfe\0\0", "utf-32"), (b"\0\0\xfe\xff", "utf-32"), (b"\xff\xfe", "utf-16"),
                           (b"\xfe\xff", "utf-16")):  # fmt: skip
        if raw.startswith(mark):
            text = raw.decode(encoding)
            if not re.search("[A-Za-z0-9]", text[:200]):
                raise ValueError(f"no text in {encoding.upper()}")
            return text
    if len(raw) > 3 and raw[:4].count(0) == 2 and raw[0] != raw[1]:  # UTF-16 without its mark
        return raw.decode("utf-16-le" if raw[1] == 0 else "utf-16-be")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        if b"\0" in raw:
            raise ValueError("bytes that are no text") from None
        notes.append("the file is not UTF-8: read as Windows Latin (cp1252)")
        return raw.decode("cp1252")
    if "\0" in text:
        raise ValueError("bytes that are no text")
    return text


def _csv(text: str, path: Path, notes: list[str], labels: tuple[str, ...]) -> pd.DataFrame:
    if len(text) > LONGEST_LINE and (length := max(map(len, text.split("\n")))) > LONGEST_LINE:
        raise TableError(f"{path}: a line has {length:,} characters, and a row of a table at most {LONGEST_LINE:,}")
    text = _uncommented(text, notes)
    if not text.strip():
        raise TableError(f"{path}: the file is empty")
    text = _without_headers(text, notes)
    separator = _separator(text)
    if separator != ",":
        notes.append(f"columns are separated by {_SPELLED[separator]}")

    def read(**options: object) -> pd.DataFrame:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # of values that it would lose
            return pd.read_csv(io.StringIO(text), sep=separator, skipinitialspace=True, low_memory=False, **options)

    header = [name.strip() for name in _split(next(line for line in text.split("\n") if line.strip()), separator)]
    _refuse_repeated(header, path)
    frame = read()
    options: dict[str, object] = {}
    if not frame.index.equals(pd.RangeIndex(len(frame))):  # rows are longer than the header
        if frame.iloc[:, -1].notna().any():
            raise TableError(f"{path}: rows have more values than the header has names; name every column")
        options["index_col"] = False
        frame = read(**options)
    if len(frame.columns) > 1 and all(number(str(name)) is not None for name in frame):
        raise TableError(f"{path}: the first line holds numbers, not names; add a line with the names of the columns")
    written = read(**options, dtype=str, keep_default_na=False, na_values=[""])
    words = [name for name in frame if _is_text(frame[name], written[name], str(name).strip() in labels)]
    frame = frame.assign(**{name: _unpadded(written[name]) for name in words})
    _decimal_commas(frame, written, words, path, notes, separator)
    frame.columns = [_name(name) for name in frame]
    return _without_summaries(frame, words, notes)


def _unpadded(texts: pd.Series) -> pd.Series:
    """Texts without the blanks behind them, which columns of one width have, unless those tell two apart."""
    stripped = texts.str.rstrip(" \t")
    return stripped if stripped.nunique() == texts.nunique() else texts


def _name(name: object) -> str:
    """The name of a column in one line."""
    return re.sub(r"\s*[\r\n]+\s*", " ", str(name)).strip()


def _without_headers(text: str, notes: list[str]) -> str:
    """The text without lines that repeat the names of the columns, and without a rule under them."""
    header = text.lstrip("\n").partition("\n")[0]
    if "|" not in header and f"\n{header}\n" not in text[text.index(header) + 1 :]:
        return text
    lines = [line for line in text.split("\n") if line.strip() and not ("|" in line and _RULE.match(line))]
    again = lines[1:].count(lines[0])
    if again and number(lines[0].strip()) is None:
        notes.append(f"the names of the columns stand {again} more times in the file: those lines are left out")
        lines = [lines[0], *(line for line in lines[1:] if line != lines[0])]
    return "\n".join(lines) + "\n"


def _without_summaries(frame: pd.DataFrame, texts: list[str], notes: list[str]) -> pd.DataFrame:
    """The rows without those at the end that sum up the others, by the word in their first text."""
    name = next((str(text).strip() for text in texts), None)
    if name is None or name not in frame or meaning(name) is not None:
        return frame
    end = len(frame)
    while end > 1 and str(frame[name].iloc[end - 1]).strip().lower() in SUMMARIES:
        end -= 1
    if end < len(frame):
        notes.append(
            f"{len(frame) - end} rows at the end are left out, they sum up the others ({frame[name].iloc[-1]})"
        )
    return frame.iloc[:end]


def _is_text(column: pd.Series, written: pd.Series, label: bool) -> bool:
    """Whether a column holds text, which stays as written: words, numbers such as 007, all labels but whole numbers."""
    if written.isna().all():
        return False
    if not pd.api.types.is_numeric_dtype(column):
        return label or not column.dropna().map(lambda value: isinstance(value, bool)).all()
    if label and not pd.api.types.is_integer_dtype(column):
        return True
    if column.isna().all():
        return True
    return bool(pd.api.types.is_integer_dtype(column) and written.str.fullmatch(_LEADING_ZERO).any())


def _uncommented(text: str, notes: list[str]) -> str:
    """The text without lines that begin with #; the last of them before the rows where it holds the names.

    Lines as wide as a row that are left out are counted. A row whose first cell is a name such as #3 stays.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not re.search(r"^[^\S\n]*#", text, re.M):
        return text
    lines = [line for line in text.split("\n") if line.strip()]
    marked = [line.lstrip().startswith("#") for line in lines]
    plain = [line for line, mark in zip(lines, marked, strict=True) if not mark]
    if not plain:
        return ""
    first = marked.index(False)
    separator = _separator("\n".join(plain))
    header, width = plain[0], len(_split(plain[0], separator))
    said = lines[first - 1].strip().lstrip("#").strip() if first else ""
    numbers = any(number(cell) is not None for cell in _split(plain[0], separator))
    if said and numbers and len(_split(said, separator)) == width > 1:
        header = said
        plain.insert(0, said)
        notes.append("the names of the columns are the last line that begins with #")
    named = any(number(_split(line, separator)[0]) is None for line in plain[1:1000])  # rows begin with a name
    kept, out = [header], []
    for line, mark in zip(lines[first:] if header == said else lines[first + 1 :],
                          marked[first:] if header == said else marked[first + 1 :], strict=True):  # fmt: skip
        wide = mark and len(_split(line, separator)) == width > 1
        if not mark or (wide and named and re.match(r"\s*#[^\s#]", line)):
            kept.append(line)
        elif wide:
            out.append(line)
    if out:
        notes.append(f"{len(out)} lines as wide as a row are left out as comments, they begin with # ({out[0][:40]})")
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


def _decimal_commas(
    frame: pd.DataFrame, written: pd.DataFrame, words: list[str], path: Path, notes: list[str], separator: str
) -> None:
    """Columns of numbers with a decimal comma as numbers, in place; raises TableError where it may part thousands.

    Beside a decimal comma, dots part thousands where all of a column's could. Among commas one parts thousands, unless
    a column shows otherwise: no loss has thousands.
    """
    decimal: list[str] = []
    either: list[str] = []
    parted = False
    for name in words:
        cells = frame[name].dropna().str.strip()
        commas = cells[cells.str.contains(",", regex=False)]
        if commas.empty:
            continue
        others = cells[~cells.str.contains(",", regex=False)]
        thousands = commas.str.fullmatch(_THOUSANDS)
        known = thousands | commas.str.fullmatch(_DECIMAL_COMMA)
        if not known.all() or others.map(lambda cell: number(cell.replace(".", "")) is None).any():
            continue
        if not (thousands & (commas.str.count(",") > 1)).any():  # 1,238,144 can only part thousands
            (either if thousands.all() else decimal).append(name)
        else:
            parted = True
    losses = [
        name for name in either if (said := meaning(str(name))) and said.quantity == "loss" and said.transform == ""
    ]
    if not parted and losses == either and not decimal:
        decimal, either = losses, []
    if separator == "," and not decimal and not losses:
        return
    if either and not decimal:
        shown = next(cell for cell in frame[either[0]].dropna() if "," in cell)
        raise TableError(
            f"{path}: the comma in {either[0]} ({shown}) may part thousands or decimals; write the number without it"
        )
    dotted = [name for name in frame if decimal and name not in decimal + either and _parted_by_dots(written[name])]
    for name in decimal + either + dotted:
        cells = written[name].str.strip().str.replace(".", "", regex=False).str.replace(",", ".", regex=False)
        frame[name] = pd.to_numeric(cells)
    if decimal:
        notes.append(f"numbers are written with a decimal comma in {', '.join(map(str.strip, decimal + either))}")
    if dotted:
        notes.append(f"dots part the thousands in {', '.join(map(str.strip, dotted))}")


def _parted_by_dots(written: pd.Series) -> bool:
    """Whether every number of a column that has a dot may have it between thousands, and some has one."""
    cells = written.dropna().str.strip()
    dots = cells.str.contains(".", regex=False)
    return bool(
        dots.any() and cells[dots].str.fullmatch(_DOTTED).all() and cells[~dots].str.fullmatch(r"[+-]?\d+").all()
    )
