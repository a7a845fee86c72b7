"""From a source to a corpus's folder: parts, duplicates out, a tokenizer where one is to be trained, a shard a side.

Everything is written in a working folder that takes the corpus's name when it is complete. A process that is killed
or cut off from its source leaves it, and the next one goes on from its whole parts; any other error removes it.
"""

import hashlib
import json
import os
import shutil
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from isoflop.experiments.config import DataSpec
from isoflop.experiments.data import CorpusError, near_duplicates
from isoflop.experiments.data.batches import DOCUMENTS, MANIFEST, id_of_tokens
from isoflop.experiments.data.hub import StreamError
from isoflop.experiments.data.parts import Part, Text, digest, held_bytes, index_dtype, make_parts
from isoflop.experiments.data.records import Files, cut_text
from isoflop.experiments.data.sources import Source, StoredTokens, TextSource, TokenSource
from isoflop.experiments.data.token_files import HEADER_BYTES, SIDES, header, token_dtype
from isoflop.experiments.data.tokenizer import (
    END_OF_TEXT,
    Bytes,
    Library,
    Losses,
    Separator,
    find_separator,
    read_tokenizer,
    train_bpe,
)
from isoflop.experiments.files import locked

TOKENIZER = "tokenizer.json"
LEARNED_FROM = 64 * 2**20  # bytes of text, at most, that a tokenizer is trained on
DIVIDED = 0.1  # of the training text, in divided documents: from there on a tokenizer is trained on these too
_BATCH_BYTES = 2**20  # of text given to a tokenizer at once
_COMPARED = 2**16  # characters of each such batch that are compared with what their tokens say


def write_corpus(folder: Path, source: Source, files: Files, recipe: Mapping[str, Any], samples: str) -> None:
    """Write the corpus folder, unless another process has while this one waited; `samples` are those of the files.

    Raises CorpusError, OSError.
    """

    def write(work: Path) -> dict[str, Any]:
        return _write(source, files, work) | {"samples": samples}

    _write_whole(folder, write, recipe, f"{folder.name}-{samples}")  # parts of files like these alone are gone on from


def write_mixed(
    folder: Path, data: DataSpec, documents: Iterable[tuple[np.ndarray, bool, int]], about: dict[str, Any]
) -> None:
    """Write a corpus of (tokens, whether held out, bytes), whose manifest has `about` too. Raises as `write_corpus`."""

    def write(work: Path) -> dict[str, Any]:
        return _manifest(data, about, _write_sides(work, data, about["vocab_size"], documents))

    _write_whole(folder, write, {"mixture": [one["corpus_id"] for one in about["domains"]]}, folder.name)


