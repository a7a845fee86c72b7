"""The cells of a runs folder read as one table, with their rows kept in one file beside them, the shard.

The shard is a cache and never trusted over a cell: the rows of a cell are taken from it only while the cell's file is
the very one that they were read from (`Stamp`). What is newer, or not in it, is read itself, and a cell that is gone is
left out. A shard that was cut short, damaged or written by another version is as none, and made anew. It is replaced as
a whole, so that a reader sees the old one or the new one; of two writers the last stays, and both are right.
"""

import contextlib
import hashlib
import json
import os
import stat
import time
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

SHARD_FILE = "cells.shard"
LOOSE = 32  # cells that a reader reads itself before it makes the shard anew
UNSETTLED_NS = 10**9  # a file changed so lately could change again without another time
ABANDONED_SECONDS = 600.0  # a shard is written in less; an older temporary one has no writer any more
FAULTS = (pa.ArrowException, OSError, ValueError, MemoryError)  # of a file that Arrow cannot read
_MAGIC = b"isoflop shard 1\n"  # then a digest of what follows, then an Arrow file
_METADATA_KEY = b"cells"


class Stamp(NamedTuple):
    """Which file was read. One that replaces it has another inode, a change in place another time."""

    size: int
    modified: int
    changed: int
    inode: int


class Cell(NamedTuple):
    """A cell in a shard: the file that its rows were read from, its first row, and how many there are."""

    stamp: Stamp
    start: int
    rows: int


class Shard(NamedTuple):
    """Rows of cells one after the other, and which are whose, by the name of the cell's folder."""

    table: pa.Table
    cells: Mapping[str, Cell]


@dataclass(frozen=True)
class Form:
    """What the file of a cell is: a table of `schema`, in which columns of `may_lack` may be missing.

    `check` raises for metadata of no such file. `strictly` reads any file and names what is wrong in it.
    """

    schema: pa.Schema
    may_lack: Container[str]
    check: Callable[[pa.Schema, Path], object]
    strictly: Callable[[Path], pa.Table]
    plans: list[tuple[pa.Schema, pa.Schema]] = field(default_factory=list)  # of files seen: theirs, and what is taken

    def taken(self, found: pa.Schema) -> pa.Schema | None:
        """The fields of `schema` in a file with the fields `found`; None where they need a closer look."""
        for known, fields in self.plans:
            if found.equals(known, check_metadata=False):
                return fields
        fields = pa.schema([f for f in self.schema if f.name in found.names or f.name not in self.may_lack])
        if any(found.names.count(f.name) != 1 or found.field(f.name).type != f.type for f in fields):
            return None
        self.plans.append((found, fields))
        return fields


def read_cells(folder: Path, files: Sequence[Path], form: Form) -> pa.Table:
    """The rows of these files, cells of `folder`, in their order; a column that a file lacks is null in its rows.

    Raises what `form.strictly` does for the first file that cannot be read. Makes the shard anew where many cells are
    not in it; a folder that cannot be written is read all the same.
    """
    shard = read_shard(folder / SHARD_FILE, form.schema)
    stamps = [_stamp(file) for file in files]
    held = [_in(shard, file, at) for file, at in zip(files, stamps, strict=True)]
    loose = [file for file, cell in zip(files, held, strict=True) if cell is None]
    read = iter(_read(loose, form))
    parts = [
        _Part(file.parent.name, cell, None if cell else next(read)) for file, cell in zip(files, held, strict=True)
    ]
    if len(loose) >= LOOSE:
        with contextlib.suppress(OSError):
            _keep(folder, shard, parts, form.schema)
    return _joined(shard, parts, form.schema)


def keep_shard(folder: Path, files: Sequence[Path], form: Form) -> None:
    """Bring the shard of a folder up to date where many of its cells are not in it, or many in it are gone."""
    shard = read_shard(folder / SHARD_FILE, form.schema)
    found = sum(_in(shard, file, _stamp(file)) is not None for file in files)
    if len(files) - found >= LOOSE:
        read_cells(folder, files, form)
    elif len(shard.cells) - found >= LOOSE:
        parts = [_Part(file.parent.name, cell, None) for file in files if (cell := _in(shard, file, _stamp(file)))]
        _keep(folder, shard, parts, form.schema)


def read_shard(path: Path, schema: pa.Schema) -> Shard:
    """The shard in a file; an empty one for a file that is none, is damaged, or holds other columns than `schema`."""
    empty = Shard(schema.empty_table(), {})
    try:
        content, _ = _content(path)
        start = len(_MAGIC) + len(_digest(b""))
        if content[:start] != _MAGIC + _digest(memoryview(content)[start:]):
            return empty
        table = pa.ipc.open_file(pa.py_buffer(content).slice(start)).read_all()
        cells, first = {}, 0
        for name, rows, *stamp in json.loads(table.schema.metadata[_METADATA_KEY]):
            cells[name] = Cell(Stamp(*stamp), first, rows)
            first += rows
    except (*FAULTS, KeyError, TypeError):
        return empty
    if first != table.num_rows or not table.schema.equals(schema, check_metadata=False):
        return empty
    return Shard(table.replace_schema_metadata(None), cells)


