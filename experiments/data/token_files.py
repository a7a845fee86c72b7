"""Token files that other trainers wrote, memory-mapped in place, and the shards that corpora are written as.

- llm.c: 256 int32 (magic 20240520, version 1, count), then uint16; with magic 20240801, version 7: uint32
- Megatron: NAME.bin of raw tokens beside NAME.idx (MMIDIDX, version 1, a code for the type, counts, lengths, offsets)
- nanoGPT: a .bin of uint16 and nothing else
"""

import struct
from pathlib import Path

import numpy as np

from isoflop.experiments.data.sources import CorpusError

HEADER_BYTES = 1024
LLM_C = {(20240520, 1): np.uint16, (20240801, 7): np.uint32}
MEGATRON_MAGIC = b"MMIDIDX\x00\x00"
MEGATRON_TYPES = {1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 8: np.uint16}
LARGEST_SHARD = 2**31


def open_tokens(path: Path) -> np.ndarray:
    """The tokens of a file, mapped and not read. Raises CorpusError for a file whose header and size disagree."""
    index = path.with_suffix(".idx")
    if index.exists():
        return _open_megatron(path, index)
    size = path.stat().st_size
    with path.open("rb") as file:
        magic, version, count = struct.unpack("<iii", file.read(12)) if size >= HEADER_BYTES else (0, 0, 0)
    if (magic, version) in LLM_C:
        tokens = _map(path, LLM_C[magic, version], HEADER_BYTES)
        if len(tokens) != count:
            raise CorpusError(f"{path}: its llm.c header says {count} tokens, the file holds {len(tokens)}")
        return tokens
    return _map(path, np.uint16, 0)


def header(dtype: type, count: int) -> bytes:
    """The first bytes of a shard of `count` tokens. Raises CorpusError beyond what its int32 can say."""
    if count >= LARGEST_SHARD:
        raise CorpusError(f"{count:,} tokens exceed the 2^31 of a shard; use less text")
    (magic, version), _ = next(item for item in LLM_C.items() if item[1] is dtype)
    start = np.zeros(HEADER_BYTES // 4, "<i4")
    start[:3] = magic, version, count
    return start.tobytes()


def token_dtype(vocab_size: int) -> type:
    return np.uint16 if vocab_size <= 2**16 else np.uint32


def _map(path: Path, dtype: type, offset: int) -> np.ndarray:
    left = path.stat().st_size - offset
    if left <= 0 or left % np.dtype(dtype).itemsize:
        raise CorpusError(f"{path}: {left} bytes are not a whole number of {np.dtype(dtype)} tokens")
    return np.memmap(path, dtype, mode="r", offset=offset)


def _open_megatron(path: Path, index: Path) -> np.ndarray:
    with index.open("rb") as file:
        start = file.read(34)
        if start[:9] != MEGATRON_MAGIC or len(start) < 34:
            raise CorpusError(f"{index}: not a Megatron index (its first bytes are {start[:9]!r})")
        _, code, sequences, _ = struct.unpack("<QBQQ", start[9:])
        if code not in MEGATRON_TYPES:
            raise CorpusError(f"{index}: token type {code}; known are {', '.join(map(str, MEGATRON_TYPES))}")
        lengths = np.frombuffer(file.read(4 * sequences), "<i4")
    tokens = _map(path, MEGATRON_TYPES[code], 0)
    if len(lengths) != sequences or lengths.sum(dtype=np.int64) != len(tokens):
        said = lengths.sum(dtype=np.int64)
        raise CorpusError(f"{path}: its index names {said} tokens, the file holds {len(tokens)}")
    return tokens
