"""Text in every encoding, under every choice of `data` that reads files: the tokens decode to it, or it is refused."""

import csv
import gzip
import io
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf

from isoflop.experiments.config import DataSpec
from isoflop.experiments.data import CorpusError
from isoflop.experiments.data.corpus import prepare
from isoflop.experiments.data.tokenizer import Bytes, Library
from tests.support.root import ROOT

WORDS = {
    "cp1251": "\u0421\u044a\u0435\u0448\u044c \u0435\u0449\u0451 \u044d\u0442\u0438\u0445 {}",
    "shift_jis": "\u65e5\u672c\u8a9e\u306e\u6587\u7ae0\u3067\u3059 {}",
    "latin-1": "L\xe0 o\xf9 p\xe8re est all\xe9, gar\xe7on {}",
    "utf-16": "\u05e9\u05dc\u05d5\u05dd na\xefve \U0001f600 {}",
    "utf-8": "plain \xe9 \u20ac \U0001f600 {}",
    "utf-8-sig": "marked \xe9 \u20ac {}",
}
CHOICES = [path.stem for path in sorted((ROOT / "conf" / "data").glob("*.yaml"))]
READING = ("text", "clean-text", "bpe")  # the others bring their own text, or tokens
KINDS = ("txt", "jsonl", "jsonl.gz", "json", "csv", "parquet")
DOCUMENTS = 40


def texts(encoding, newline):
    return [newline.join(WORDS[encoding].format(f"{i} {j}") for j in range(12)) + newline for i in range(DOCUMENTS)]


def write(folder, kind, written, encoding):
    """The texts as files of one kind, in the encoding."""
    if kind == "txt":
        for i, text in enumerate(written):
            (folder / f"{i}.txt").write_bytes(text.encode(encoding))
        return
    records = [{"text": text} for text in written]
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    if kind == "parquet":
        column = pa.array([text.encode(encoding) for text in written], pa.binary())
        with open(folder / "a.parquet", "wb") as file:  # pyarrow opens no path that is not text
            pq.write_table(pa.table({"text": column}), file)
        return
    if kind == "csv":
        table = io.StringIO()
        csv.writer(table).writerows([["text"], *([text] for text in written)])
        lines = table.getvalue()
    elif kind == "json":
        lines = json.dumps(records, ensure_ascii=False)
    content = lines.encode(encoding)
    (folder / f"a.{kind}").write_bytes(gzip.compress(content) if kind.endswith("gz") else content)


def data_of(choice, folder, encoding):
    settings = OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / "data" / f"{choice}.yaml"))
    settings |= {"files": [f"{folder}/*"], "encoding": encoding, "held_out_fraction": 0.3, "context_length": 8}
    if choice == "bpe":
        settings["vocab_size"] = 270
    if "clean" in settings:  # what drops documents is not in question here
        settings["clean"] = [stage for stage in settings["clean"] if stage in ("unicode", "control")]
    return DataSpec(**settings)


def decoded(corpus):
    file = corpus.folder / "tokenizer.json"
    tokenizer = Library(file.read_text(encoding="utf-8")) if corpus.tokenizer_id.startswith("tokenizer-") else Bytes()
    return "".join(tokenizer.decode(side.tolist()) for side in (corpus.train, corpus.held_out))


def test_every_choice_is_known_here():
    others = {"huggingface", "python-source", "synthetic", "tokens"}
    assert {*CHOICES} == {*READING} | others


@pytest.mark.slow
@pytest.mark.parametrize("encoding", WORDS)
@pytest.mark.parametrize("choice", READING)
def test_tokens_decode_to_the_text(tmp_path, choice, encoding):
    """Of every kind of file, with both line ends; documents may come in another order."""
    for newline in ("\n", "\r\n"):
        written = texts(encoding, newline)
        shown = [text.replace("\r\n", "\n") for text in written] if choice != "text" else written
        for kind in KINDS if newline == "\n" else ("txt", "csv"):
            folder = tmp_path / f"{kind}-{len(newline)}"
            folder.mkdir()
            write(folder, kind, written, encoding)
            text = decoded(prepare(data_of(choice, folder, encoding), tmp_path / "corpora"))
            assert sorted(text.splitlines(keepends=True)) == sorted("".join(shown).splitlines(keepends=True)), kind


@pytest.mark.parametrize("encoding", ["cp1251", "shift_jis", "latin-1"])
@pytest.mark.parametrize("choice", READING)
def test_what_is_not_named_is_refused_and_leaves_nothing(tmp_path, choice, encoding):
    for kind in KINDS:
        folder = tmp_path / kind
        folder.mkdir()
        write(folder, kind, texts(encoding, "\n"), encoding)
        with pytest.raises(CorpusError, match=rf"{folder}/.*(byte|utf-8)") as error:
            prepare(data_of(choice, folder, "utf-8"), tmp_path / "corpora")
        assert "\n" not in str(error.value)
    assert not list((tmp_path / "corpora").glob("[!.]*"))


@pytest.mark.parametrize("kind", KINDS)
def test_files_whose_names_are_no_text_are_read(tmp_path, kind):
    folder = tmp_path / os.fsdecode(b"d\xff")
    folder.mkdir()
    written = texts("utf-8", "\n")[:12]
    write(folder, kind, written, "utf-8")
    for path in list(folder.iterdir()):
        path.rename(folder / os.fsdecode(b"caf\xe9-" + path.name.encode()))
    text = decoded(prepare(data_of("text", folder, "utf-8"), tmp_path / "corpora"))
    assert sorted(text.splitlines()) == sorted("".join(written).splitlines())
