"""A source carries its own facts: one class is enough for a new one."""

import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from isoflop.experiments.config import DataSpec
from isoflop.experiments.data import CorpusError
from isoflop.experiments.data.corpus import prepare
from isoflop.experiments.data.records import Document
from isoflop.experiments.data.sources import SOURCES, Source, TextSource, TokenSource, source_of
from tests.support.root import ROOT


@pytest.fixture(autouse=True)
def sources(monkeypatch):
    """Sources of a test are gone after it."""
    for name in ("counted", "squares"):
        monkeypatch.delitem(SOURCES, name, raising=False)
    yield
    for name in ("counted", "squares"):
        SOURCES.pop(name, None)


def spec(source, **changes):
    return DataSpec(name="mine", source=source, context_length=8, held_out_fraction=0.3, **changes)


def test_the_names_are_those_of_the_classes():
    assert list(SOURCES) == ["python-source", "installed-source", "files", "huggingface", "tokens", "synthetic"]
    assert all(isinstance(source_of(DataSpec(source=name)), Source) for name in SOURCES)


def test_what_is_installed_is_read_with_the_library_and_what_is_not_text_is_counted(tmp_path, monkeypatch):
    library, packages = tmp_path / "library", tmp_path / "packages"
    for folder in (library, packages / "mine", packages / "__pycache__"):
        folder.mkdir(parents=True)
    (library / "os.py").write_text("one = 1\n" * 40)
    (packages / "mine" / "it.py").write_text("two = 2\n" * 40)
    (packages / "mine" / "old.py").write_bytes(b"# caf\xe9\n" * 40)
    (packages / "mine" / "it.txt").write_text("no module")
    paths = {"stdlib": str(library), "purelib": str(packages), "platlib": str(packages)}
    monkeypatch.setattr("sysconfig.get_paths", lambda: paths)
    source = source_of(spec("installed-source"))
    assert [name for name, _ in source.files()] == ["os.py", "packages/mine/it.py", "packages/mine/old.py"]
    skipped = Counter()
    names = [document.name for document in source.documents(source.files(), skipped)]
    assert (names, skipped) == (["os.py", "packages/mine/it.py"], {"module that is not UTF-8": 1})


def test_a_source_of_text_is_one_class(tmp_path):
    class Counted(TextSource, name="counted"):
        licence = "mine"

        def files(self):
            return []

        def fetch(self, files, folder):
            (folder / "raw-1.txt").write_text("\n".join(f"line {i} of this" for i in range(40)))
            return [("one", folder / "raw-1.txt")], self.licence

        def documents(self, files, skipped):
            for _, path in files:
                yield from (Document(line, f"{line}\n".encode()) for line in path.read_text().splitlines())

    corpus = prepare(spec("counted"), tmp_path)
    assert (corpus.manifest["read"]["documents"], corpus.manifest["licence"]) == (40, "mine")
    assert corpus.train.astype(np.uint8).tobytes().startswith(b"line ")
    assert not list(corpus.folder.glob("raw*"))
    with pytest.raises(CorpusError, match=r"must be bytes, bpe or a tokenizer.json with data.source=counted; not 'no'"):
        prepare(spec("counted", tokenizer="no"), tmp_path)


def test_a_source_of_tokens_is_one_class(tmp_path):
    class Squares(TokenSource, name="squares"):
        vocab_size = 64

        def files(self):
            return []

        def documents(self, files):
            return ((f"from {i}", np.arange(i, i + 20) ** 2 % 64) for i in range(60))

        def reachable_loss(self, windows):
            return 0.5

    corpus = prepare(spec("squares", tokenizer="none"), tmp_path)
    assert (corpus.vocab_size, corpus.loss_floor, corpus.tokenizer_id) == (64, 0.5, "none")
    assert corpus.train_tokens + corpus.held_out_tokens == 1200
    with pytest.raises(CorpusError, match=r"data.tokenizer must be 'none' with data.source=squares; not 'bytes'"):
        prepare(spec("squares"), tmp_path)


@pytest.mark.process
def test_a_study_is_expanded_without_torch_or_the_readers_of_files():
    code = "import sys, isoflop.experiments.study.study; print(sorted({'torch', 'pyarrow'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert found.stdout.strip() == "[]", found.stderr


@pytest.mark.parametrize("kind", ["no files", "no documents", "no tokens"])
def test_a_source_of_nothing_is_refused_by_name(tmp_path, kind):
    base = TokenSource if kind == "no tokens" else TextSource

    class Counted(base, name="counted"):
        vocab_size = 10

        def files(self):
            return [("one", tmp_path / "one.txt")] if kind == "no documents" else []

        def documents(self, files, skipped=None):
            return iter(())

    (tmp_path / "one.txt").write_text("text")
    tokenizer = {"tokenizer": "none"} if base is TokenSource else {}
    message = {
        "no files": r"data.source=counted has no files: a source of text lists those that it reads in files\(\)",
        "no documents": r"corpus mine: no document is left of 0 \(.*one.txt holds none\)",
        "no tokens": "data.source=counted has no documents",
    }[kind]
    with pytest.raises(CorpusError, match=message):
        prepare(spec("counted", **tokenizer), tmp_path / "corpora")
    assert not [path for path in (tmp_path / "corpora").iterdir() if path.is_dir()]
