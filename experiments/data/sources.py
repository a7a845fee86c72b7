"""Where a corpus comes from: one class for each value of data.source, with all that is particular to it.

A source checks the keys of `data` that it reads, lists its files, states its recipe (what its tokens are made from;
the recipe's hash names the corpus's folder) and yields what a corpus is made of. There are three kinds:

    TextSource      documents of text: cleaned, tokenized and written as shards
    TokenSource     documents that are tokens from the start: written as shards
    StoredTokens    token files that exist already: read where they are

To add a source, write a subclass of one of them with its name: `class Mine(TextSource, name="mine")`.
"""

import hashlib
import math
import os
import sys
import sysconfig
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from dataclasses import MISSING, asdict, fields
from glob import escape, glob
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from isoflop.experiments.config import DataSpec, SyntheticSpec
from isoflop.experiments.data import CorpusError, hub, near_duplicates, records, synthetic, token_files
from isoflop.experiments.data.cleaning import REVISED, STAGES, check_stages
from isoflop.experiments.data.domains.python_parts import part_of
from isoflop.experiments.data.records import Document, Files
from isoflop.experiments.data.tokenizer import whole_texts

LAYOUT_VERSION = 2  # 1: the split was by the hash of a document's name
SOURCES: dict[str, type["Source"]] = {}  # by name, in the order of this file
_NOT_LIBRARY = {"test", "tests", "idle_test", "idlelib", "site-packages", "dist-packages", "__pycache__"}


class Source(ABC):
    """One value of data.source, for one `data` of the configuration."""

    name: ClassVar[str]
    keys: ClassVar[tuple[str, ...]]  # keys of data that decide the tokens: in the recipe where not at their default
    tokenizers: ClassVar[str]  # the values of data.tokenizer that it allows, for messages
    licence: ClassVar[str] = "the user's own"

    def __init_subclass__(cls, name: str = "") -> None:
        """Enter a source under its name; the three kinds have none."""
        super().__init_subclass__()
        if name:
            cls.name = name
            SOURCES[name] = cls

    def __init__(self, data: DataSpec) -> None:
        self.data = data

    def check(self) -> None:
        """Raise CorpusError naming the key of `data` that no corpus can be made with."""
        data = self.data
        if not self.allows(data.tokenizer):
            raise CorpusError(
                f"data.tokenizer must be {self.tokenizers} with data.source={self.name}; not {data.tokenizer!r}"
            )
        if data.separator and not isinstance(self, TextSource):
            raise CorpusError(
                f"data.separator={data.separator!r} with data.source={self.name}, whose documents are tokens already; "
                "leave it empty"
            )
        check_stages(data.clean, [near_duplicates.STAGE])
        if near_duplicates.STAGE in data.clean:
            near_duplicates.check_installed()
        if not 0 < data.held_out_fraction < 1:
            raise CorpusError(f"data.held_out_fraction must lie between 0 and 1; not {data.held_out_fraction}")
        for key in ("context_length", "eval_tokens", "vocab_size"):
            if getattr(data, key) < 1:
                raise CorpusError(f"data.{key} must be at least 1; not {getattr(data, key)}")

    @abstractmethod
    def allows(self, tokenizer: str) -> bool:
        """Whether data.tokenizer may have this value."""

    @abstractmethod
    def files(self) -> Files:
        """(name, path) of the files that it reads, in an order that no disk decides. Raises CorpusError for none."""

    def recipe(self, files: Files) -> dict[str, Any]:
        """What the tokens are made from, JSON-ready: settings, and the files' names, sizes and times (not read)."""
        default = {f.name: f.default if f.default is not MISSING else [] for f in fields(DataSpec)}
        changed = {key: value for key in self.keys if (value := getattr(self.data, key)) != default[key]}
        seen = [(name, path.stat().st_size, path.stat().st_mtime_ns) for name, path in files]
        return self._common_recipe() | self.made_from(files) | changed | {"files": seen}

    def made_from(self, files: Files) -> dict[str, Any]:
        """What this source adds to the recipe: what decides its tokens besides `keys` and the files."""
        return {}

    def reachable_loss(self, windows: np.ndarray) -> float:
        """Nats/token of the best predictor on windows (W, T + 1) of its tokens; NaN where nobody knows it."""
        return math.nan

    def _common_recipe(self) -> dict[str, Any]:
        return {"layout": LAYOUT_VERSION, "source": self.name, "held_out_fraction": self.data.held_out_fraction}


