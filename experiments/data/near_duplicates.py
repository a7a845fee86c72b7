"""Near duplicates by MinHash: texts that share most of their runs of five words.

A word is letters and digits of any script with their marks; of a script without blanks between words, one character.
A document is 64 numbers (by datasketch); those that agree on one of 16 bands of four numbers are compared by the share
of all 64, which estimates the Jaccard similarity. Memory: 256 bytes a document on disk, about 60 in memory.
"""

import re
import unicodedata
import zlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from isoflop.experiments.data import CorpusError

STAGE = "near-duplicates"
NUMBERS, ROWS = 64, 4
SIMILAR = 0.8
_RUN = 5
_UNSPACED = (  # letters of scripts without blanks between words: Thai to Javanese; kana, Han, Yi
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u1950-\u19df\u1a20-\u1aaf\u1b00-\u1b7f\ua980-\ua9df"
    "\u3040-\u312f\u31f0-\u31ff\uff66-\uff9f\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\ua000-\ua48f\U00020000-\U0003ffff"
)
_MIX = np.array([0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F, 0x165667B1], np.uint32)


def check_installed() -> None:
    """Raise CorpusError with the remedy where datasketch is missing."""
    try:
        import datasketch  # noqa: F401
    except ImportError:
        raise CorpusError(f"data.clean: stage {STAGE} needs datasketch; pip install 'isoflop[data]'") from None


def signature(content: bytes) -> np.ndarray:
    """The 64 uint32 of a text."""
    minhash = _empty().copy()
    minhash.update_batch(np.unique(_runs_of_words(content)).tolist())
    return minhash.hashvalues.astype(np.uint32)


def gather(index: Sequence[np.ndarray], wanted: np.ndarray, file: Path) -> np.ndarray:
    """The signatures of the rows that the mask wants, in one file, mapped: there may be millions."""
    rows = np.memmap(file, np.uint32, mode="w+", shape=(int(wanted.sum()), NUMBERS))
    at = 0
    for part, mask in zip(index, np.split(wanted, np.cumsum([len(part) for part in index])[:-1]), strict=True):
        found = part["signature"][mask]
        rows[at : at + len(found)] = found
        at += len(found)
    return rows


def copies(signatures: np.ndarray) -> np.ndarray:
    """Which rows are near an earlier row, a mask."""
    found = np.zeros(len(signatures), bool)
    for start in range(0, NUMBERS, ROWS):
        band = np.ascontiguousarray(signatures[:, start : start + ROWS]).view("u8")
        key = band[:, 0] * np.uint64(0x9E3779B97F4A7C15) ^ band[:, 1]
        order = np.argsort(key, kind="stable")
        new = np.r_[True, key[order][1:] != key[order][:-1]]
        first = order[np.maximum.accumulate(np.where(new, np.arange(len(order)), 0))]
        for earlier in (first, np.r_[order[:1], order[:-1]]):  # the first of the band, and the one before in it
            pairs = np.flatnonzero(~new & ~found[order])
            for part in np.array_split(pairs, len(pairs) // 100_000 + 1):
                alike = (signatures[order[part]] == signatures[earlier[part]]).mean(1) >= SIMILAR
                found[order[part][alike]] = True
    return found


@cache
def _empty() -> Any:
    """A MinHash of nothing: its permutations take longer to draw than a short text to hash."""
    from datasketch import MinHash

    return MinHash(NUMBERS, seed=1, hashfunc=int, scheme="affine32")


@cache
def _word() -> re.Pattern[str]:
    """What a word is. `\\w` has no marks, which are the vowels of many scripts."""
    marks = "".join(char for char in map(chr, range(0x300, 0x1F000)) if unicodedata.category(char).startswith("M"))
    letter = f"[^\\W{_UNSPACED}]"
    return re.compile(f"{letter}+(?:[{marks}]+{letter}*)*|[{_UNSPACED}][{marks}]*")


def _runs_of_words(content: bytes) -> np.ndarray:
    """A hash of every run of five words (of all words, when there are fewer)."""
    words = np.array([zlib.crc32(word.encode()) for word in _word().findall(content.decode())], np.uint32)
    if len(words) < _RUN:
        return np.array([zlib.crc32(content)], np.uint32)
    windows = np.lib.stride_tricks.sliding_window_view(words, _RUN)
    mixed = np.zeros(len(windows), np.uint32)
    for column, factor in zip(windows.T, _MIX, strict=True):
        mixed = (mixed ^ column) * factor
        mixed ^= mixed >> np.uint32(15)
    return mixed
