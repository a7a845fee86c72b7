"""`isoflop import`: the reader that a source is for, and the table that comes out."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from isoflop.scaling.imports.assemble import Imported, ImportOptions, assemble
from isoflop.scaling.imports.columns import TABLES, TableReader
from isoflop.scaling.imports.logs.megatron import MEGATRON
from isoflop.scaling.imports.logs.nanochat import NANOCHAT
from isoflop.scaling.imports.logs.nanogpt import NANOGPT
from isoflop.scaling.imports.records.tensorboard import EVENTS
from isoflop.scaling.imports.source import ForeignRun, LeftOut, Reader, SourceError

READERS: tuple[Reader, ...] = (EVENTS, TABLES, NANOGPT, MEGATRON, NANOCHAT)  # in the order in which "auto" tries them
KINDS = ("auto", *(kind for reader in READERS for kind in reader.kinds))


def import_source(
    source: Path, kind: str, options: ImportOptions, mapping: Mapping[str, str], sheet: str | None = None
) -> Imported:
    """The runs of a file or a folder as one table.

    `kind` is one of KINDS, `mapping` the columns that the user named (ours -> the source's), `sheet` one
    of a spreadsheet. Raises SourceError naming
    the file, what is missing and the option that gives it.
    """
    if kind not in KINDS:
        raise SourceError(f"--from {kind}: not one of {', '.join(KINDS)}")
    if not source.exists():
        raise SourceError(f"{source}: no such file or folder")
    readers = [reader for reader in READERS if kind in ("auto", *reader.kinds)]
    readers = [TableReader(sheet) if reader is TABLES else reader for reader in readers]
    notes: list[str] = []
    runs: list[ForeignRun] = []
    left_out: list[LeftOut] = []
    for path in _paths(source, readers):
        found, out = _reader(path, readers).read(path, mapping, notes)
        runs += found
        left_out += out
    made = assemble(runs, options, tuple(left_out))
    return Imported(made.table, made.kind, made.left_out, (*notes, *made.notes))


def _paths(source: Path, readers: Sequence[Reader]) -> list[Path]:
    """What to read: the source itself, or the files in a folder that a reader is for."""
    suffixes = tuple(dict.fromkeys(suffix for reader in readers for suffix in reader.suffixes))
    if source.is_file() or not suffixes or any(reader.recognises(source) for reader in readers):
        return [source]
    found = sorted(path for path in source.rglob("*") if path.suffix in suffixes and path.is_file())
    if not found:
        raise SourceError(f"{source}: nothing to import (no event files, no {', '.join(suffixes)})")
    return found


def _reader(path: Path, readers: Sequence[Reader]) -> Reader:
    """The one reader that was chosen, or the first that recognises the path."""
    if len(readers) == 1:
        return readers[0]
    for reader in readers:
        if reader.recognises(path):
            return reader
    kinds = ", ".join(kind for reader in readers for kind in reader.kinds)
    raise SourceError(f"{path}: not recognised as any of {kinds}; name its kind with --from")