class TextSource(Source):
    """Documents of text."""

    keys: ClassVar[tuple[str, ...]] = (
        "text_column", "skip_bad", "encoding", "clean", "separator", "tokenizer", "vocab_size"
    )  # fmt: skip
    tokenizers = "bytes, bpe or a tokenizer.json"

    def allows(self, tokenizer: str) -> bool:
        """Whether it is bytes, bpe or the name of a tokenizer.json."""
        return tokenizer in ("bytes", "bpe") or tokenizer.endswith(".json")

    def check(self) -> None:
        """Raise CorpusError for a cleaning stage, a tokenizer or an encoding that there is not."""
        tokenizer = self.data.tokenizer
        if tokenizer.endswith(".json") and not Path(tokenizer).expanduser().is_file():
            raise CorpusError(f"data.tokenizer: {tokenizer} is not a file (searched from {Path.cwd()})")
        try:
            "".encode(self.data.encoding)  # LookupError too for codecs that are not of text, such as base64
        except (LookupError, ValueError) as error:
            raise CorpusError(
                f"data.encoding: {error}; give the name of one of Python's, e.g. utf-8, cp1252"
            ) from error
        super().check()

    def recipe(self, files: Files) -> dict[str, Any]:
        """The common recipe with the settings that turn text into tokens."""
        recipe = super().recipe(files)
        if revised := {way: REVISED[way] for way in self.ways(files) if way in REVISED}:
            recipe["revised"] = revised
        if self.data.tokenizer.endswith(".json"):
            text = Path(self.data.tokenizer).expanduser().read_bytes().decode(errors="surrogateescape")
            recipe["tokenizer_sha256"] = hashlib.sha256(whole_texts(text).encode(errors="surrogateescape")).hexdigest()
        return recipe

    def ways(self, files: Files) -> list[str]:
        """What is done to the text: with those of REVISED, a corpus is another than it was before."""
        return [*self.data.clean, self.data.tokenizer]

    def fetch(self, files: Files, folder: Path) -> tuple[Files, str]:
        """The files that `documents` reads, and their licence.

        Text that is not in files yet is written to raw* in `folder`, where it stays until the corpus is complete.
        """
        return files, self.licence

    @abstractmethod
    def documents(self, files: Files, skipped: Counter[str]) -> Iterator[Document]:
        """The documents of some of the fetched files, in order; several processes read some each.

        With data.skip_bad, `skipped` counts what was left out, by reason; otherwise that raises CorpusError.
        """


class TokenSource(Source):
    """Documents that are tokens from the start."""

    keys = ()
    tokenizers = "'none'"

    def allows(self, tokenizer: str) -> bool:
        """Whether it is none: a document is tokens already."""
        return tokenizer == "none"

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """One more than the largest token there may be."""

    @abstractmethod
    def documents(self, files: Files) -> Iterator[tuple[str, np.ndarray]]:
        """(name, tokens) of each document, the same at every call: they are read twice."""


class StoredTokens(Source):
    """Token files that are read where they are: only sides of several files are copied into the corpus's folder."""

    keys = TextSource.keys
    tokenizers = "'none'"

    def allows(self, tokenizer: str) -> bool:
        """Whether it is none: the tokens are there."""
        return tokenizer == "none"

    @property
    def vocab_size(self) -> int:
        """One more than the largest token there may be."""
        return self.data.vocab_size

    @abstractmethod
    def sides(self, files: Files, folder: Path) -> dict[str, dict[str, Any]]:
        """For train and held_out: file, range of tokens, counts and hash of the tokens, as the manifest states them.

        A side without a file is a shard that this wrote to `folder`.
        """


class PythonSource(TextSource, name="python-source"):
    """The standard library of the running interpreter: text that is on every machine."""

    keys = (*TextSource.keys, "part")
    licence = "PSF-2.0 (Python standard library)"

    def files(self) -> Files:
        """The modules of the standard library, without tests, the editor and build settings."""
        return python_sources()

    def made_from(self, files: Files) -> dict[str, Any]:
        """The version of Python, whose library this is."""
        return {"python": sys.version}

    def documents(self, files: Files, skipped: Counter[str]) -> Iterator[Document]:
        """One document a module, in order: all of it, or its data.part where it has any."""
        for name, path in files:
            try:
                content = path.read_bytes()
                content.decode()
            except (OSError, UnicodeDecodeError) as error:
                reason = error.strerror if isinstance(error, OSError) else f"byte {error.start} is not UTF-8"
                raise CorpusError(
                    f"data.source={self.name}: cannot read {path} ({reason}); repair this Python, "
                    "or take other text with data=text"
                ) from error
            if content := part_of(content, self.data.part):
                yield Document(name, content)


class InstalledSource(TextSource, name="installed-source"):
    """The standard library and the packages that are installed beside it: more text, of every machine its own."""

    licence = "that of each package"

    def files(self) -> Files:
        """The modules of the standard library, and those of all installed packages."""
        return [*python_sources(), *installed_sources()]

    def made_from(self, files: Files) -> dict[str, Any]:
        """The version of Python."""
        return {"python": sys.version}

    def documents(self, files: Files, skipped: Counter[str]) -> Iterator[Document]:
        """One document a module, in order; those that are not UTF-8 are left out and counted."""
        for name, path in files:
            try:
                content = path.read_bytes()
                content.decode()
            except (OSError, UnicodeDecodeError) as error:
                skipped["unreadable module" if isinstance(error, OSError) else "module that is not UTF-8"] += 1
                continue
            yield Document(name, content)


