"""Token files that other trainers wrote, memory-mapped in place, and the shards that corpora are written as.

- llm.c: 256 int32 (magic 20240520, version 1, count), then uint16; with magic 20240801, version 7: uint32
- Megatron: NAME.bin of raw tokens, with NAME.idx (MMIDIDX, version 1, a code for the type, counts, lengths, offsets)
- numpy: a .npy of one dimension, of whole numbers of any size
- nanoGPT: a .bin of uint16 and nothing else; also of 32 or 64 bits, where all of these are below the vocabulary's size
"""

import hashlib
import os
import re
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np

from isoflop.experiments.data import CorpusError
from isoflop.read_json import JsonError, require_regular

SIDES = ("train", "held_out")
HEADER_BYTES = 1024
LLM_C: dict[tuple[int, int], type[np.unsignedinteger]] = {(20240520, 1): np.uint16, (20240801, 7): np.uint32}
NUMPY_MAGIC = b"\x93NUMPY"
MEGATRON_MAGIC = b"MMIDIDX\x00\x00"
MEGATRON_TYPES: dict[int, type[np.integer]] = {
    1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 8: np.uint16,
}  # fmt: skip
LARGEST_SHARD = 2**31  # tokens, exclusive: the count in its header is an int32
_MEGATRON_HEADER = struct.Struct("<QBQQ")  # version, code of the token type, sequences, documents
_HELD_OUT = re.compile(r"(?:^|[^a-z])(?:val|valid|validation|held|test|eval)(?:[^a-z]|$)")
_CHUNK = 2**22  # tokens hashed at once


class Side(TypedDict):
    """What a manifest states of one side: documents, tokens, bytes of text, hash; and where tokens lie elsewhere."""

    documents: int
    tokens: int
    sha256: str
    bytes: NotRequired[int]
    file: NotRequired[str]
    dtype: NotRequired[str]
    range: NotRequired[tuple[int, int]]


class Place(TypedDict):
    """Where the tokens of one side lie: `tokens` of a type from a byte of a file on, and when that was written."""

    file: str
    modified: int  # nanoseconds
    dtype: str
    offset: int
    tokens: int


def open_tokens(path: Path, vocab_size: int, dtype: str | None = None) -> np.memmap:
    """The tokens of a file, 1-d, mapped and not read; those without a header are of a type that is known, or found.

    Raises CorpusError for a file whose header and size disagree.
    """
    index = path.with_suffix(".idx")
    if not path.is_file():
        raise CorpusError(f"{path}: not a regular file")
    if index.exists():
        return _open_megatron(path, index)
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(HEADER_BYTES)
    if start.startswith(NUMPY_MAGIC):
        return _open_numpy(path)
    magic, version, count = struct.unpack("<iii", start[:12]) if size >= HEADER_BYTES else (0, 0, 0)
    if (magic, version) in LLM_C:
        tokens = _map(path, LLM_C[magic, version], HEADER_BYTES)
        if len(tokens) != count:
            raise CorpusError(f"{path}: its llm.c header says {count} tokens, the file holds {len(tokens)}")
        return tokens
    return _map(path, np.dtype(dtype).type if dtype else _headerless_dtype(path, vocab_size), 0)


def _headerless_dtype(path: Path, vocab_size: int) -> type[np.unsignedinteger]:
    """The largest type of which all words of a file are tokens. Of a file of 16 bits that would be the smallest: each
    second token, or three of four, would have to be 0."""
    for dtype in (np.uint64, np.uint32):
        if path.stat().st_size % np.dtype(dtype).itemsize == 0:
            words = _map(path, dtype, 0)
            if all(words[at : at + _CHUNK].max() < vocab_size for at in range(0, len(words), _CHUNK)):
                return dtype
    return np.uint16


