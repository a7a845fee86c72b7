"""Text from `datasets`: a name on the Hugging Face Hub, or a local folder of one, streamed and never held whole.

The stream is kept as raw-0.parquet, raw-1.parquet, ... of some 16 MB, each renamed into place when it is whole, so that
a broken connection costs one of them. What was streamed is then read like any other files.
"""

import json
import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypedDict

import pyarrow as pa
import pyarrow.parquet as pq

from isoflop.experiments.config import DataSpec, HubSpec
from isoflop.experiments.data import CorpusError
from isoflop.experiments.data.records import column_of
from isoflop.read_json import read_json, require_regular
from isoflop.scaling.table.runs import arrow_file

COLUMN = "text"  # of the raw files; null where a row has none
RAW_BYTES = 16 * 2**20
_DONE = "raw.json"


class StreamError(CorpusError):
    """The connection broke. What had arrived is kept, and the same command goes on from there."""


class _Done(TypedDict):
    """What is kept of a data set that was streamed to its end."""

    licence: str


def stream(data: DataSpec, folder: Path) -> tuple[list[tuple[str, Path]], str]:
    """((name, path) of the raw files in `folder`, the licence that the data set states), made unless they are there.

    Raises CorpusError for a data set, subset, split or column that is not there, StreamError when the stream breaks.
    """
    done = folder / _DONE
    if not done.exists():
        dataset = _open(data.hub)
        _write(dataset, data, folder)
        temporary = done.with_suffix(".tmp")
        temporary.write_text(json.dumps({"licence": getattr(dataset.info, "license", "") or "the data set's own"}))
        os.replace(temporary, done)
    files = [(f"{data.hub.split}-{i}", path) for i, path in enumerate(_raw(folder))]
    return files, read_json(done, _Done, error=CorpusError, remedy="delete its folder and prepare again")["licence"]


def local_files(spec: HubSpec) -> list[Path]:
    """The files of a data set that is a local folder; none for one on the Hub."""
    folder = Path(spec.name).expanduser()
    return sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []


def check(spec: HubSpec) -> None:
    """Raise CorpusError for a name or a size that is none, or without the library."""
    if not spec.name:
        raise CorpusError("data.hub.name is empty; give a data set's name on the Hugging Face Hub, or a local folder")
    if spec.max_bytes is not None and spec.max_bytes < 1:
        raise CorpusError(f"data.hub.max_bytes must be at least 1; not {spec.max_bytes}")
    if find_spec("datasets") is None:  # importing it takes seconds, and a corpus may be there already
        raise CorpusError("data.source=huggingface needs the datasets library; pip install 'isoflop[data]'")


def _open(spec: HubSpec) -> Any:
    import datasets

    datasets.utils.logging.set_verbosity_error()
    name = str(Path(spec.name).expanduser().resolve()) if local_files(spec) else spec.name
    try:
        return datasets.load_dataset(name, spec.subset, split=spec.split, revision=spec.revision, streaming=True)
    except Exception as error:  # of many kinds: no network, no such name, subset, split or file
        raise CorpusError(
            f"data.hub: cannot open {spec.name!r}, split {spec.split!r} ({_line(error)}); "
            "without a network, data.hub.name may be a local folder"
        ) from error


def _write(dataset: Any, data: DataSpec, folder: Path) -> None:
    """Stream what is missing, up to data.hub.max_bytes, to raw files."""
    kept = [counted(path) for path in _raw(folder)]
    rows, size = (sum(one[k] for one in kept) for k in (0, 1))
    limit = data.hub.max_bytes or float("inf")
    texts: list[str | None] = []
    held = 0
    for text in _texts(dataset.skip(rows) if rows else dataset, data, rows):
        texts.append(text)
        held += len(text.encode()) if text else 0
        if held >= RAW_BYTES or size + held >= limit:
            _keep(texts, held, folder)
            texts, size, held = [], size + held, 0
            if size >= limit:
                return
    if texts or not kept:
        _keep(texts, held, folder)


def _texts(dataset: Any, data: DataSpec, first: int) -> Iterator[str | None]:
    where = f"data.hub.name={data.hub.name}, split {data.hub.split}"
    try:
        for number, row in enumerate(dataset, first + 1):
            text = column_of(row, data.text_column, f"{where}, row {number}")
            if not isinstance(text, str) and not data.skip_bad:
                raise CorpusError(
                    f"{where}, row {number}: {data.text_column!r} is not text; data.skip_bad=true skips and counts such"
                )
            yield _checked(text, data.skip_bad, f"{where}, row {number}") if isinstance(text, str) else None
    except CorpusError:
        raise
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{where}: a file is not UTF-8 ({_line(error)}); of files here, read with data=text and data.encoding=NAME"
        ) from error
    except Exception as error:  # of many kinds, from the network or from a damaged file
        raise StreamError(f"{where}: the stream broke ({_line(error)}); the same command goes on from there") from error


def _checked(text: str, skip_bad: bool, where: str) -> str | None:
    """The text, or None for one with half a surrogate pair, which cannot be written; that raises without skip_bad."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        if skip_bad:
            return None
        raise CorpusError(
            f"{where}: half a surrogate pair at character {error.start}; data.skip_bad=true skips and counts such"
        ) from error
    return text


def _keep(texts: list[str | None], size: int, folder: Path) -> None:
    about = {"rows": str(len(texts)), "bytes": str(size)}
    table = pa.table({COLUMN: pa.array(texts, pa.large_string())}).replace_schema_metadata(about)
    temporary = folder / "raw.parquet.tmp"
    with arrow_file(temporary, "wb") as file:
        pq.write_table(table, file, compression="zstd")
    os.replace(temporary, folder / f"raw-{len(_raw(folder))}.parquet")


def counted(path: Path) -> tuple[int, int]:
    """Rows and bytes of text in a file that a stream wrote. Raises CorpusError naming one that cannot be read."""
    try:
        require_regular(path)
        found = pq.read_metadata(arrow_file(path))
        about = found.metadata or {}
        rows, size = int(about[b"rows"]), int(about[b"bytes"])
        if min(rows, size) < 0 or found.num_rows != rows:
            raise ValueError(f"{rows} rows")
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise CorpusError(f"{path}: damaged ({_line(error)}); delete its folder and prepare again") from error
    return rows, size


def _raw(folder: Path) -> list[Path]:
    found = [path for path in folder.glob("raw-*.parquet") if path.stem.removeprefix("raw-").isdecimal()]
    return sorted(found, key=lambda path: int(path.stem.partition("-")[2]))


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
