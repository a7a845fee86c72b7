"""A corpus out of token files that exist already, read where they are.

Two files: the one with val, valid, held or test in its name is held out. One file: its end is, by the fraction asked
for. The tokens are read once, to hash them and to find one beyond the vocabulary.
"""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from isoflop.experiments.config import DataSpec
from isoflop.experiments.data.sources import CorpusError
from isoflop.experiments.data.token_files import open_tokens, token_dtype

_HELD_OUT = re.compile(r"(?:^|[^a-z])(?:val|valid|validation|held|test|eval)(?:[^a-z]|$)")
_CHUNK = 2**22  # tokens


def describe_sides(files: Sequence[tuple[str, Path]], data: DataSpec) -> dict[str, dict]:
    """What the manifest says of each side: file, range of tokens, counts, hash.

    Raises CorpusError for files whose sides are not clear, and for a token beyond data.vocab_size.
    """
    paths = [path for _, path in files if path.suffix != ".idx"]
    held = [path for path in paths if _HELD_OUT.search(path.name.lower())]
    if len(paths) == 1:
        count = len(open_tokens(paths[0]))
        cut = count - max(1, round(data.held_out_fraction * count))
        ranges = {"train": (paths[0], 0, cut), "held_out": (paths[0], cut, count)}
    elif len(paths) == 2 and len(held) == 1:
        train = next(path for path in paths if path not in held)
        ranges = {side: (p, 0, len(open_tokens(p))) for side, p in (("train", train), ("held_out", held[0]))}
    else:
        raise CorpusError(
            f"data.files matches {len(paths)} token files, {len(held)} of them held out by name; "
            "give one file, or a training file and one with val in its name"
        )
    return {side: _describe(*where, data.vocab_size) for side, where in ranges.items()}


def open_sides(manifest: dict) -> dict[str, np.ndarray]:
    """The tokens of both sides, mapped."""
    sides = {}
    for side in ("train", "held_out"):
        start, end = manifest[side]["range"]
        sides[side] = open_tokens(Path(manifest[side]["file"]))[start:end]
    return sides


def _describe(path: Path, start: int, end: int, vocab_size: int) -> dict:
    tokens, digest = open_tokens(path), hashlib.sha256()
    for at in range(start, end, _CHUNK):
        part = tokens[at : min(at + _CHUNK, end)]
        beyond = np.flatnonzero((part >= vocab_size) | (part < 0))
        if len(beyond):
            raise CorpusError(
                f"{path}: token {part[beyond[0]]} at position {at + beyond[0]} is beyond data.vocab_size={vocab_size}"
            )
        digest.update(part.astype(token_dtype(vocab_size)).tobytes())
    return {
        "documents": 1, "tokens": end - start, "sha256": digest.hexdigest(), "file": str(path), "range": [start, end],
    }  # fmt: skip