def _write_whole(
    folder: Path, write: Callable[[Path], dict[str, Any]], recipe: Mapping[str, Any], unfinished: str
) -> None:
    """Write a folder and its manifest in a working folder, whose name has `unfinished` until it is complete."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(lock := folder.with_name(f".{folder.name}.lock")), _removed(lock):
        if (folder / MANIFEST).exists():
            return
        work = folder.with_name(f".{unfinished}.work")
        work.mkdir(exist_ok=True)
        try:
            manifest = write(work) | {"recipe": {k: v for k, v in recipe.items() if k != "files"}}
            (work / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
            for leftover in [*work.glob("part-*"), *work.glob("raw*")]:
                leftover.unlink()
            os.replace(work, folder)
        except StreamError:
            if not any(work.iterdir()):
                work.rmdir()
            raise
        except Exception:
            shutil.rmtree(work, ignore_errors=True)
            raise


@contextmanager
def _removed(path: Path) -> Iterator[None]:
    """Remove a file after the body."""
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _write(source: Source, files: Files, work: Path) -> dict[str, Any]:
    """Write the tokens of a source, unless they stay where they are; returns the manifest without the recipe."""
    if isinstance(source, TextSource):
        return _write_text(source, files, work)
    if isinstance(source, TokenSource):
        written = _write_sides(work, source.data, source.vocab_size, _split_tokens(source, files))
    elif isinstance(source, StoredTokens):
        written = source.sides(files, work)
    else:
        raise TypeError(f"{type(source).__name__} is none of TextSource, TokenSource and StoredTokens")
    about = {"tokenizer_id": "none", "vocab_size": source.vocab_size, "licence": source.licence}
    return _manifest(source.data, about, written) | {"bytes_per_token": None}


def _split_tokens(source: TokenSource, files: Files) -> Iterator[tuple[np.ndarray, bool, int]]:
    """(tokens, whether held out, 0 bytes) of each document, which is read twice: the split is by content."""
    rows = [(tokens.size, digest(tokens.astype("<i8").tobytes())) for _, tokens in source.documents(files)]
    if not rows:
        raise CorpusError(f"data.source={source.name} has no documents")
    index = np.zeros(len(rows), index_dtype(source.data))
    for row, (size, content) in zip(index, rows, strict=True):
        row["length"], row["digest"] = size, content
    held = held_bytes(index, source.data.held_out_fraction)
    for (_, tokens), at in zip(source.documents(files), held.tolist(), strict=True):
        yield from ((half, side, 0) for half, side in ((tokens[:at], True), (tokens[at:], False)) if half.size)


def _write_text(source: TextSource, files: Files, work: Path) -> dict[str, Any]:
    """Clean, split and tokenise text; returns the manifest. Raises CorpusError where no document is left."""
    data = source.data
    if data.tokenizer.endswith(".json"):
        find_separator(data.separator, _own_tokenizer(data))  # what it has not is refused before all text is read
    files, licence = source.fetch(files, work)
    if not files:
        raise CorpusError(
            f"data.source={source.name} has no files: a source of text lists those that it reads in files(), or writes "
            "them in fetch()"
        )
    parts = make_parts(source, files, work)
    kept, stages = _distinct(parts, data, work)
    if not any(mask.any() for mask in kept):
        dropped = ", ".join(f"{stage['dropped']:,} by {stage['stage']}" for stage in stages if stage["dropped"])
        read = sum(part.counted["read"]["documents"] for part in parts)
        empty = f"{files[0][1]}{f' and {len(files) - 1} more hold' if len(files) > 1 else ' holds'} none"
        raise CorpusError(f"corpus {data.name}: no document is left of {read:,} ({dropped or empty})")
    held = _held_out(parts, kept, data)
    tokenizer = _tokenizer(data, parts, held, work)
    losses = Losses()
    separator = find_separator(data.separator, tokenizer)
    encoded = _encoded(parts, held, data, tokenizer, separator, losses)
    written = _write_sides(work, data, tokenizer.vocab_size, encoded)
    about = {"tokenizer_id": tokenizer.tokenizer_id, "vocab_size": tokenizer.vocab_size, "licence": licence}
    side = written["held_out"]
    return _manifest(data, about, written) | {
        "bytes_per_token": side["bytes"] / side["tokens"],
        "read": _summed(part.counted["read"] for part in parts),
        "skipped": _summed(part.counted["bad"] for part in parts),
        "stages": stages,
        **({"losses": asdict(losses)} if losses.changed else {}),
        **({"separator": {"text": separator.text, "tokens": separator.tokens}} if separator.tokens else {}),
    }


def _distinct(parts: Sequence[Part], data: DataSpec, work: Path) -> tuple[list[np.ndarray], list[dict[str, Any]]]:
    """A mask for each part of the documents that stay (not empty, no copy of an earlier one, none near an earlier one
    where that stage is on), and the counts of all stages."""
    index = [part.index(data) for part in parts]
    lengths = np.concatenate([rows["length"] for rows in index])
    digests = np.concatenate([rows["digest"] for rows in index])
    stages = _summed_stages(part.counted["stages"] for part in parts)
    stages = [stage for stage in stages if stage["stage"] != "cut" or stage["documents_added"]]
    alive = lengths > 0
    first = np.unique(digests, axis=0, return_index=True)[1]
    masks = [("empty", alive), ("exact-duplicates", np.isin(np.arange(len(lengths)), first))]
    if near_duplicates.STAGE in data.clean:
        candidates = np.logical_and(masks[0][1], masks[1][1])
        different = np.ones(len(lengths), bool)
        if candidates.any():
            signatures = near_duplicates.gather(index, candidates, work / "part-signatures")
            different[candidates] = ~near_duplicates.copies(signatures)
        masks.append((near_duplicates.STAGE, different))
    alive = np.ones(len(lengths), bool)
    for stage, mask in masks:
        dropped = alive & ~mask
        stages.append({
            "stage": stage, "documents": int(alive.sum()), "bytes_in": int(lengths[alive].sum()), "changed": 0,
            "dropped": int(dropped.sum()), "bytes_removed": int(lengths[dropped].sum()), "bytes_added": 0,
            "documents_added": 0,
        })  # fmt: skip
        alive &= mask
    return np.split(alive, np.cumsum([len(rows) for rows in index])[:-1]), stages


def _held_out(parts: Sequence[Part], kept: Sequence[np.ndarray], data: DataSpec) -> list[np.ndarray]:
    """For each document of each part the bytes of it that are held out; -1 for those that do not stay."""
    index = [part.index(data)[mask] for part, mask in zip(parts, kept, strict=True)]
    held = np.full(sum(len(mask) for mask in kept), -1, np.int64)
    held[np.concatenate(kept)] = held_bytes(np.concatenate(index), data.held_out_fraction)
    return np.split(held, np.cumsum([len(mask) for mask in kept])[:-1])


def _tokenizer(data: DataSpec, parts: Sequence[Part], held: Sequence[np.ndarray], work: Path) -> Bytes | Library:
    """The tokenizer of a corpus, trained on its text or read; one with a tokenizer.json has it written to `work`."""
    if data.tokenizer == "bytes":
        return Bytes()
    if data.tokenizer == "bpe":
        end = END_OF_TEXT[0] if data.separator in ("auto", END_OF_TEXT[0]) else ""
        tokenizer = train_bpe(_learned_from(parts, held, data), data.vocab_size, end=end)
    else:
        tokenizer = _own_tokenizer(data)
    (work / TOKENIZER).write_text(tokenizer.json(), encoding="utf-8")
    return tokenizer


def _own_tokenizer(data: DataSpec) -> Library:
    return read_tokenizer(Path(data.tokenizer).expanduser())


def _learned_from(parts: Sequence[Part], held: Sequence[np.ndarray], data: DataSpec) -> Iterator[bytes]:
    """Text of the training side that a tokenizer is trained on, by hash about LEARNED_FROM bytes.

    That is of documents wholly on this side, and of divided ones where these are more than DIVIDED of it. Raises
    CorpusError where there is none.
    """
    amounts = np.concatenate(held)
    left = np.concatenate([part.index(data)["length"] for part in parts]) - amounts
    divided = int(left[amounts > 0].sum())
    size = int(left[amounts == 0].sum())
    if with_divided := divided > DIVIDED * (size + divided):
        size += divided
    if not size:
        raise _empty_side(data, "train", int((amounts >= 0).sum()))
    share = min(1.0, LEARNED_FROM / size)
    wanted = [np.where((amount == 0) | with_divided, amount, -1) for amount in held]
    for content, held_out, _ in _contents(parts, wanted, data):
        long = share < 1 and len(content) > LEARNED_FROM // 64
        for piece in [] if held_out else cut_text(content) if long else [content]:
            if digest(piece)[1] <= share * (2**64 - 1):
                yield piece


def _contents(parts: Sequence[Part], held: Sequence[np.ndarray], data: DataSpec) -> Iterator[Text]:
    for part, amounts in zip(parts, held, strict=True):
        yield from part.contents(data, amounts)


def _encoded(
    parts: Sequence[Part],
    held: Sequence[np.ndarray],
    data: DataSpec,
    tokenizer: Bytes | Library,
    separator: Separator,
    losses: Losses,
) -> Iterator[tuple[np.ndarray, bool, int]]:
    """(tokens, whether held out, bytes) of each document, with the separator where it ends; `losses` counts what some
    of them lose in their tokens."""
    if isinstance(tokenizer, Bytes):
        for content, held_out, ends in _contents(parts, held, data):
            whole = content + separator.text.encode() if ends else content
            yield np.frombuffer(whole, np.uint8), held_out, len(whole)
        return
    batch: list[Text] = []
    size = 0
    for item in _contents(parts, held, data):
        batch.append(item)
        size += len(item.content)
        if size >= _BATCH_BYTES:
            yield from _encode(batch, tokenizer, separator, losses)
            batch, size = [], 0
    yield from _encode(batch, tokenizer, separator, losses)


def _encode(
    batch: Sequence[Text], tokenizer: Library, separator: Separator, losses: Losses
) -> Iterator[tuple[np.ndarray, bool, int]]:
    texts = [item.content.decode() for item in batch]
    left = _COMPARED
    for text in texts:
        if left > 0:
            losses.add(text[:left], tokenizer)
            left -= len(text)
    for tokens, (content, held_out, ends) in zip(tokenizer.encode_batch(texts), batch, strict=True):
        whole = np.array([*tokens, *separator.tokens] if ends else tokens, np.uint32)
        yield whole, held_out, len(content) + separator.size * ends


def _write_sides(
    work: Path, data: DataSpec, vocab_size: int, documents: Iterable[tuple[np.ndarray, bool, int]]
) -> dict[str, dict[str, Any]]:
    """Write both shards from (tokens, whether held out, bytes) of each document; returns the manifest's entry of each.

    Raises CorpusError for a side without a document.
    """
    dtype = token_dtype(vocab_size)
    hashes = {side: hashlib.sha256() for side in SIDES}
    counts: dict[str, dict[str, int]] = {side: {"documents": 0, "tokens": 0, "bytes": 0} for side in SIDES}
    shards = {side: _start_shard(work / f"{side}.bin") for side in SIDES}
    ends = array("q")
    try:
        for tokens, held_out, size in documents:
            side = SIDES[held_out]
            if tokens.size and not 0 <= tokens.min() <= tokens.max() < vocab_size:
                raise CorpusError(
                    f"corpus {data.name}: tokens from {tokens.min()} to {tokens.max()} in a vocabulary of "
                    f"{vocab_size}; "
                    f"data.tokenizer={data.tokenizer} must number its tokens from 0 without gaps"
                )
            content = tokens.astype(dtype).tobytes()
            shards[side].write(content)
            hashes[side].update(content)
            for what, n in (("documents", 1), ("tokens", len(tokens)), ("bytes", size)):
                counts[side][what] += n
            if held_out:
                ends.append(counts[side]["tokens"])
        (work / DOCUMENTS).write_bytes(np.array(ends, "<i8").tobytes())
        for side in SIDES:
            shards[side].seek(0)
            shards[side].write(header(dtype, counts[side]["tokens"]))
            shards[side].flush()
            os.fsync(shards[side].fileno())
    finally:
        for shard in shards.values():
            shard.close()
    for side in SIDES:
        if not counts[side]["documents"]:
            raise _empty_side(data, side, sum(count["documents"] for count in counts.values()))
    return {side: counts[side] | {"sha256": hashes[side].hexdigest()} for side in SIDES}


def _empty_side(data: DataSpec, side: str, documents: int) -> CorpusError:
    return CorpusError(
        f"corpus {data.name}: no document falls on the {side.replace('_', '-')} side ({documents} in all); "
        f"add text or change data.held_out_fraction={data.held_out_fraction}"
    )


def _start_shard(path: Path) -> BinaryIO:
    """A shard opened for writing behind room for its header."""
    shard = path.open("wb")
    shard.write(bytes(HEADER_BYTES))
    return shard


def _manifest(data: DataSpec, about: dict[str, Any], written: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The corpus's id and name, with what is known of it and of each side."""
    return {"corpus_id": id_of_tokens(about | written), "name": data.name} | about | written


def _summed(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    total = Counter[str]()
    for count in counts:
        total.update(count)
    return dict(total)


def _summed_stages(parts: Iterable[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    totals: dict[str, Counter[str]] = {}
    for stages in parts:
        for stage in stages:
            numbers = {name: value for name, value in stage.items() if name != "stage"}
            totals.setdefault(stage["stage"], Counter()).update(numbers)
    return [{"stage": name, **total} for name, total in totals.items()]
