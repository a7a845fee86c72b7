"""Documents cleaned in parts, each a pure function of some files: kept on disk, so that an interruption costs one part.

    part-3.text    the documents one after the other
    part-3.index   a row for each document, in the dtype of `index_dtype`
    part-3.json    the counts; written last: a part that has it is whole

One document is in memory at a time; indices are mapped.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from isoflop.experiments.config import DataSpec
from isoflop.experiments.data import near_duplicates
from isoflop.experiments.data.cleaning import Count, clean
from isoflop.experiments.data.records import Files
from isoflop.experiments.data.sources import TextSource, is_held_out
from isoflop.read_json import read_json

PART_BYTES = 16 * 2**20  # of files
PARALLEL_FROM = 4  # parts: fewer are done before a second process has started


class _Counted(TypedDict):
    """What the counts of a part hold."""

    read: dict[str, int]
    bad: dict[str, int]
    stages: list[dict[str, Any]]


@dataclass(frozen=True)
class Part:
    """A whole part in `folder`."""

    folder: Path
    number: int

    def file(self, kind: str) -> Path:
        """The file of this part of one kind: text, index or json."""
        return self.folder / f"part-{self.number}.{kind}"

    @property
    def counted(self) -> dict[str, Any]:
        """Documents and bytes read, what was skipped by reason, and the counts of each cleaning stage."""
        return read_json(self.file("json"), _Counted)

    def index(self, data: DataSpec) -> np.ndarray:
        """The index, a row for each document, mapped."""
        dtype, file = index_dtype(data), self.file("index")
        return np.memmap(file, dtype, mode="r") if file.stat().st_size else np.empty(0, dtype)

    def contents(self, data: DataSpec, kept: np.ndarray) -> Iterator[tuple[bytes, bool]]:
        """(document, whether it is held out) for those that the mask keeps."""
        with self.file("text").open("rb") as file:
            for row, keep in zip(self.index(data), kept, strict=True):
                content = file.read(int(row["length"]))
                if keep:
                    yield content, bool(row["held_out"])


def index_dtype(data: DataSpec) -> np.dtype:
    """A row of an index: length in bytes, side, hash, and the MinHash where near duplicates are to be removed."""
    near = [("signature", "u4", (near_duplicates.NUMBERS,))] if near_duplicates.STAGE in data.clean else []
    return np.dtype([("length", "i8"), ("held_out", "?"), ("digest", "u8", (2,)), *near])


def make_parts(source: TextSource, files: Files, folder: Path) -> list[Part]:
    """The parts of `files` in their order, made on all cores; those that are there already are not made again."""
    groups = list(_groups(files))
    parts = [Part(folder, number) for number in range(len(groups))]
    missing = [(part, group) for part, group in zip(parts, groups, strict=True) if not part.file("json").exists()]
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
    counts = [Count(stage) for stage in data.clean if stage != near_duplicates.STAGE]
    row = np.zeros(1, index_dtype(data))
    total = {"documents": 0, "bytes": 0}
    with part.file("text").open("wb") as text, part.file("index").open("wb") as index:
        for document in source.documents(files, skipped):
            total["documents"] += 1
            total["bytes"] += len(document.content)
            content = clean(document.content, counts) if counts else document.content
            if content is None:
                continue
            row["length"], row["held_out"] = len(content), is_held_out(document.name, data.held_out_fraction)
            row["digest"] = np.frombuffer(hashlib.sha256(content).digest()[:16], "u8")
            if near_duplicates.STAGE in data.clean:
                row["signature"] = near_duplicates.signature(content)
            text.write(content)
            index.write(row.tobytes())
    temporary = part.file("json.tmp")
    temporary.write_text(json.dumps({"read": total, "bad": dict(skipped), "stages": [asdict(c) for c in counts]}))
    os.replace(temporary, part.file("json"))
