"""Documents cleaned in parts, each a pure function of some files: kept on disk, so that an interruption costs one part;
and which of the documents are held out.

    part-3.text    the documents one after the other
    part-3.index   a row for each document, in the dtype of `index_dtype`
    part-3.json    the counts, and the hashes of the other two; written last

One document is in memory at a time; indices are mapped.

The split is by content: a document is held out where its hash, as a share of the largest, is below
data.held_out_fraction. Documents are few in small corpora, so the threshold moves where that share of the bytes is
missed by more than TOLERANCE, and where whole documents cannot hit it the last one is divided. This is done within each
file of FEW documents or more, within each folder for smaller files, and for all that is left together. So neither names
nor files in other folders decide where a document falls.
"""

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import numpy as np

from isoflop.experiments.config import DataSpec
from isoflop.experiments.data import near_duplicates
from isoflop.experiments.data.batches import Read
from isoflop.experiments.data.cleaning import Count, clean
from isoflop.experiments.data.records import Document, Files, cut_text
from isoflop.experiments.data.sources import TextSource
from isoflop.read_json import JsonError, read_json, require_regular

PART_BYTES = 16 * 2**20  # of files
PARALLEL_FROM = 4  # parts: fewer are done before a second process has started
TOLERANCE = 0.2  # of the share of the bytes that is held out
_HASHED = ("text", "index")
FEW = 10  # documents that the share can be held among


log = logging.getLogger(__name__)


class _Counted(TypedDict):
    """What the counts of a part hold."""

    read: Read
    bad: dict[str, int]
    stages: list[dict[str, Any]]
    sha256: dict[str, str]


class Text(NamedTuple):
    """A document on one side of the split; it `ends` there unless it is a piece of a file with the next behind it."""

    content: bytes
    held_out: bool
    ends: bool


@dataclass(frozen=True)
class Part:
    """A whole part in `folder`."""

    folder: Path
    number: int

    def file(self, kind: str) -> Path:
        """The file of this part of one kind: text, index or json."""
        return self.folder / f"part-{self.number}.{kind}"

    def whole(self) -> bool:
        """Whether it was written to its end, and its files are as they were then: a machine may have lost power."""
        try:
            hashes = self.counted["sha256"]
            return all(hashes.get(kind) == _hash(self.file(kind)) for kind in _HASHED)
        except FileNotFoundError:
            return False
        except (OSError, JsonError) as error:
            log.warning("part of a corpus made again: %s", error)
            return False

    @property
    def counted(self) -> dict[str, Any]:
        """Documents and bytes read, what was skipped by reason, and the counts of each cleaning stage."""
        return read_json(self.file("json"), _Counted)

    def index(self, data: DataSpec) -> np.ndarray:
        """The index, a row for each document, mapped."""
        dtype, file = index_dtype(data), self.file("index")
        return np.memmap(file, dtype, mode="r") if file.stat().st_size else np.empty(0, dtype)

    def contents(self, data: DataSpec, held: np.ndarray) -> Iterator["Text"]:
        """The documents, of a divided one each half, by the bytes of each that are held out.

        `held` is negative for a document that is left out.
        """
        index = self.index(data)
        goes_on = np.append(index["continues"][1:], False) if data.separator else np.zeros(len(index), bool)
        after = np.append(held[1:], -1)
        rows = zip(index["length"].tolist(), held.tolist(), goes_on & (after > 0), goes_on & (after == 0), strict=True)
        with self.file("text").open("rb") as file:
            for length, here, goes_on_held, goes_on_trained in rows:
                content = file.read(length)
                if here < 0:
                    continue
                at = _line_near(content, here)
                if at:
                    yield Text(content[:at], True, ends=not goes_on_held or at < length)
                if at < length:
                    yield Text(content[at:], False, ends=not goes_on_trained)


def index_dtype(data: DataSpec) -> np.dtype:
    """A row of an index: length in bytes, hashes of the content, of the file and of the folder, the MinHash where
    near duplicates are to be removed, and whether it continues the row before where something stands between others."""
    near = [("signature", "u4", (near_duplicates.NUMBERS,))] if near_duplicates.STAGE in data.clean else []
    between = [("continues", "?")] if data.separator else []
    return np.dtype([("length", "i8"), ("digest", "u8", (2,)), ("file", "u8"), ("folder", "u8"), *near, *between])


def held_bytes(index: np.ndarray, fraction: float) -> np.ndarray:
    """How many bytes of each document of an index are held out, from its beginning: none, all, or of a few some."""
    held, left = np.zeros(len(index), np.int64), np.ones(len(index), bool)
    for unit in ("file", "folder"):
        _, group, count = np.unique(index[unit][left], return_inverse=True, return_counts=True)
        members = np.flatnonzero(left)
        for number in np.flatnonzero(count >= FEW).tolist():
            rows = members[group == number]
            wanted = fraction * index["length"][rows].sum()
            held[rows] = _held(index[rows], fraction, (1 - TOLERANCE) * wanted, (1 + TOLERANCE) * wanted)
            left[rows] = False
    wanted = fraction * index["length"].sum()
    held[left] = _held(
        index[left], fraction, (1 - TOLERANCE) * wanted - held.sum(), (1 + TOLERANCE) * wanted - held.sum()
    )
    return held


