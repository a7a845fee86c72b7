"""Documents of text, and the files that hold them, read by suffix (in any case; with .gz, .zst or .bz2 behind it):

- .jsonl, .ndjson: one object a line; .json: an object, a list of objects, or one object a line
- .csv, .tsv: rows under a header; quotes are text in a .tsv unless its cells are quoted as those of a .csv
- .parquet: rows
- anything else: text as it stands, which is cleaned as a whole and then cut into pieces of about 64 KiB

Records have a column of text, data.text_column. Text is decoded by data.encoding; where that is a UTF encoding, a byte
order mark at the start of a file states which one, and is no part of the text. No character is ever replaced: bytes of
another encoding are refused with file and place, or, with data.skip_bad, counted and left out.
"""

import codecs
import csv
import difflib
import io
import json
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from isoflop.experiments.data import CorpusError
from isoflop.read_json import JsonError, require_regular
from isoflop.scaling.table.runs import arrow_file

RECORDS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")  # read as rows, all else as text
COMPRESSED = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
MARKS = (  # the longer first: UTF-32 begins as UTF-16 does
    (codecs.BOM_UTF32_LE, "utf-32-le"), (codecs.BOM_UTF32_BE, "utf-32-be"), (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"),
)  # fmt: skip
_PACKED = (  # where in a file, what is there, of what kind
    (0, b"\x1f\x8b", "gzip"), (0, b"\x28\xb5\x2f\xfd", "zstd"), (4, b"1AY&SY", "bz2"),
    (0, b"\xfd7zXZ\0", "an .xz file"), (5, b"\xff" * 8, "an .lzma file"), (0, b"\x04\x22\x4d\x18", "an .lz4 file"),
    (0, b"PK\x03\x04", "a .zip file"), (0, b"7z\xbc\xaf\x27\x1c", "a .7z file"), (0, b"Rar!\x1a", "a .rar file"),
    (257, b"ustar", "a .tar file"),
)  # fmt: skip
Files = Sequence[tuple[str, Path]]  # (name, path): the name does not depend on where the files are
_DOCUMENT_BYTES = 64 * 1024
_READ = 1 << 20  # bytes at once
_LOOKED_AT = 8192  # bytes, for a zero that no text has outside UTF-16 and UTF-32
_TELLING = 8  # characters that tell an encoding
_ROWS = 1024
_PARQUET_TEXT = ("string", "large_string", "string_view")  # types
_LONGEST_FIELD = 2**31 - 1  # characters of a field of .csv


@dataclass(frozen=True)
class Document:
    """A named piece of text. What stands behind the last # of its name counts the pieces of one file."""

    name: str
    content: bytes  # UTF-8
    cut: bool = False  # into pieces when it is clean: it is a whole file


class _BadError(Exception):
    """Text that cannot be read: why, with file and place, and the reason that it is counted under."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


Bad = Callable[[_BadError], None]  # counts it, or refuses


def documents(
    name: str, path: Path, *, column: str, skip_bad: bool, skipped: Counter[str], encoding: str = "utf-8"
) -> Iterator[Document]:
    """The documents of one file, in its order. With `skip_bad`, `skipped` counts what was left out by reason.

    Raises CorpusError naming file and line, row or byte: unreadable, binary, of another encoding, no record, no column.
    """

    def bad(error: _BadError) -> None:
        if not skip_bad:
            raise CorpusError(f"{error}; or data.skip_bad=true skips and counts such") from error
        skipped[error.reason] += 1

    kind, compression = kind_of(path)
    try:
        require_regular(path)  # a pipe would wait for ever
        if kind == ".parquet":
            yield from _of_parquet(name, path, column, encoding, bad)
            return
        with pa.input_stream(arrow_file(path), compression=compression) as raw:
            file = _Text(path, raw, encoding)
            if kind in (".jsonl", ".ndjson"):
                yield from _of_lines(name, path, file.lines(bad), column, bad)
            elif kind == ".json":
                yield from _of_json(name, path, file.whole(), column, bad)
            elif kind in (".csv", ".tsv"):
                yield from _of_table(name, path, file.whole(), "," if kind == ".csv" else "\t", column, bad)
            elif text := file.whole():
                yield Document(f"{name}#1", text.encode(), cut=True)
    except _BadError as error:  # of the file as a whole
        bad(error)
    except JsonError as error:
        raise CorpusError(f"data.files: {error}; leave it out of the globs") from error
    except OSError as error:
        reason = error.strerror or str(error).partition("\n")[0]
        raise CorpusError(f"data.files: cannot read {path} ({reason}); leave it out of the globs") from error


def kind_of(path: Path) -> tuple[str, str | None]:
    """The suffix that a file is read by, and its compression by the one behind it."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    compression = COMPRESSED.get(suffixes[-1]) if suffixes else None
    return next(iter((suffixes[:-1] if compression else suffixes)[-1:]), ""), compression


class _Text:
    """The text of an open file, without its byte order mark, decoded strictly."""

    def __init__(self, path: Path, raw: BinaryIO, encoding: str) -> None:
        """Look at the first bytes. Raises _BadError for a file that is binary."""
        self.path, self.raw, self.encoding = path, raw, encoding
        self.start = raw.read(_READ)
        mark, of_mark = next(((m, e) for m, e in MARKS if self.start.startswith(m)), (b"", encoding))
        self.marked = 0  # bytes of the byte order mark
        if mark and codecs.lookup(encoding).name.startswith("utf"):
            self.start, self.encoding, self.marked = self.start[len(mark) :], of_mark, len(mark)
        self.wide = codecs.lookup(self.encoding).name.startswith(("utf-16", "utf-32"))
        if not self.wide and (fault := _no_text(self.start)):
            raise _BadError(f"{path} {fault}leave it out of the globs", "binary file")

    def whole(self) -> str:
        """All of it. Raises _BadError for bytes of another encoding."""
        return self._decoded(self.start + self.raw.read(), self.marked)

    def lines(self, bad: Bad) -> Iterator[str]:
        """Its lines, without their newlines; those of another encoding go to `bad` and come out empty."""
        if self.wide:
            yield from self.whole().split("\n")
            return
        at = self.marked
        for line in self._byte_lines():
            try:
                yield self._decoded(line, at)
            except _BadError as error:
                bad(error)
                yield ""
            at += len(line) + 1

    def _byte_lines(self) -> Iterator[bytes]:
        """Lines of any encoding in which only a newline has its byte; a long one costs no more than its length."""
        begun: list[bytes] = []
        chunk = self.start
        while chunk:
            *ended, rest = chunk.split(b"\n")
            for part in ended:
                yield b"".join([*begun, part])
                begun = []
            begun.append(rest)
            chunk = self.raw.read(_READ)
        yield b"".join(begun)

    def _decoded(self, content: bytes, at: int) -> str:
        try:
            return content.decode(self.encoding)
        except UnicodeDecodeError as error:
            raise _BadError(
                f"{self.path}: byte {at + error.start} ({content[error.start : error.end].hex(' ')}) is not "
                f"{self.encoding}; name the file's encoding, e.g. data.encoding=cp1252",
                f"text that is not {self.encoding}",
            ) from error


def _no_text(start: bytes) -> str:
    """What a file is by its first bytes that is read as no text, with a remedy; "" for text."""
    packed = next((kind for at, mark, kind in _PACKED if start.startswith(mark, at)), "")
    suffixes = ", ".join(COMPRESSED)
    if suffix := next((suffix for suffix, kind in COMPRESSED.items() if kind == packed), ""):
        return f"is compressed by {packed}, and its name does not end in {suffix}; let it end so, or "
    if packed:
        return f"is {packed}, and only {suffixes} are read packed; unpack it, or "
    if b"\0" not in start[:_LOOKED_AT]:
        return ""
    if encoding := _wide_encoding(start[: _LOOKED_AT // 4 * 4]):
        return f"is binary (a zero byte), or text in {encoding}, which data.encoding={encoding} reads; if not, "
    return "is binary (a zero byte); "


def _wide_encoding(start: bytes) -> str:
    """The encoding of UTF-16 and UTF-32 in which some bytes are text, with more blanks than in another; "" for none."""
    blanks = {}
    for encoding in ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be"):
        try:
            text = codecs.getincrementaldecoder(encoding)().decode(start)  # it may end within a character
        except UnicodeDecodeError:
            continue
        if len(text) >= _TELLING and all(char.isspace() or unicodedata.category(char)[0] != "C" for char in text):
            blanks[encoding] = sum(map(str.isspace, text))
    return max(blanks, key=blanks.__getitem__, default="")


def _of_lines(name: str, path: Path, lines: Iterable[str], column: str, bad: Bad) -> Iterator[Document]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}: line {number}"
        try:
            record = json.loads(line)
            if not isinstance(record, dict):
                raise ValueError("not an object")
        except (ValueError, RecursionError) as error:
            bad(_BadError(f"{where} is not a JSON object ({error})", "broken JSON line"))
        else:
            yield from _of_record(f"{name}#{number}", record, column, where, bad)


def _of_json(name: str, path: Path, text: str, column: str, bad: Bad) -> Iterator[Document]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        if isinstance(error, json.JSONDecodeError) and error.msg == "Extra data":  # an object a line
            yield from _of_lines(name, path, text.split("\n"), column, bad)
            return
        raise _BadError(f"{path} is not JSON ({error}); leave it out of the globs", "broken JSON file") from error
    for number, record in enumerate(value if isinstance(value, list) else [value], 1):
        where = f"{path}: record {number}"
        if isinstance(record, dict):
            yield from _of_record(f"{name}#{number}", record, column, where, bad)
        else:
            bad(_BadError(f"{where} is not a JSON object; leave the file out of the globs", "broken JSON record"))


def _of_table(name: str, path: Path, text: str, delimiter: str, column: str, bad: Bad) -> Iterator[Document]:
    try:
        header, *rows = _cells(text, delimiter, quoted=delimiter == "," or not _is_unquoted(text)) or [[]]
    except csv.Error as error:
        raise _BadError(f"{path}: {error}", "broken table") from error
    for number, row in enumerate(rows, 1):
        where = f"{path}: row {number}"
        if len(row) > len(header):
            quoted = "quote cells that hold a comma" if delimiter == "," else "write tabs within cells as blanks"
            bad(_BadError(f"{where} has {len(row)} cells under a header of {len(header)}; {quoted}", "row too long"))
            continue
        record = dict(zip_longest(header, row))
        yield from _of_record(f"{name}#{number}", record, column, where, bad)


def _cells(text: str, delimiter: str, *, quoted: bool) -> list[list[str]]:
    """The rows of a table that are not empty, the header first. Raises csv.Error naming the line."""
    csv.field_size_limit(_LONGEST_FIELD)
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=delimiter, strict=True,
        quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
    )  # fmt: skip
    try:
        return [row for row in reader if row]
    except csv.Error as error:
        raise csv.Error(f"line {reader.line_num} is not a row ({error})") from error


def _is_unquoted(text: str) -> bool:
    """Whether quotes belong to the text of a .tsv, as its format has it, and are not around cells as in a CSV.

    They are around cells in a header, around all cells that begin with one and hold one, and where they alone make rows
    as long as the header.
    """
    header, *rows = _cells(text, "\t", quoted=False) or [[]]
    begun = [cell for row in rows for cell in row if cell.startswith('"')]
    if any(cell.startswith('"') for cell in header) or (begun and all(map(_is_quoted, begun))):
        return False
    if all(len(row) == len(header) for row in rows):
        return True
    try:
        return any(len(row) != len(header) for row in _cells(text, "\t", quoted=True))
    except csv.Error:
        return True


def _is_quoted(cell: str) -> bool:
    """Whether a cell is written as a CSV has one with quotes in its text."""
    inside = cell[1:-1]
    return len(cell) > 1 and cell.endswith('"') and '""' in inside and '"' not in inside.replace('""', "")


def _of_parquet(name: str, path: Path, column: str, encoding: str, bad: Bad) -> Iterator[Document]:
    number = 0
    try:
        file = pq.ParquetFile(arrow_file(path))
        column_of(dict.fromkeys(file.schema_arrow.names), column, str(path))
        for batch in file.iter_batches(_ROWS, columns=[column]):
            values = batch.column(0)
            if pa.types.is_dictionary(values.type):
                values = values.dictionary_decode()
            if is_text := str(values.type) in _PARQUET_TEXT:
                values = values.cast(pa.large_binary())  # Arrow does not check that text is UTF-8
            for value in values.to_pylist():
                number += 1
                where = f"{path}: row {number}"
                if isinstance(value, bytes):
                    try:
                        value = value.decode("utf-8" if is_text else encoding)
                    except UnicodeDecodeError as error:
                        fault = f"byte {error.start} of {column!r} is not {error.encoding}"
                        bad(_BadError(f"{where}: {fault}", f"text that is not {error.encoding}"))
                        continue
                yield from _of_record(f"{name}#{number}", {column: value}, column, where, bad)
    except pa.ArrowException as error:
        raise CorpusError(f"{path}: not a parquet file ({str(error).splitlines()[0]})") from error


def _of_record(name: str, record: Mapping[str, object], column: str, where: str, bad: Bad) -> Iterator[Document]:
    """The document of a record, unless its column holds no text."""
    text = column_of(record, column, where)
    if not isinstance(text, str):
        bad(_BadError(f"{where}: {column!r} is not text", "text that is none"))
        return
    try:
        yield Document(name, text.encode())
    except UnicodeEncodeError as error:
        half = f"half a surrogate pair, {text[error.start]!a}, at character {error.start} of {column!r}"
        bad(_BadError(f"{where}: {half}: no text has that", "half a surrogate pair"))


def column_of(record: Mapping[str, object], column: str, where: str) -> object:
    """The value of a record's column. Raises CorpusError with the nearest name where there is no such column."""
    if column in record:
        return record[column]
    near = difflib.get_close_matches(column, map(str, record), n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    names = ", ".join(map(str, record)) or "none"
    raise CorpusError(f"{where}: no column data.text_column={column!r}; {hint}there are {names}")


def cut_text(content: bytes) -> Iterator[bytes]:
    """A long text, UTF-8, in pieces of about 64 KiB that end at a line where there is one, and never in a character."""
    start = 0
    while start < len(content):
        end = content.find(b"\n", start + _DOCUMENT_BYTES - 1) + 1
        if not 0 < end <= start + 2 * _DOCUMENT_BYTES:
            end = min(start + _DOCUMENT_BYTES, len(content))
            while end < len(content) and content[end] & 0xC0 == 0x80:  # inside a character
                end -= 1
        yield content[start:end]
        start = end