class TextFiles(TextSource, name="files"):
    """The user's own files: data.files, of text or of records with a column data.text_column."""

    def ways(self, files: Files) -> list[str]:
        """Those of all text, the reading of tables, and where files of text are cleaned the cutting of them."""
        kinds = {records.kind_of(path)[0] for _, path in files}
        ways = super().ways(files)
        if kinds & {".csv", ".tsv"}:
            ways.append("tables")
        return [*ways, "cut"] if kinds - {*records.RECORDS} and STAGES.keys() & self.data.clean else ways

    def files(self) -> Files:
        """The files that the globs of data.files match."""
        return matching_files(self.data.files)

    def documents(self, files: Files, skipped: Counter[str]) -> Iterator[Document]:
        """The documents of text files, and of every record of files that hold many."""
        for name, path in files:
            yield from records.documents(
                name, path, column=self.data.text_column, skip_bad=self.data.skip_bad, skipped=skipped,
                encoding=self.data.encoding,
            )  # fmt: skip


class HuggingFace(TextSource, name="huggingface"):
    """A data set that `datasets` opens: data.hub, of the Hugging Face Hub or a local folder."""

    def check(self) -> None:
        """Raise CorpusError without the `datasets` library, or for settings that it cannot open."""
        super().check()
        hub.check(self.data.hub)

    def files(self) -> Files:
        """The files of a data set in a local folder; none of one on the Hub."""
        return [(str(path), path) for path in hub.local_files(self.data.hub)]

    def made_from(self, files: Files) -> dict[str, Any]:
        """The settings of data.hub."""
        return {"hub": asdict(self.data.hub)}

    def fetch(self, files: Files, folder: Path) -> tuple[Files, str]:
        """Stream the data set into files of `folder`; these, and the licence that its card states."""
        return hub.stream(self.data, folder)

    def documents(self, files: Files, skipped: Counter[str]) -> Iterator[Document]:
        """The documents of the files that `fetch` wrote."""
        for name, path in files:
            yield from records.documents(name, path, column=hub.COLUMN, skip_bad=self.data.skip_bad, skipped=skipped)


class TokenFiles(StoredTokens, name="tokens"):
    """Files that nanoGPT, llm.c or Megatron wrote: data.files, with tokens below data.vocab_size."""

    def files(self) -> Files:
        """The token files that the globs of data.files match."""
        return matching_files(self.data.files)

    def made_from(self, files: Files) -> dict[str, Any]:
        """Where the files are: they are read in place."""
        return {"paths": [str(path) for _, path in files]}

    def sides(self, files: Files, folder: Path) -> dict[str, dict[str, Any]]:
        """Where the train and held-out tokens lie in the files, with their counts and hashes."""
        return token_files.describe_sides(
            [path for _, path in files], held_out_fraction=self.data.held_out_fraction, vocab_size=self.vocab_size,
            folder=folder,
        )  # fmt: skip


