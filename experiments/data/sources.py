"""Where text comes from: each source yields documents as (name, bytes), in an order that no disk decides."""

import glob
import hashlib
import os
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

STDLIB_LICENCE = "PSF-2.0 (Python standard library)"
_NOT_LIBRARY = {"test", "tests", "idle_test", "idlelib", "site-packages", "dist-packages", "__pycache__"}
_DOCUMENT_BYTES = 64 * 1024


class CorpusError(ValueError):
    """A corpus cannot be made from what was asked for."""


@dataclass(frozen=True)
class Document:
    """A named piece of text; its name alone decides on which side of the split it falls."""

    name: str
    content: bytes


def python_sources() -> list[tuple[str, Path]]:
    """(relative name, path) of the standard library's modules, without tests, the editor and build settings."""
    root = Path(sysconfig.get_paths()["stdlib"])
    found = []
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = sorted(s for s in subfolders if s not in _NOT_LIBRARY and not s.startswith("config-"))
        found += [Path(folder) / f for f in files if f.endswith(".py") and not f.startswith("_sysconfigdata")]
    return sorted((p.relative_to(root).as_posix(), p) for p in found)


def matching_files(patterns: Sequence[str]) -> list[tuple[str, Path]]:
    """(name relative to the common folder, path) of the files that the globs match.

    Raises CorpusError if there is no pattern, or one that matches nothing.
    """
    if not patterns:
        raise CorpusError("data.files is empty; give globs of text files, e.g. 'data.files=[/texts/**/*.txt]'")
    paths: set[Path] = set()
    for pattern in patterns:
        matches = [Path(p).resolve() for p in glob.glob(os.path.expanduser(pattern), recursive=True)]
        matches = [p for p in matches if p.is_file()]
        if not matches:
            raise CorpusError(f"data.files: {pattern!r} matches no file (searched from {Path.cwd()})")
        paths.update(matches)
    common = Path(os.path.commonpath([p.parent for p in paths]))
    return sorted((p.relative_to(common).as_posix(), p) for p in paths)


def read_documents(files: Sequence[tuple[str, Path]], *, cut: bool) -> Iterator[Document]:
    """The files' bytes; with `cut`, long files in pieces that end at a line, so that one book has a held-out part."""
    for name, path in files:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise CorpusError(
                f"data.files: cannot read {path} ({error.strerror}); leave it out of the globs"
            ) from error
        if cut:
            yield from (Document(f"{name}#{i}", piece) for i, piece in enumerate(cut_text(content)))
        else:
            yield Document(name, content)


def distinct(documents: Iterator[Document]) -> Iterator[Document]:
    """The documents without the empty ones and without copies of an earlier one."""
    seen = set()
    for document in documents:
        digest = hashlib.sha256(document.content).digest()
        if document.content and digest not in seen:
            seen.add(digest)
            yield document


def is_held_out(name: str, fraction: float) -> bool:
    """Whether a document of this name is held out: the same answer on every machine, whatever else is in the corpus."""
    return int.from_bytes(hashlib.sha1(name.encode()).digest()[:8], "big") < fraction * 2**64


def cut_text(content: bytes) -> Iterator[bytes]:
    """A long text in pieces that end at a line where there is one."""
    start = 0
    while start < len(content):
        end = content.find(b"\n", start + _DOCUMENT_BYTES - 1) + 1
        end = end if 0 < end <= start + 2 * _DOCUMENT_BYTES else min(start + _DOCUMENT_BYTES, len(content))
        yield content[start:end]
        start = end
