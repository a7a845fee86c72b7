"""Text as rows: any encoding, separator and way to write numbers."""

import csv
import io
import re
import warnings
from collections.abc import Collection
from pathlib import Path

import pandas as pd

from isoflop.scaling.table.columns import TableError
from isoflop.scaling.table.ended.diverged import of_losses, with_diverged
from isoflop.scaling.table.formats.decimals import read_decimals
from isoflop.scaling.table.formats.names import one_line, refuse_repeated
from isoflop.scaling.table.meaning import meaning, number

NAN = ("nan", "-nan", "+nan")
LONGEST_LINE = 2**22  # characters of a row as text
SUMMARIES = ("mean", "average", "avg", "total", "sum", "median", "std", "sd")  # rows under a table
_RULE = re.compile(r"^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$")  # under the names in markdown
_SEPARATORS = (",", ";", "\t", "|")
_SPELLED = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars", r"\s+": "blanks"}
_LEADING_ZERO = re.compile(r"\s*0\d+\s*")


def decoded(raw: bytes, notes: list[str]) -> str:
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


def read_csv(
    text: str, path: Path, notes: list[str], labels: tuple[str, ...], decimals: Collection[str] = ()
) -> pd.DataFrame:
    """Rows of text in the columns of its header; `decimals` are cells whose dot parts decimals (`read_decimals`)."""
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
    refuse_repeated(header, path)
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
    read_decimals(frame, written, words, path, notes, guess=separator == ",", decimals=decimals)
    nan = {name: written[name].str.strip().str.lower().isin(NAN) for name in of_losses(frame)}
    frame = with_diverged(frame, pd.DataFrame(nan, index=frame.index))
    frame.columns = [one_line(name) for name in frame]
    return _without_summaries(frame, words, notes)


def _unpadded(texts: pd.Series) -> pd.Series:
    """Texts without the blanks behind them, which columns of one width have, unless those tell two apart."""
    stripped = texts.str.rstrip(" \t")
    return stripped if stripped.nunique() == texts.nunique() else texts


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
    """The rows without those at the end that sum up the others, by the word in their first text.

    A word that stands in several rows is a setting of runs.
    """
    name = next((str(text).strip() for text in texts), None)
    if name is None or name not in frame or meaning(name) is not None:
        return frame
    labels = frame[name].astype(str).str.strip().str.lower()
    once = (labels.isin(SUMMARIES) & ~labels.duplicated(keep=False)).to_numpy()
    end = len(frame)
    while end > 1 and once[end - 1]:
        end -= 1
    if end < len(frame):
        notes.append(
            f"{len(frame) - end} rows at the end are left out, they sum up the others by column {name} "
            f"({', '.join(frame[name].iloc[end:].str.strip())}); rename them there where they are runs"
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
    marked_header = lines[first - 1].strip().lstrip("#").strip() if first else ""
    numbers = any(number(cell) is not None for cell in _split(plain[0], separator))
    if marked_header and numbers and len(_split(marked_header, separator)) == width > 1:
        header = marked_header
        plain.insert(0, marked_header)
        notes.append("the names of the columns are the last line that begins with #")
    named = any(number(_split(line, separator)[0]) is None for line in plain[1:1000])  # rows begin with a name
    kept, out = [header], []
    for line, mark in zip(lines[first:] if header == marked_header else lines[first + 1 :],
                          marked[first:] if header == marked_header else marked[first + 1 :], strict=True):  # fmt: skip
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
