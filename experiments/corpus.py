"""A corpus on disk: documents -> split by the hash of their name -> tokens -> one shard a side, with a manifest.

Shards have the layout of llm.c (a header of 256 int32, then uint16 tokens), so other trainers read them. A corpus is
written into a temporary folder that is renamed when complete: a reader sees a whole corpus or none, and two processes
that prepare the same one at once end with the same folder. The folder's name hashes the recipe and the files' sizes and
times, so that an unchanged corpus is found without reading it; `corpus_id` hashes the tokens themselves.
"""

import hashlib
import json
import math
import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from experiments.config import DataSpec
from experiments.sources import (
    STDLIB_LICENCE,
    CorpusError,
    Document,
    distinct,
    is_held_out,
    matching_files,
    python_sources,
    read_documents,
)
from experiments.synthetic import Language

LAYOUT_VERSION = 1
MANIFEST = "manifest.json"
_HEADER = np.zeros(256, np.int32)
_HEADER[:2] = 20240520, 1  # llm.c: magic, version
SIDES = ("train", "held_out")
SOURCES = ("python-source", "files", "synthetic")


@dataclass(frozen=True, eq=False)
class Corpus:
    """Tokens on both sides of the split, memory-mapped, and what every model is evaluated on."""

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
    eval_windows: np.ndarray  # (windows, T + 1) uint16, spread evenly over the held-out documents
    manifest: dict


def prepare(data: DataSpec, root: Path) -> Corpus:
    """The corpus that `data` describes, made under `root` unless it is there already.

    Raises CorpusError for globs that match nothing, unreadable files, a split with an empty side, or too few tokens
    for one window on either side.
    """
    _check(data)
    root = Path(root)
    recipe, files = _recipe(data)
    folder = root / f"{data.name}-{_digest(recipe)}"
    if not (folder / MANIFEST).exists():
        _write(folder, data, files, recipe)
    return _open(folder, data)