def header(dtype: type[np.unsignedinteger], count: int) -> bytes:
    """The first 1024 bytes of a shard of `count` tokens. Raises CorpusError beyond what its int32 can state."""
    if count >= LARGEST_SHARD:
        raise CorpusError(f"{count:,} tokens exceed the 2^31 of a shard; use less text, or fewer files")
    (magic, version), _ = next(item for item in LLM_C.items() if item[1] is dtype)
    start = np.zeros(HEADER_BYTES // 4, "<i4")
    start[:3] = magic, version, count
    return start.tobytes()


def token_dtype(vocab_size: int) -> type[np.unsignedinteger]:
    """The type that shards of so large a vocabulary have."""
    return np.uint16 if vocab_size <= 2**16 else np.uint32


def describe_sides(
    paths: Sequence[Path], *, held_out_fraction: float, vocab_size: int, folder: Path
) -> dict[str, dict[str, Any]]:
    """For each side its file, range of tokens, counts and hash: what a manifest states of tokens that stay in place.

    Of several files those with val, valid, held, test or eval in their names are held out; of a single file its end is.
    A side of more than one file is written to `folder` as one shard. The tokens are read once. Raises CorpusError for
    other files, and for a token that is not below `vocab_size`.
    """
    paths = [path for path in paths if path.suffix != ".idx"]
    held = [path for path in paths if _HELD_OUT.search(path.name.lower())]
    if len(paths) == 1:
        tokens = open_tokens(paths[0], vocab_size)
        cut = len(tokens) - max(1, round(held_out_fraction * len(tokens)))
        ends = {"train": (0, cut), "held_out": (cut, len(tokens))}
        return {side: _describe(paths[0], tokens, *end, vocab_size) for side, end in ends.items()}
    if not 0 < len(held) < len(paths):
        raise CorpusError(
            f"data.files matches {len(paths)} token files, {len(held)} of them held out by name; "
            "give one file, or training files and some with val in their names"
        )
    return {
        side: _described([path for path in paths if (path in held) == (side == "held_out")], side, vocab_size, folder)
        for side in SIDES
    }


def _described(paths: Sequence[Path], side: str, vocab_size: int, folder: Path) -> dict[str, Any]:
    """One side of whole files: a file where it is, several as a shard in `folder`, one behind the other."""
    opened = [(path, open_tokens(path, vocab_size)) for path in paths]
    if len(opened) == 1:
        path, tokens = opened[0]
        return _describe(path, tokens, 0, len(tokens), vocab_size)
    count = sum(len(tokens) for _, tokens in opened)
    digest = hashlib.sha256()
    start = header(token_dtype(vocab_size), count)
    with (folder / f"{side}.bin").open("wb") as shard:
        shard.write(start)
        for path, tokens in opened:
            for part in _parts(path, tokens, vocab_size):
                digest.update(part)
                shard.write(part)
        shard.flush()
        os.fsync(shard.fileno())
    return {"documents": len(opened), "tokens": count, "sha256": digest.hexdigest()}


def find_side(folder: Path, side: str, stated: Side, vocab_size: int) -> Place:
    """Where the tokens of one side of a corpus lie: in its shard in `folder`, or where its manifest found them.

    Raises CorpusError when they are not as many as `stated`, the manifest's entry for the side; a shard is read, and
    its tokens must have the stated hash and lie below `vocab_size`, for a step reads and writes by them.
    """
    damaged = f"{folder}: {side}.bin is not what its manifest says; delete the folder and prepare again"
    path = Path(stated["file"]) if "file" in stated else folder / f"{side}.bin"
    try:
        tokens = open_tokens(path, vocab_size, stated.get("dtype"))
        start, end = stated.get("range", (0, len(tokens)))
        if "file" not in stated and _hash(path, tokens, vocab_size) != stated["sha256"]:
            raise CorpusError(damaged)
    except (CorpusError, OSError) as error:
        raise error if "file" in stated else CorpusError(damaged) from error
    if not 0 <= start <= end <= len(tokens) or end - start != stated["tokens"]:
        raise CorpusError(damaged)
    return Place(
        file=str(path), modified=path.stat().st_mtime_ns, dtype=tokens.dtype.str,
        offset=tokens.offset + start * tokens.itemsize, tokens=end - start,
    )  # fmt: skip


def _describe(path: Path, tokens: np.memmap, start: int, end: int, vocab_size: int) -> dict[str, Any]:
    return {
        "documents": 1, "tokens": end - start, "sha256": _hash(path, tokens[start:end], vocab_size, start),
        "file": str(path), "dtype": str(tokens.dtype), "range": [start, end],
    }  # fmt: skip


def _hash(path: Path, tokens: np.ndarray, vocab_size: int, start: int = 0) -> str:
    """SHA-256 of tokens as shards of that vocabulary hold them; `start` is where they begin in the file."""
    digest = hashlib.sha256()
    for part in _parts(path, tokens, vocab_size, start):
        digest.update(part)
    return digest.hexdigest()


def _parts(path: Path, tokens: np.ndarray, vocab_size: int, start: int = 0) -> Iterator[bytes]:
    """Tokens as shards of that vocabulary hold them. Raises CorpusError naming the first that is not below it."""
    for at in range(0, len(tokens), _CHUNK):
        part = tokens[at : at + _CHUNK]
        if part.max() >= vocab_size or part.min() < 0:
            first = int(np.flatnonzero((part >= vocab_size) | (part < 0))[0])
            raise CorpusError(
                f"{path}: token {part[first]} at position {start + at + first} is beyond data.vocab_size={vocab_size}"
            )
        yield part.astype(token_dtype(vocab_size)).tobytes()


def _map(path: Path, dtype: type[np.integer], offset: int) -> np.memmap:
    left = path.stat().st_size - offset
    if left <= 0 or left % np.dtype(dtype).itemsize:
        raise CorpusError(f"{path}: {left} bytes are not a whole number of {np.dtype(dtype)} tokens")
    return np.memmap(path, dtype, mode="r", offset=offset)


def _open_numpy(path: Path) -> np.memmap:
    try:
        tokens = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise CorpusError(f"{path}: begins as a .npy and is none ({error}); write it again with np.save") from error
    if tokens.ndim != 1 or tokens.dtype.kind not in "iu" or not len(tokens):
        raise CorpusError(
            f"{path}: an array of {tokens.dtype}, shape {tokens.shape}; tokens are whole numbers in one dimension: "
            "np.save(path, tokens.reshape(-1).astype(np.uint32))"
        )
    return tokens


def _open_megatron(path: Path, index: Path) -> np.memmap:
    start_bytes = len(MEGATRON_MAGIC) + _MEGATRON_HEADER.size
    try:
        require_regular(index)
    except JsonError as error:
        raise CorpusError(str(error)) from error
    with index.open("rb") as file:
        start = file.read(start_bytes)
        if not start.startswith(MEGATRON_MAGIC) or len(start) < start_bytes:
            raise CorpusError(f"{index}: not a Megatron index (its first bytes are {start[:9]!r})")
        _, code, sequences, _ = _MEGATRON_HEADER.unpack_from(start, len(MEGATRON_MAGIC))
        if code not in MEGATRON_TYPES:
            raise CorpusError(f"{index}: token type {code}; known are {', '.join(map(str, MEGATRON_TYPES))}")
        if 4 * sequences > index.stat().st_size - start_bytes:
            raise CorpusError(f"{index}: its header says {sequences} sequences, too many for a file of its size")
        lengths = np.frombuffer(file.read(4 * sequences), "<i4")
    if (lengths < 0).any():
        first = int(np.flatnonzero(lengths < 0)[0])
        raise CorpusError(f"{index}: sequence {first} has a length of {lengths[first]}; write the index again")
    tokens = _map(path, MEGATRON_TYPES[code], 0)
    total = lengths.sum(dtype=np.int64)
    if total != len(tokens):
        raise CorpusError(f"{path}: its index names {total} tokens, the file holds {len(tokens)}")
    return tokens
