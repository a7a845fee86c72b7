"""Documents out of files that hold many: .jsonl (also .gz, .zst) and .parquet, a column of text each.

Anything else is text as it stands. Broken records are refused by name, or counted and skipped when that is asked for.
"""

import difflib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from isoflop.experiments.data.sources import CorpusError, Document, cut_text

COMPRESSED = {".gz": "gzip", ".zst": "zstd"}
_LOOKED_AT = 8192  # bytes, for one that no text has
_ROWS = 1024


def documents(name: str, path: Path, *, column: str, skip_bad: bool, bad: Counter) -> Iterator[Document]:
    """The documents of one file, in its order. With `skip_bad`, `bad` counts what was left out by reason.

    Raises CorpusError naming file and line: unreadable, binary, not JSON, no such column.
    """
    suffixes = [s for s in path.suffixes[-2:] if s not in COMPRESSED]
    try:
        if suffixes and suffixes[-1] == ".jsonl":
            yield from _of_jsonl(name, path, column, skip_bad, bad)
        elif path.suffix == ".parquet":
            yield from _of_parquet(name, path, column, skip_bad, bad)
        else:
            yield from _of_text(name, path, skip_bad, bad)
    except OSError as error:
        reason = error.strerror or str(error)
        raise CorpusError(f"data.files: cannot read {path} ({reason}); leave it out of the globs") from error


def _of_text(name: str, path: Path, skip_bad: bool, bad: Counter) -> Iterator[Document]:
    content = path.read_bytes()
    if b"\0" in content[:_LOOKED_AT]:
        _refuse(f"{path} is binary (a zero byte); leave it out of the globs", "binary file", skip_bad, bad)
    else:
        yield from (Document(f"{name}#{i}", piece) for i, piece in enumerate(cut_text(content)))


def _of_jsonl(name: str, path: Path, column: str, skip_bad: bool, bad: Counter) -> Iterator[Document]:
    with pa.input_stream(str(path), compression=COMPRESSED.get(path.suffix)) as raw:
        for number, line in enumerate(_lines(raw), 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
                if not isinstance(record, dict):
                    raise ValueError("not an object")
            except ValueError as error:
                _refuse(f"{path}: line {number} is not a JSON object ({error})", "broken JSON line", skip_bad, bad)
                continue
            text = column_of(record, column, f"{path}: line {number}")
            if isinstance(text, str):
                yield Document(f"{name}#{number}", text.encode(errors="surrogatepass"))
            else:
                _refuse(f"{path}: line {number}: {column!r} is not text", "text that is none", skip_bad, bad)


def _of_parquet(name: str, path: Path, column: str, skip_bad: bool, bad: Counter) -> Iterator[Document]:
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
                _refuse(f"{path}: row {number}: {column!r} is not text", "text that is none", skip_bad, bad)


def column_of(record: dict, column: str, where: str) -> object:
    """The value of a record's column. Raises CorpusError with the nearest name where there is no such column."""
    if column in record:
        return record[column]
    near = difflib.get_close_matches(column, record, n=1)
    told = f"did you mean {near[0]!r}? " if near else ""
    raise CorpusError(f"{where}: no column data.text_column={column!r}; {told}there are {', '.join(record) or 'none'}")


def _refuse(message: str, reason: str, skip_bad: bool, bad: Counter) -> None:
    if not skip_bad:
        raise CorpusError(f"{message}; or data.skip_bad=true skips and counts such")
    bad[reason] += 1


def _lines(raw: pa.NativeFile) -> Iterator[bytes]:
    rest = b""
    while chunk := raw.read(1 << 20):
        *whole, rest = (rest + chunk).split(b"\n")
        yield from whole
    yield rest
