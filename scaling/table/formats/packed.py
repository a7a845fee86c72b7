"""Packed files: gzip, bzip2, xz and zip."""

import bz2
import gzip
import io
import lzma
import zipfile
from pathlib import Path
from typing import IO, cast

from isoflop.read_json import read_bytes
from isoflop.scaling.table.columns import TableError

LARGEST = 2**33  # bytes of a file
UNPACKED = 2**30  # bytes that a packed file may hold
PACKED = (".gz", ".bz2", ".xz", ".zip")


def unpacked_name(path: Path) -> Path:
    return path.with_suffix("") if path.suffix.lower() in PACKED else path


def unpacked(path: Path) -> bytes:
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