def _held(index: np.ndarray, fraction: float, least: float, most: float) -> np.ndarray:
    """Held-out bytes of each document: of those with the lowest hashes, between `least` and `most` in all."""
    order = np.argsort(index["digest"][:, 0], kind="stable")
    total = np.concatenate([[0], np.cumsum(index["length"][order])])
    k = int(np.searchsorted(index["digest"][order, 0], np.uint64(fraction * 2**64)))
    if total[k] < least:
        k = min(int(np.searchsorted(total, least)), len(order))
    elif total[k] > most:
        k = max(int(np.searchsorted(total, most, side="right")) - 1, 0)
    held = np.zeros(len(index), np.int64)
    held[order[:k]] = index["length"][order[:k]]
    if not least <= total[k] <= most and len(order):  # no number of whole documents does
        wanted = min(max(fraction * total[-1], least, 0), most)
        k = max(int(np.searchsorted(total, wanted, side="right")) - 1, 0)
        held[:] = 0
        held[order[:k]] = index["length"][order[:k]]
        if k < len(order):
            held[order[k]] = round(wanted - total[k])
    return held


def _line_near(content: bytes, at: int) -> int:
    """The beginning of the line nearest to a place in a document, or of a character where no line is near."""
    if at in (0, len(content)):
        return at
    lines = (content.rfind(b"\n", 0, at) + 1, content.find(b"\n", at) + 1)
    near = min((line for line in lines if 0 < line < len(content)), key=lambda line: abs(line - at), default=0)
    if near and abs(near - at) <= at / 10:
        return near
    while at and content[at] & 0xC0 == 0x80:  # within a character of UTF-8
        at -= 1
    return at


def make_parts(source: TextSource, files: Files, folder: Path) -> list[Part]:
    """The parts of `files` in their order, made on all cores; those that are there already are not made again."""
    groups = list(_groups(files))
    parts = [Part(folder, number) for number in range(len(groups))]
    missing = [(part, group) for part, group in zip(parts, groups, strict=True) if not part.whole()]
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    if len(missing) < PARALLEL_FROM or workers < 2:
        for part, group in missing:
            _make(part, group, source)
    else:
        with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
            list(pool.map(_make, *zip(*missing, strict=True), [source] * len(missing)))
    return parts


def _groups(files: Files) -> Iterator[list[tuple[str, Path]]]:
    group: list[tuple[str, Path]] = []
    size = 0
    for name, path in files:
        group.append((name, path))
        size += path.stat().st_size
        if size >= PART_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _make(part: Part, files: Files, source: TextSource) -> None:
    data, skipped = source.data, Counter[str]()
    counts, cut = [Count(stage) for stage in data.clean if stage != near_duplicates.STAGE], Count("cut")
    row = np.zeros(1, index_dtype(data))
    total = {"documents": 0, "bytes": 0}
    with part.file("text").open("wb") as text, part.file("index").open("wb") as index:
        for document in source.documents(files, skipped):
            total["documents"] += 1
            total["bytes"] += len(document.content)
            file, mark, _ = document.name.rpartition("#")
            file = file if mark else document.name
            row["file"], row["folder"] = (digest(part.encode(errors="surrogateescape"))[0] for part in (
                file, file.rpartition("/")[0]
            ))  # fmt: skip
            for number, content in enumerate(_cleaned(document, counts, cut)):
                row["length"], row["digest"] = len(content), digest(content)
                if near_duplicates.STAGE in data.clean:
                    row["signature"] = near_duplicates.signature(content)
                if data.separator:
                    row["continues"] = number > 0
                text.write(content)
                index.write(row.tobytes())
    temporary = part.file("json.tmp")
    hashes = {kind: _hash(part.file(kind)) for kind in _HASHED}
    counted = {"read": total, "bad": dict(skipped), "stages": [asdict(c) for c in (*counts, cut)], "sha256": hashes}
    temporary.write_text(json.dumps(counted))
    os.replace(temporary, part.file("json"))


def _cleaned(document: Document, counts: Sequence[Count], cut: Count) -> Iterator[bytes]:
    """What is left of a document after the stages of `counts`: itself, or the pieces that it is cut into."""
    content = clean(document.content, counts, cut=document.cut) if counts else document.content
    if content is None:
        return
    pieces = list(cut_text(content)) if document.cut and content else [content]
    cut.add(len(content), len(content), changed=len(pieces) > 1)
    cut.documents_added += len(pieces) - 1
    yield from pieces


def _hash(path: Path) -> str:
    """SHA-256 of a file. Raises JsonError for a pipe."""
    require_regular(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(content: bytes) -> np.ndarray:
    """Hash of some content, two uint64."""
    return np.frombuffer(hashlib.sha256(content).digest()[:16], "u8")
