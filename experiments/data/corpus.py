"""Makes a corpus: documents -> cleaned -> split by the hash of their content -> tokens -> a shard a side, a manifest.

A corpus appears under its name when it is complete: a reader sees a whole corpus or none, and two processes that
prepare the same one at once end with the same folder. The folder's name hashes the recipe and the files' sizes and
times, so that an unchanged corpus is found without reading it; `corpus_id` hashes the tokens themselves. Where files of
other content have the same sizes and times, as in archives that state no times, `samples` tells them apart.
"""

import hashlib
import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from isoflop.experiments.config import DataSpec
from isoflop.experiments.data import CorpusError
from isoflop.experiments.data.batches import Corpus, OpenCorpora, digest, open_folder, read_manifest, sides
from isoflop.experiments.data.domains.mixed import (
    check_alike,
    domains_of,
    mixed_documents,
    mixed_manifest,
    mixed_windows,
)
from isoflop.experiments.data.records import Files
from isoflop.experiments.data.shards import MANIFEST, write_corpus, write_mixed
from isoflop.experiments.data.sources import source_of
from isoflop.experiments.data.token_files import find_side
from isoflop.experiments.files import check_name, is_disk_error
from isoflop.printable import counted

_SAMPLES, _SAMPLE = 4, 2**12  # parts of a file that tell it from another of its size and time, and bytes of each


class Corpora(OpenCorpora):
    """The corpora in one folder, each prepared when it is first called for and then kept open."""

    def __init__(self, root: Path) -> None:
        super().__init__(partial(prepare, root=root))


def prepare(data: DataSpec, root: Path) -> Corpus:
    """The corpus that `data` describes, made under `root` unless it is there already.

    Raises CorpusError for globs that match nothing, unreadable files, a split with an empty side, or too few tokens
    for one window on either side.
    """
    check_name(data.name, "data.name")
    if data.mixture:
        return _mixed(data, root)
    source = source_of(data)
    source.check()
    files = source.files()
    recipe = source.recipe(files)
    samples = _samples_of(files)
    folder = _folder(Path(root), data.name, recipe, samples)
    if not (folder / MANIFEST).exists():
        try:
            write_corpus(folder, source, files, recipe, samples)
        except OSError as error:
            if not is_disk_error(error):
                raise
            reason = f"{(error.strerror or str(error)).lower()}: {error.filename or folder}"
            raise CorpusError(
                f"where.corpora={root}: the corpus {data.name} cannot be written ({reason}); "
                "make room, or name another folder with where.corpora="
            ) from error
    manifest = read_manifest(folder)
    places = {side: find_side(folder, side, stated, manifest["vocab_size"]) for side, stated in sides(manifest).items()}
    corpus = open_folder(data, folder, manifest, places)
    return replace(corpus, loss_floor=source.reachable_loss(corpus.eval_windows))


def _folder(root: Path, name: str, recipe: dict[str, Any], samples: str) -> Path:
    """The folder of a corpus: named by its recipe, and by the samples of its files too where the folder of that name
    is of files with others."""
    folder = root / f"{name}-{digest(recipe)}"
    if not (folder / MANIFEST).exists() or read_manifest(folder).get("samples", samples) == samples:
        return folder
    return root / f"{name}-{digest(recipe | {'samples': samples})}"


def _samples_of(files: Files) -> str:
    """A hash of each file's name, first and last bytes and some between; of small files of all bytes."""
    whole = hashlib.sha256()
    for name, path in files:
        whole.update(name.encode("utf-8", "surrogateescape"))
        try:
            with path.open("rb", buffering=0) as file:
                room = max(0, os.fstat(file.fileno()).st_size - _SAMPLE)
                for part in range(_SAMPLES if room else 1):
                    file.seek(part * room // (_SAMPLES - 1))
                    whole.update(file.read(_SAMPLE))
        except OSError as error:  # who reads the whole file says so in more words, or leaves it out
            whole.update(str(error.errno).encode())
    return whole.hexdigest()[:12]


def _mixed(data: DataSpec, root: Path) -> Corpus:
    """The corpus of a mixture: the training windows of its domains one after the other, and as many held-out windows of
    each. The shares do not enter: mixtures of the same domains share it."""
    parts = {name: prepare(one, root) for name, one in domains_of(data).items()}
    check_alike(parts)
    held_out = mixed_windows([len(one.eval_windows) for one in parts.values()], data)
    about = mixed_manifest(parts, held_out, data.context_length)
    folder = Path(root) / f"{data.name}-{digest({'mixture': about['domains'], 'context_length': data.context_length})}"
    if not (folder / MANIFEST).exists():
        write_mixed(folder, data, mixed_documents(parts, held_out, data.context_length), about)
    manifest = read_manifest(folder)
    places = {side: find_side(folder, side, stated, manifest["vocab_size"]) for side, stated in sides(manifest).items()}
    corpus = open_folder(data, folder, manifest, places)
    return replace(corpus, loss_floor=sum(one.loss_floor for one in parts.values()) / len(parts))


def manifest_text(corpus: Corpus) -> str:
    """The manifest as lines: what was read, what each stage did, what each side holds; the counts add up."""
    manifest = corpus.manifest
    lines = [f"corpus {manifest['name']} {corpus.corpus_id} in {corpus.folder}", f"licence: {manifest['licence']}"]
    if "read" in manifest:
        lines.append(f"read {manifest['read']['documents']:,} documents, {manifest['read']['bytes']:,} bytes")
        lines += [f"skipped {count:,}: {reason}" for reason, count in manifest.get("skipped", {}).items()]
        for stage in manifest.get("stages", []):
            lines.append(
                f"  {stage['stage']:<16} in {stage['documents']:>9,}  changed {stage['changed']:>8,}  "
                f"dropped {stage['dropped']:>8,}  bytes removed {stage['bytes_removed']:>12,}"
                + (f"  added {added:,}" if (added := stage.get("bytes_added")) else "")
                + (f"  documents added {added:,}" if (added := stage.get("documents_added")) else "")
            )
    for side, count in sides(manifest).items():
        text = f", {count['bytes']:,} bytes" if count.get("bytes") else ""
        text += f" of {count['dtype']} in {count['file']}" if "dtype" in count and "file" in count else ""
        lines.append(f"{side}: {count['documents']:,} documents, {count['tokens']:,} tokens{text}")
    if "read" in manifest:
        behind = manifest.get("separator")
        text = (
            "nothing: data.separator"
            if behind is None
            else f"{behind['text']!r}, {counted(len(behind['tokens']), 'token')}"
        )
        lines.append(f"behind each document: {text}")
    per_token = "" if manifest["bytes_per_token"] is None else f", {corpus.bytes_per_token:.3f} bytes/token held out"
    lines.append(f"tokenizer {corpus.tokenizer_id}, {corpus.vocab_size:,} tokens{per_token}")
    lines += [f"warning: {warning}" for warning in corpus.warnings]
    return "\n".join(lines)