class Synthetic(TokenSource, name="synthetic"):
    """A Markov language, data.synthetic, whose entropy is known exactly."""

    licence = "none: generated"

    def check(self) -> None:
        """Raise CorpusError for a language that cannot be drawn."""
        super().check()
        synthetic.check(self.data.synthetic)

    def files(self) -> Files:
        """None: the language is drawn."""
        return []

    def recipe(self, files: Files) -> dict[str, Any]:
        """The language's settings."""
        spec, default = asdict(self.data.synthetic), SyntheticSpec()
        for younger in ("order", "rank", "twins"):  # than the first corpora, whose folders keep their names
            if spec[younger] == getattr(default, younger):
                del spec[younger]
        return self._common_recipe() | {"synthetic": spec}

    @property
    def vocab_size(self) -> int:
        """How many tokens the language has."""
        return self.data.synthetic.vocab_size

    def documents(self, files: Files) -> Iterator[tuple[str, np.ndarray]]:
        """(name, tokens) of each document, a draw of its own from the language."""
        spec = self.data.synthetic
        language = synthetic.Language.draw(spec)
        blocks = language.sample(chains=spec.chains, length=spec.tokens // spec.chains, seed=spec.seed)
        names = [language.twin(number).astype(np.uint16) for number in spec.twins]
        texts = enumerate(chain.from_iterable(blocks))
        return ((f"chain-{i}", names[i % len(names)][tokens]) for i, tokens in texts)

    def reachable_loss(self, windows: np.ndarray) -> float:
        """Nats/token of a predictor that knows the language, on windows (W, T + 1); NaN for several twins."""
        spec = self.data.synthetic
        if len(set(spec.twins)) > 1:
            return math.nan
        language = synthetic.Language.draw(spec)
        return language.reachable_loss(np.argsort(language.twin(spec.twins[0]))[windows])


def source_of(data: DataSpec) -> Source:
    """The source that data.source names. Raises CorpusError if there is none of this name."""
    if data.source not in SOURCES:
        raise CorpusError(f"data.source must be one of {', '.join(SOURCES)}; not {data.source!r}")
    return SOURCES[data.source](data)


def python_sources() -> list[tuple[str, Path]]:
    """(relative name, path) of the standard library's modules, without tests, the editor and build settings."""
    root = Path(sysconfig.get_paths()["stdlib"])
    found = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = sorted(s for s in subfolders if s not in _NOT_LIBRARY and not s.startswith("config-"))
        found += [Path(folder) / f for f in names if f.endswith(".py") and not f.startswith("_sysconfigdata")]
    return sorted((p.relative_to(root).as_posix(), p) for p in found)


def installed_sources() -> list[tuple[str, Path]]:
    """(path under its folder, path) of the modules of all packages that are installed beside this interpreter."""
    paths = sysconfig.get_paths()
    found = []
    for root in sorted({Path(paths[kind]) for kind in ("purelib", "platlib")}):
        for folder, subfolders, names in os.walk(root):
            subfolders[:] = sorted(s for s in subfolders if s != "__pycache__")
            modules = [Path(folder) / name for name in names if name.endswith(".py")]
            found += [(f"packages/{path.relative_to(root).as_posix()}", path) for path in modules]
    return sorted(found)


def matching_files(patterns: list[str]) -> list[tuple[str, Path]]:
    """(name relative to the common folder, path) of the files that the globs match; ** crosses folders and links once.

    A pattern that is the name of a file is that file. Raises CorpusError if there is no pattern, or one that matches
    no file, a link to none, or a folder that cannot be read.
    """
    if not patterns:
        raise CorpusError("data.files is empty; give globs of text files, e.g. 'data.files=[/texts/**/*.txt]'")
    paths: set[Path] = set()
    for pattern in patterns:
        found = list(_matches(os.path.expanduser(pattern)))
        files = [Path(p).resolve() for p in found if os.path.isfile(p)]
        if not files:
            raise CorpusError(f"data.files: {pattern!r} {_no_file(found)}")
        if lost := [p for p in found if not os.path.exists(p)]:
            raise CorpusError(
                f"data.files: {pattern!r} matches {lost[0]}, a link to nothing that is here ({os.readlink(lost[0])}); "
                "bring back what it names, or remove the link"
            )
        paths.update(files)
    common = Path(os.path.commonpath([p.parent for p in paths]))
    return sorted((p.relative_to(common).as_posix(), p) for p in paths)


def _matches(pattern: str) -> Iterator[str]:
    """The paths that a glob matches. A folder is entered once by **, so that a circle of links ends."""
    if os.path.lexists(pattern):
        yield pattern
        return
    parts = _named_first(Path(pattern).parts)
    pattern = os.path.join(*parts)
    if "**" not in parts:
        yield from glob(pattern)
        return
    at = parts.index("**")
    rest = os.path.join(*parts[at + 1 :]) if at + 1 < len(parts) else "*"
    entered: set[tuple[int, int]] = set()
    for top in glob(os.path.join(*parts[:at])) if at else ["."]:
        for folder, subfolders, _ in os.walk(top, onerror=_refuse, followlinks=True):
            about = os.stat(folder)
            if (about.st_dev, about.st_ino) in entered:
                subfolders.clear()
                continue
            entered.add((about.st_dev, about.st_ino))
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
            yield from _matches(os.path.join(escape(folder), rest))


def _refuse(error: OSError) -> None:
    raise CorpusError(f"data.files: {error.filename} cannot be read ({error.strerror}); allow it, or give other globs")


def _named_first(parts: tuple[str, ...]) -> tuple[str, ...]:
    """The same with the folders at the beginning that are there by these very names as names, not as patterns."""
    named = 0
    while named < len(parts) - 1 and os.path.lexists(os.path.join(*parts[: named + 1])):
        named += 1
    return (*map(escape, parts[:named]), *parts[named:])


def _no_file(found: list[str]) -> str:
    """Why what a pattern matched is no file, and the remedy."""
    if not found:
        return f"matches no file (searched from {Path.cwd()})"
    if os.path.isdir(found[0]):
        return f"matches the folder {found[0]} but no file; for the files in it write {found[0].rstrip('/')}/**/*"
    return f"matches {found[0]}, which is no regular file (a pipe, a device or a broken link); give files"