def spread_windows(tokens: np.ndarray, *, context_length: int, n_tokens: int) -> np.ndarray:
    """Windows of T + 1 at even distances over all of `tokens`: enough for `n_tokens` targets, or all there are."""
    available = len(tokens) // (context_length + 1)
    wanted = min(available, -(-n_tokens // context_length))
    starts = np.arange(wanted) * available // wanted * (context_length + 1)
    return tokens[starts[:, None] + np.arange(context_length + 1)]


def _check(data: DataSpec) -> None:
    if data.source not in SOURCES:
        raise CorpusError(f"data.source must be one of {', '.join(SOURCES)}; not {data.source!r}")
    expected = "none" if data.source == "synthetic" else "bytes"
    if data.tokenizer != expected:
        raise CorpusError(f"data.tokenizer must be {expected!r} with data.source={data.source}; not {data.tokenizer!r}")
    if not 0 < data.held_out_fraction < 1:
        raise CorpusError(f"data.held_out_fraction must lie between 0 and 1; not {data.held_out_fraction}")
    for name in ("context_length", "eval_tokens"):
        if getattr(data, name) < 1:
            raise CorpusError(f"data.{name} must be at least 1; not {getattr(data, name)}")


def _recipe(data: DataSpec) -> tuple[dict, list[tuple[str, Path]]]:
    """What the tokens are made from, without reading them, and the files to read."""
    recipe = {"layout": LAYOUT_VERSION, "source": data.source, "held_out_fraction": data.held_out_fraction}
    if data.source == "synthetic":
        return recipe | {"synthetic": asdict(data.synthetic)}, []
    files = python_sources() if data.source == "python-source" else matching_files(data.files)
    seen = [(name, path.stat().st_size, path.stat().st_mtime_ns) for name, path in files]
    made_by = {"python": sys.version} if data.source == "python-source" else {}
    return recipe | made_by | {"files": seen}, files


def _documents(data: DataSpec, files: Sequence[tuple[str, Path]]) -> Iterable[tuple[str, np.ndarray]]:
    if data.source == "synthetic":
        spec = data.synthetic
        language = Language.draw(spec)
        length = spec.tokens // spec.chains
        texts = language.sample(chains=spec.chains, length=length, seed=spec.seed)
        yield from ((f"chain-{i}", text) for i, text in enumerate(texts))
    else:
        document: Document
        for document in distinct(read_documents(files, cut=data.source == "files")):
            yield document.name, np.frombuffer(document.content, np.uint8).astype(np.uint16)


def _write(folder: Path, data: DataSpec, files: Sequence[tuple[str, Path]], recipe: dict) -> None:
    sides: dict[str, list[np.ndarray]] = {side: [] for side in SIDES}
    for name, tokens in _documents(data, files):
        sides["held_out" if is_held_out(name, data.held_out_fraction) else "train"].append(tokens)
    for side, documents in sides.items():
        if not documents:
            n = sum(map(len, sides.values()))
            raise CorpusError(
                f"corpus {data.name}: no document falls on the {side.replace('_', '-')} side ({n} in all); "
                f"add text or change data.held_out_fraction={data.held_out_fraction}"
            )
    manifest = _manifest(data, sides) | {"recipe": {k: v for k, v in recipe.items() if k != "files"}}
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True, exist_ok=True)
        for side, documents in sides.items():
            _write_shard(temporary / f"{side}.bin", np.concatenate(documents))
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
        try:
            os.replace(temporary, folder)
        except OSError:  # another process was first: its folder holds the same corpus
            if not (folder / MANIFEST).exists():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _manifest(data: DataSpec, sides: dict[str, list[np.ndarray]]) -> dict:
    text = data.source != "synthetic"
    manifest = {
        "name": data.name,
        "licence": {"python-source": STDLIB_LICENCE, "synthetic": "none: generated"}.get(data.source, "the user's own"),
        "tokenizer_id": "bytes" if text else "none",
        "vocab_size": 256 if text else data.synthetic.vocab_size,
        "bytes_per_token": 1.0 if text else None,
    }
    whole = hashlib.sha256(str(manifest["vocab_size"]).encode())
    for side, documents in sides.items():
        tokens = np.concatenate(documents)
        digest = hashlib.sha256(tokens.tobytes()).hexdigest()
        whole.update(digest.encode())
        manifest[side] = {"documents": len(documents), "tokens": len(tokens), "sha256": digest}
        if text:
            manifest[side]["bytes"] = len(tokens)
    return {"corpus_id": whole.hexdigest()[:12]} | manifest


def _write_shard(path: Path, tokens: np.ndarray) -> None:
    if len(tokens) >= 2**31:
        raise CorpusError(f"{path.name}: {len(tokens):,} tokens exceed the 2^31 of a shard; use less text")
    header = _HEADER.copy()
    header[2] = len(tokens)
    with path.open("wb") as file:
        file.write(header.tobytes())
        file.write(tokens.astype(np.uint16).tobytes())
        file.flush()
        os.fsync(file.fileno())


def _open(folder: Path, data: DataSpec) -> Corpus:
    manifest = json.loads((folder / MANIFEST).read_text())
    shards = {side: np.memmap(folder / f"{side}.bin", np.uint16, mode="r", offset=_HEADER.nbytes) for side in SIDES}
    for side, tokens in shards.items():
        if len(tokens) != manifest[side]["tokens"]:
            raise CorpusError(
                f"{folder}: {side}.bin is not what its manifest says; delete the folder and prepare again"
            )
        if len(tokens) <= data.context_length:
            raise CorpusError(
                f"corpus {data.name}: its {side.replace('_', '-')} side has {len(tokens)} tokens, fewer than "
                f"one window of data.context_length={data.context_length} + 1; add text or shorten the context"
            )
    windows = spread_windows(shards["held_out"], context_length=data.context_length, n_tokens=data.eval_tokens)
    eval_id = hashlib.sha256(str(windows.shape).encode() + windows.tobytes()).hexdigest()[:12]
    floor = Language.draw(data.synthetic).reachable_loss(windows) if data.source == "synthetic" else math.nan
    return Corpus(
        folder=folder,
        corpus_id=manifest["corpus_id"],
        tokenizer_id=manifest["tokenizer_id"],
        vocab_size=manifest["vocab_size"],
        train_tokens=len(shards["train"]),
        held_out_tokens=len(shards["held_out"]),
        bytes_per_token=manifest["bytes_per_token"] or math.nan,
        eval_id=eval_id,
        loss_floor=floor,
        train=shards["train"],
        held_out=shards["held_out"],
        eval_windows=windows,
        manifest=manifest,
    )


def _digest(value: dict) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]