def _write_shard(path: Path, table: pa.Table, cells: Iterable[tuple[str, int, Stamp]]) -> None:
    """Replace the shard in a file. Raises OSError where the folder cannot be written."""
    listed = json.dumps([[name, rows, *stamp] for name, rows, stamp in cells]).encode()
    sink = pa.BufferOutputStream()
    table = table.replace_schema_metadata({_METADATA_KEY: listed})
    with pa.ipc.new_file(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
        writer.write_table(table)
    content = sink.getvalue()
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(_MAGIC + _digest(content))
            file.write(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    for left in path.parent.glob(f".{path.name}.*.tmp"):  # of a writer that was killed
        with contextlib.suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > ABANDONED_SECONDS:
                left.unlink()


class _Read(NamedTuple):
    """The rows of one file, and which file it was; None where that may change unnoticed."""

    table: pa.Table
    stamp: Stamp | None


class _Part(NamedTuple):
    """The rows of one cell: in the shard, or read themselves."""

    name: str
    held: Cell | None
    read: _Read | None


def _keep(folder: Path, shard: Shard, parts: Sequence[_Part], schema: pa.Schema) -> None:
    """Write a shard of these cells, but of those whose files may still change unnoticed."""
    kept = [part for part in parts if part.held or (part.read and part.read.stamp)]
    cells = []
    for part in kept:
        if part.held:
            cells.append((part.name, part.held.rows, part.held.stamp))
        elif part.read and part.read.stamp:
            cells.append((part.name, part.read.table.num_rows, part.read.stamp))
    _write_shard(folder / SHARD_FILE, _joined(shard, kept, schema).combine_chunks(), cells)


def _joined(shard: Shard, parts: Iterable[_Part], schema: pa.Schema) -> pa.Table:
    """The rows of cells in this order. Neighbours in the shard stay one piece."""
    tables, start, end = [], 0, 0
    for part in parts:
        if part.held and part.held.start == end:
            end += part.held.rows
            continue
        tables.append(shard.table.slice(start, end - start))
        start = end = 0
        if part.held:
            start, end = part.held.start, part.held.start + part.held.rows
        elif part.read:
            tables.append(part.read.table)
    tables.append(shard.table.slice(start, end - start))
    return pa.concat_tables([schema.empty_table(), *(t for t in tables if t.num_rows)], promote_options="default")


def _read(files: Sequence[Path], form: Form) -> list[_Read]:
    """The rows of each file. Raises what `form.strictly` does for the first that cannot be read."""
    found: list[_Read] = []
    for file in files:
        read = _quickly(file, form)
        if read is None:
            _check([one.table for one in found], files, form)
            read = _Read(form.strictly(file), None)
        found.append(read)
    _check([one.table for one in found], files, form)
    return found


def _quickly(file: Path, form: Form) -> _Read | None:
    """The rows of a file that is as it should be, at a first look; None for any other."""
    try:
        content, stamp = _content(file)
        table = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True).read(use_threads=False)
        form.check(table.schema, file)
    except FAULTS:
        return None
    fields = form.taken(table.schema)
    if fields is None:
        return None
    return _Read(pa.Table.from_arrays([table.column(name) for name in fields.names], schema=fields), stamp)


def _check(tables: Sequence[pa.Table], files: Sequence[Path], form: Form) -> None:
    """Look at the values of tables, those of the first files, all at once; where one is wrong, at each file's.

    Raises what `form.strictly` does for the first file with a wrong one.
    """
    by_columns: dict[tuple[str, ...], list[pa.Table]] = {}
    for table in tables:
        by_columns.setdefault(tuple(table.column_names), []).append(table)
    try:
        for alike in by_columns.values():
            whole = pa.concat_tables(alike)
            whole.validate(full=True)
            columns = zip(whole.schema, whole.columns, strict=True)
            if any(values.null_count and not pa.types.is_floating(about.type) for about, values in columns):
                raise ValueError("no value")
    except FAULTS:
        for file in files[: len(tables)]:
            form.strictly(file)


def _content(path: Path) -> tuple[bytes, Stamp | None]:
    """The bytes of a regular file, and which it is unless it changed a moment ago; a pipe is not waited for."""
    number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with open(number, "rb", buffering=0) as file:
        about = os.fstat(number)
        if not stat.S_ISREG(about.st_mode):
            raise OSError(f"{path}: not a regular file")
        settled = time.time_ns() - about.st_ctime_ns > UNSETTLED_NS
        return file.read(), _of(about) if settled else None


def _stamp(file: Path) -> Stamp | None:
    try:
        return _of(os.stat(file))
    except OSError:
        return None


def _of(about: os.stat_result) -> Stamp:
    return Stamp(about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino)


def _in(shard: Shard, file: Path, stamp: Stamp | None) -> Cell | None:
    """The cell of a file in a shard, None where there is none or it was read from another file."""
    cell = shard.cells.get(file.parent.name)
    return cell if cell and cell.stamp == stamp else None


def _digest(content: bytes | memoryview | pa.Buffer) -> bytes:
    return hashlib.blake2b(content, digest_size=32).digest()
