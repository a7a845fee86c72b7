"""A corpus on disk: documents -> cleaned -> split by the hash of their content -> tokens -> a shard a side, a manifest.

Shards have the layout of llm.c, so other trainers read them. A corpus appears under its name when it is complete: a
reader sees a whole corpus or none, and two processes that prepare the same one at once end with the same folder. The
folder's name hashes the recipe and the files' sizes and times, so that an unchanged corpus is found without reading
it; `corpus_id` hashes the tokens themselves.
"""

import errno
import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np

from isoflop.experiments.config import DataSpec
from isoflop.experiments.data import CorpusError
from isoflop.experiments.data.shards import MANIFEST, write_corpus
from isoflop.experiments.data.sources import source_of
from isoflop.experiments.data.token_files import Place, Side, find_side
from isoflop.experiments.files import check_name
from isoflop.read_json import read_json


class _Stage(TypedDict):
    stage: str
    documents: int
    changed: int
    dropped: int
    bytes_removed: int
    bytes_added: NotRequired[int]


class Manifest(TypedDict):
    """What is read of the manifest of a corpus."""

    corpus_id: str
    name: str
    tokenizer_id: str
    vocab_size: int
    licence: str
    train: Side
    held_out: Side
    bytes_per_token: float | None
    read: NotRequired[dict[str, int]]
    skipped: NotRequired[dict[str, int]]
    stages: NotRequired[list[_Stage]]


_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}


@dataclass(frozen=True, eq=False)
class Corpus:
    """Tokens on both sides of the split, memory-mapped, and the windows that every model is evaluated on."""

    folder: Path
    corpus_id: str  # hash of the tokens
    tokenizer_id: str
    vocab_size: int
    train_tokens: int
    held_out_tokens: int
    bytes_per_token: float  # on the held-out text; NaN where there is no text
    eval_id: str  # hash of the held-out windows
    loss_floor: float  # exact loss of the best predictor on those windows, NaN where unknown
    train: np.ndarray
    held_out: np.ndarray
    eval_windows: np.ndarray  # (windows, T + 1), spread evenly over the held-out documents
    manifest: Manifest
    places: dict[str, Place]  # of both sides

    @property
    def prepared(self) -> "Prepared":
        """What another process opens it by."""
        floor = None if math.isnan(self.loss_floor) else self.loss_floor
        return Prepared(folder=str(self.folder), eval_id=self.eval_id, loss_floor=floor, places=self.places)


class Prepared(TypedDict):
    """A corpus that a launch has prepared: a job opens it by this, and asks neither its source nor its cleaning."""

    folder: str
    eval_id: str
    loss_floor: float | None
    places: dict[str, Place]


class Corpora:
    """The corpora in one folder, each prepared when it is first called for and then kept open.

    `known` are some that are prepared, by `repr` of their data: opened as they are, unless their files have changed.
    """

    def __init__(self, root: Path, known: Mapping[str, Prepared] | None = None) -> None:
        self._root, self._known = root, known or {}
        self._open: dict[str, Corpus] = {}

    def __call__(self, data: DataSpec) -> Corpus:
        key = repr(data)
        if key not in self._open:
            known = self._known.get(key)
            whole = known is not None and all(map(_is_unchanged, known["places"].values()))
            self._open[key] = reopen(data, known) if known and whole else prepare(data, self._root)
        return self._open[key]


def prepare(data: DataSpec, root: Path) -> Corpus:
    """The corpus that `data` describes, made under `root` unless it is there already.

    Raises CorpusError for globs that match nothing, unreadable files, a split with an empty side, or too few tokens
    for one window on either side.
    """
    check_name(data.name, "data.name")
    source = source_of(data)
    source.check()
    files = source.files()
    recipe = source.recipe(files)
    folder = Path(root) / f"{data.name}-{_digest(recipe)}"
    if not (folder / MANIFEST).exists():
        try:
            write_corpus(folder, source, files, recipe)
        except OSError as error:
            if error.errno not in _DISK_ERRORS:
                raise
            reason = f"{(error.strerror or str(error)).lower()}: {error.filename or folder}"
            raise CorpusError(
                f"where.corpora={root}: the corpus {data.name} cannot be written ({reason}); "
                "make room, or name another folder with where.corpora="
            ) from error
    manifest = _manifest(folder)
    places = {side: find_side(folder, side, stated) for side, stated in _sides(manifest).items()}
    corpus = _open(data, folder, manifest, places)
    return replace(corpus, loss_floor=source.reachable_loss(corpus.eval_windows))


def reopen(data: DataSpec, known: Prepared) -> Corpus:
    """A corpus that was prepared before, from the files where it lay then. Raises CorpusError if its tokens differ."""
    folder = Path(known["folder"])
    corpus = _open(data, folder, _manifest(folder), known["places"])
    if corpus.eval_id != known["eval_id"]:
        raise CorpusError(f"{folder}: its held-out tokens have changed since the launch; isoflop run launches it anew")
    return replace(corpus, loss_floor=math.nan if known["loss_floor"] is None else known["loss_floor"])


