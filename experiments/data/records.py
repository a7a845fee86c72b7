"""Documents of text, and the files that hold them: .jsonl (also .gz, .zst) and .parquet with a column of text.

Any other file is text as it stands. A broken record is refused with its file and line; with data.skip_bad it is counted
and left out.
"""

import difflib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from isoflop.experiments.data import CorpusError

COMPRESSED = {".gz": "gzip", ".zst": "zstd"}
Files = Sequence[tuple[str, Path]]  # (name, path): the name does not depend on where the files are
_DOCUMENT_BYTES = 64 * 1024
_LOOKED_AT = 8192  # bytes, for one that no text has
_ROWS = 1024


@dataclass(frozen=True)
class Document:
    """A named piece of text; its name alone decides on which side of the split it falls."""

    name: str
    content: bytes  # UTF-8


def documents(name: str, path: Path, *, column: str, skip_bad: bool, skipped: Counter[str]) -> Iterator[Document]:
    """The documents of one file, in its order. With `skip_bad`, `skipped` counts what was left out by reason.

    Raises CorpusError naming file and line: unreadable, binary, not JSON, no such column.
    """
    suffixes = [s for s in path.suffixes[-2:] if s not in COMPRESSED]
    try:
        if suffixes and suffixes[-1] == ".jsonl":
            yield from _of_jsonl(name, path, column, skip_bad, skipped)
        elif path.suffix == ".parquet":
            yield from _of_parquet(name, path, column, skip_bad, skipped)
        else:
            yield from _of_text(name, path, skip_bad, skipped)
    except OSError as error:
        reason = error.strerror or str(error)
        raise CorpusError(f"data.files: cannot read {path} ({reason}); leave it out of the globs") from error


def _of_text(name: str, path: Path, skip_bad: bool, skipped: Counter[str]) -> Iterator[Document]:
    content = path.read_bytes()
    if b"\0" in content[:_LOOKED_AT]:
        _refuse(f"{path} is binary (a zero byte); leave it out of the globs", "binary file", skip_bad, skipped)
    else:
        yield from (Document(f"{name}#{i}", piece) for i, piece in enumerate(cut_text(content)))


def _of_jsonl(name: str, path: Path, column: str, skip_bad: bool, skipped: Counter[str]) -> Iterator[Document]:
    with pa.input_stream(str(path), compression=COMPRESSED.get(path.suffix)) as raw:
        for number, line in enumerate(_lines(raw), 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
                if not isinstance(record, dict):
                    raise ValueError("not an object")
            except ValueError as error:
                _refuse(f"{path}: line {number} is not a JSON object ({error})", "broken JSON line", skip_bad, skipped)
                continue
            text = column_of(record, column, f"{path}: line {number}")
            if isinstance(text, str):
                yield Document(f"{name}#{number}", text.encode(errors="surrogatepass"))
            else:
                _refuse(f"{path}: line {number}: {column!r} is not text", "text that is none", skip_bad, skipped)


def _of_parquet(name: str, path: Path, column: str, skip_bad: bool, skipped: Counter[str]) -> Iterator[Document]:
    try:
        file = pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise CorpusError(f"{path}: not a parquet file ({str(error).splitlines()[0]})") from error
    column_of(dict.fromkeys(file.schema_arrow.names), column, str(path))
    number = 0
    for batch in file.iter_batches(_ROWS, columns=[column]):
        for text in batch.column(0).to_pylist():
            number += 1
            if isinstance(text, str | bytes):
                yield Document(f"{name}#{number}", text.encode() if isinstance(text, str) else text)
            else:
                _refuse(f"{path}: row {number}: {column!r} is not text", "text that is none", skip_bad, skipped)


def column_of(record: Mapping[str, object], column: str, where: str) -> object:
    """The value of a record's column. Raises CorpusError with the nearest name where there is no such column."""
    if column in record:
        return record[column]
    near = difflib.get_close_matches(column, record, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise CorpusError(f"{where}: no column data.text_column={column!r}; {hint}there are {', '.join(record) or 'none'}")


def cut_text(content: bytes) -> Iterator[bytes]:
    """A long text in pieces of about 64 KiB that end at a line where there is one."""
    start = 0
    while start < len(content):
        end = content.find(b"\n", start + _DOCUMENT_BYTES - 1) + 1
        end = end if 0 < end <= start + 2 * _DOCUMENT_BYTES else min(start + _DOCUMENT_BYTES, len(content))
        yield content[start:end]
        start = end


def _refuse(message: str, reason: str, skip_bad: bool, skipped: Counter[str]) -> None:
    if not skip_bad:
        raise CorpusError(f"{message}; or data.skip_bad=true skips and counts such")
    skipped[reason] += 1


def _lines(raw: pa.NativeFile) -> Iterator[bytes]:
    rest = b""
    while chunk := raw.read(1 << 20):
        *whole, rest = (rest + chunk).split(b"\n")
        yield from whole
    yield rest