def spread_windows(tokens: np.ndarray, *, context_length: int, n_tokens: int) -> np.ndarray:
    """Windows (W, T + 1) at even distances over all of `tokens`: enough for `n_tokens` targets, or all there are."""
    starts = spread_starts(len(tokens), context_length=context_length, n_tokens=n_tokens)
    return tokens[starts[:, None] + np.arange(context_length + 1)]


def spread_starts(available_tokens: int, *, context_length: int, n_tokens: int) -> np.ndarray:
    """The positions in the tokens where the windows of `spread_windows` begin, (windows,)."""
    available = available_tokens // (context_length + 1)
    wanted = min(available, -(-n_tokens // context_length))
    return np.arange(wanted) * available // wanted * (context_length + 1)


def manifest_text(corpus: Corpus) -> str:
    """The manifest as lines: what was read, what each stage did, what each side holds; the counts add up."""
    manifest = corpus.manifest
    lines = [f"corpus {manifest['name']} {corpus.corpus_id} in {corpus.folder}", f"licence: {manifest['licence']}"]
    if "read" in manifest:
        lines.append(f"read {manifest['read']['documents']:,} documents, {manifest['read']['bytes']:,} bytes")
        lines += [f"skipped {count:,}: {reason}" for reason, count in manifest["skipped"].items()]
        for stage in manifest["stages"]:
            lines.append(
                f"  {stage['stage']:<16} in {stage['documents']:>9,}  changed {stage['changed']:>8,}  "
                f"dropped {stage['dropped']:>8,}  bytes removed {stage['bytes_removed']:>12,}"
                + (f"  added {added:,}" if (added := stage.get("bytes_added")) else "")
            )
    for side, count in _sides(manifest).items():
        text = f", {count['bytes']:,} bytes" if count.get("bytes") else ""
        lines.append(f"{side}: {count['documents']:,} documents, {count['tokens']:,} tokens{text}")
    per_token = "" if manifest["bytes_per_token"] is None else f", {corpus.bytes_per_token:.3f} bytes/token held out"
    lines.append(f"tokenizer {corpus.tokenizer_id}, {corpus.vocab_size:,} tokens{per_token}")
    return "\n".join(lines)


def _manifest(folder: Path) -> Manifest:
    return read_json(folder / MANIFEST, Manifest, error=CorpusError, remedy="delete the folder and prepare again")


def _sides(manifest: Manifest) -> dict[str, Side]:
    return {"train": manifest["train"], "held_out": manifest["held_out"]}


def _is_unchanged(place: Place) -> bool:
    try:
        return os.stat(place["file"]).st_mtime_ns == place["modified"]
    except OSError:
        return False


def _open(data: DataSpec, folder: Path, manifest: Manifest, places: dict[str, Place]) -> Corpus:
    """The corpus in a complete folder, without its loss floor. Raises CorpusError for a side below one window."""
    shards: dict[str, np.ndarray] = {
        side: np.memmap(place["file"], place["dtype"], "r", place["offset"], (place["tokens"],))
        for side, place in places.items()
    }
    for side, tokens in shards.items():
        if len(tokens) <= data.context_length:
            raise CorpusError(
                f"corpus {data.name}: its {side.replace('_', '-')} side has {len(tokens)} tokens, fewer than "
                f"one window of data.context_length={data.context_length} + 1; add text or shorten the context"
            )
    corpus_id, shards["train"] = _capped(manifest["corpus_id"], shards["train"], data)
    windows = spread_windows(shards["held_out"], context_length=data.context_length, n_tokens=data.eval_tokens)
    eval_id = hashlib.sha256(str(windows.shape).encode() + windows.tobytes()).hexdigest()[:12]
    return Corpus(
        folder=folder,
        corpus_id=corpus_id,
        tokenizer_id=manifest["tokenizer_id"],
        vocab_size=manifest["vocab_size"],
        train_tokens=len(shards["train"]),
        held_out_tokens=len(shards["held_out"]),
        bytes_per_token=manifest["bytes_per_token"] or math.nan,
        eval_id=eval_id,
        loss_floor=math.nan,
        train=shards["train"],
        held_out=shards["held_out"],
        eval_windows=windows,
        manifest=manifest,
        places=places,
    )


def _capped(corpus_id: str, train: np.ndarray, data: DataSpec) -> tuple[str, np.ndarray]:
    """The corpus's id and training tokens; with data.unique_tokens so many targets, in windows at even distances.

    Raises CorpusError for more unique tokens than there are, or fewer than one window.
    """
    if data.unique_tokens is None:
        return corpus_id, train
    length = data.context_length
    available = len(train) // (length + 1) * length
    if not length <= data.unique_tokens <= available:
        raise CorpusError(
            f"data.unique_tokens={data.unique_tokens} must lie between one window of {length} and the {available} "
            f"that corpus {data.name} has"
        )
    windows = spread_windows(train, context_length=length, n_tokens=data.unique_tokens)
    return _digest({"corpus": corpus_id, "windows": list(windows.shape)}), windows.reshape(-1)


def _digest(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]
