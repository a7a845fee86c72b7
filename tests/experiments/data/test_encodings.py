"""Text of any encoding, under any suffix: tokens decode to the text, or a message names file and place."""

import bz2
import csv
import functools
import gzip
import io
import json
import lzma
import os
import re
import tarfile
import tempfile
import zipfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from isoflop.experiments.config import DataSpec, HubSpec
from isoflop.experiments.data import CorpusError
from isoflop.experiments.data.corpus import prepare
from isoflop.experiments.data.sources import matching_files
from isoflop.experiments.data.tokenizer import Bytes, Library
from tests.support.root import ROOT

ENCODINGS = [
    "utf-8",
    "utf-8-sig",
    "utf-16",
    "utf-16-le",
    "utf-16-be",
    "utf-32",
    "cp1251",
    "cp1252",
    "latin-1",
    "shift_jis",
]
LETTERS = "abc \u00e9\u00fc\u0416\u0437\u3042\u30bd\u8868\U0001f642"  # a trail byte of SO in Shift-JIS is a backslash
QUICK = settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))


@functools.cache
def texts_of(encoding):
    """Texts that the encoding has, of lines that end as they like."""
    letters = [c for c in LETTERS if c.encode(encoding, errors="ignore")] if encoding[:3] != "utf" else list(LETTERS)
    line = st.text(st.sampled_from(letters), min_size=1, max_size=30)
    return st.lists(st.tuples(line, st.sampled_from(["\n", "\r\n", "\r"])), min_size=1, max_size=12).map(
        lambda lines: "".join(text + end for text, end in lines)
    )


def corpus_of(folder, files, **data):
    (folder / "in").mkdir()
    for name, content in files.items():
        (folder / "in" / name).write_bytes(content)
    spec = DataSpec(
        name="t",
        source="files",
        files=[f"{folder}/in/*"],
        context_length=1,
        held_out_fraction=0.5,
        eval_tokens=2,
        **data,
    )
    return prepare(spec, folder / "corpora")


def decoded(corpus) -> str:
    """The text of both sides of a corpus of bytes."""
    return "".join(side.astype(np.uint8).tobytes().decode() for side in (corpus.train, corpus.held_out))


def two(content, suffix=".txt"):
    """The content under a name on each side of the split, told apart by a last letter."""
    return {
        f"a{suffix}": content("A"),
        f"bb{suffix}": content("B"),
        f"c{suffix}": content("C"),
        f"d{suffix}": content("D"),
    }


@pytest.mark.slow
@given(data=st.data())
@QUICK
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_text_is_decoded_as_it_was_written(encoding, data):
    text = data.draw(texts_of(encoding))
    with tempfile.TemporaryDirectory() as folder:
        corpus = corpus_of(Path(folder), two(lambda end: (text + end).encode(encoding)), encoding=encoding)
        assert sorted(decoded(corpus)) == sorted("".join(text + end for end in "ABCD"))
        assert corpus.held_out_tokens in {len((text + "A").encode()) * n for n in (1, 2, 3)}


@given(data=st.data())
@QUICK
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_is_read_by_itself(encoding, data):
    text = data.draw(texts_of(encoding))
    with tempfile.TemporaryDirectory() as folder:
        corpus = corpus_of(Path(folder), two(lambda end: (text + end).encode(encoding)))
        assert sorted(decoded(corpus)) == sorted("".join(text + end for end in "ABCD"))


@given(data=st.data())
@QUICK
@pytest.mark.parametrize("clean", [[], ["unicode", "control"]], ids=["raw", "cleaned"])
@pytest.mark.parametrize("encoding", ["cp1251", "latin-1", "shift_jis", "utf-16-le"])
def test_what_is_not_utf_8_is_refused_at_its_byte(encoding, clean, data):
    text = data.draw(texts_of(encoding))
    content = text.encode(encoding)
    try:
        content.decode()
        expected = None
    except UnicodeDecodeError as error:
        expected = error.start
    with tempfile.TemporaryDirectory() as folder:
        files = {**two(lambda end: f"good {end}\n".encode() * 9), "other.txt": content}
        if b"\0" in content:
            with pytest.raises(CorpusError, match=r"other\.txt is binary"):
                corpus_of(Path(folder), files, clean=clean)
        elif expected is None:
            corpus_of(Path(folder), files, clean=clean)
        else:
            with pytest.raises(CorpusError, match=rf"other\.txt: byte {expected} .* is not utf-8; .*data\.encoding="):
                corpus_of(Path(folder), files, clean=clean)


def test_files_of_another_encoding_are_skipped_and_counted(tmp_path):
    files = {**two(lambda end: f"good {end}\n".encode() * 9), "other.txt": "na\u00efve".encode("latin-1")}
    corpus = corpus_of(tmp_path, files, skip_bad=True)
    assert corpus.manifest["skipped"] == {"text that is not utf-8": 1}
    assert "ve" not in decoded(corpus)


def as_table(delimiter, texts):
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=delimiter).writerows([["id", "text"], *enumerate(texts)])
    return out.getvalue()


FORMATS = {
    ".jsonl": lambda texts: "".join(json.dumps({"text": t}, ensure_ascii=False) + "\n" for t in texts),
    ".ndjson": lambda texts: "".join(json.dumps({"text": t}, ensure_ascii=False) + "\r\n" for t in texts),
    ".json": lambda texts: json.dumps([{"text": t} for t in texts], ensure_ascii=False, indent=1),
    ".JSON": lambda texts: "".join(json.dumps({"text": t}, ensure_ascii=False) + "\n" for t in texts),
    ".csv": lambda texts: as_table(",", texts),
    ".TSV": lambda texts: as_table("\t", texts),
}


@pytest.mark.slow
@given(data=st.data())
@QUICK
@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "cp1251", "shift_jis"])
def test_records_are_read_by_suffix_in_any_case(encoding, suffix, data):
    drawn = [data.draw(texts_of(encoding)) for _ in range(2)]
    texts = [drawn[i % 2] + end for i, end in enumerate("ABCDEFGH")]
    with tempfile.TemporaryDirectory() as folder:
        content = FORMATS[suffix](texts).encode(encoding)
        corpus = corpus_of(Path(folder), {f"x{suffix}": content}, encoding=encoding)
        assert corpus.manifest["read"]["documents"] == 8
        assert sorted(decoded(corpus)) == sorted("".join(texts))


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress])
@pytest.mark.parametrize("suffix", [".txt", ".JSONL", ".csv"])
def test_compressed_files_are_read(tmp_path, pack, suffix):
    texts = [f"na\u00efve {i}\n" for i in range(8)]
    content = FORMATS.get(suffix.lower(), "".join)(texts).encode()
    ending = {gzip.compress: ".gz", bz2.compress: ".BZ2"}[pack]
    files = {f"{name}{suffix}{ending}": pack(content.replace(b"na", name.encode())) for name in "abcdefghijkl"}
    assert decoded(corpus_of(tmp_path, files)).count("\u00ef") == 96


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.json", b"3", r"x\.json: record 1 is not a JSON object"),
        ("x.json", b'{"text": "a"', r"x\.json is not JSON"),
        ("x.json", b"[" * 10**5, r"x\.json is not JSON"),
        ("x.json", b'{"body": "a"}', r"x\.json: record 1: no column data\.text_column='text'; there are body"),
        ("x.jsonl", b'{"a":' * 10**5, r"x\.jsonl: line 1 is not a JSON object"),
        ("x.jsonl", b'{"text": "\\ud800"}', r"x\.jsonl: line 1: half a surrogate pair, '\\ud800', at character 0"),
        ("x.jsonl", b'{"text": "a"}\n{"text": "\xef"}', r"x\.jsonl: byte 24 \(ef\) is not utf-8"),
        ("x.csv", b'text\n"a', r"x\.csv: line 2 is not a row"),
        ("x.csv", b"body\na\n", r"x\.csv: row 1: no column data\.text_column='text'"),
        ("x.txt.gz", gzip.compress(b"PK\0", mtime=0), r"x\.txt\.gz is binary"),
        ("x.txt.gz", gzip.compress(b"abc" * 99, mtime=0)[:-9], r"x\.txt\.gz"),
    ],
)
def test_what_is_no_record_is_named(tmp_path, name, content, message):
    with pytest.raises(CorpusError, match=message):
        corpus_of(tmp_path, {name: content})


def zipped():
    with zipfile.ZipFile(out := io.BytesIO(), "w") as archive:
        archive.writestr("a.txt", TEXT)
    return out.getvalue()


def tarred():
    with tarfile.open(fileobj=(out := io.BytesIO()), mode="w") as archive:
        member = tarfile.TarInfo("a.txt")
        member.size = len(TEXT)
        archive.addfile(member, io.BytesIO(TEXT))
    return out.getvalue()


TEXT = b"one line of text\n" * 99
UNPACK = "and only .gz, .zst, .bz2 are read packed; unpack it, or leave it out of the globs"
PACKED = {
    "x.txt.xz": (lzma.compress(TEXT), f"is an .xz file, {UNPACK}"),
    "x.jsonl": (lzma.compress(TEXT, lzma.FORMAT_ALONE), f"is an .lzma file, {UNPACK}"),
    "x.zip": (zipped(), f"is a .zip file, {UNPACK}"),
    "x.tar": (tarred(), f"is a .tar file, {UNPACK}"),
    "x.tar.gz": (gzip.compress(tarred()), f"is a .tar file, {UNPACK}"),
    "x.txt": (gzip.compress(TEXT), "is compressed by gzip, and its name does not end in .gz; let it end so, or leave"),
    "x.csv": (bz2.compress(TEXT), "is compressed by bz2, and its name does not end in .bz2; let it end so, or leave"),
    "x.txt.gz": (gzip.compress(gzip.compress(TEXT)), "is compressed by gzip, and its name does not end in .gz"),
    "x.md": (bytes(range(256)) * 9, "is binary (a zero byte); leave it out of the globs"),
    "x.html": (np.arange(9000).tobytes(), "is binary (a zero byte); leave it out of the globs"),
}


@pytest.mark.parametrize("name", PACKED)
def test_a_file_that_is_packed_is_named_as_such(tmp_path, name):
    content, fault = PACKED[name]
    (tmp_path / "more").mkdir()
    with pytest.raises(CorpusError, match=re.escape(f"{name} {fault}")):
        corpus_of(tmp_path, {name: content})
    texts = {f"{i}.txt": f"text {i} ".encode() * 50 for i in range(8)}
    corpus = corpus_of(tmp_path / "more", {name: content, **texts}, skip_bad=True)
    assert corpus.manifest["skipped"] == {"binary file": 1}


WIDE = {
    "Latin": "one line of text\n", "Cyrillic": "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440\n",
    "Han": "\u4f60\u597d \u4e16\u754c\u3000\n\n",
}  # fmt: skip


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("text", WIDE.values(), ids=WIDE)
def test_wide_text_without_a_mark_is_named_with_what_reads_it(tmp_path, encoding, text):
    files = {f"{i}.txt": (f"{i} " + text * 3000).encode(encoding) for i in range(8)}
    (tmp_path / "more").mkdir()
    with pytest.raises(
        CorpusError, match=rf"0\.txt is binary .* or text in {encoding}, which data\.encoding={encoding} "
    ):
        corpus_of(tmp_path, files)
    assert decoded(corpus_of(tmp_path / "more", files, encoding=encoding)).count(text) == 8 * 3000


def test_a_line_of_another_encoding_is_one_bad_line(tmp_path):
    lines = [json.dumps({"text": f"text {i}"}).encode() for i in range(8)]
    content = b"\n".join([*lines[:4], b'{"text": "\xef"}', *lines[4:]])
    corpus = corpus_of(tmp_path, {"x.jsonl": content}, skip_bad=True)
    assert (corpus.manifest["read"]["documents"], corpus.manifest["skipped"]) == (8, {"text that is not utf-8": 1})


def test_an_encoding_that_is_none_is_refused(tmp_path):
    for encoding in ("latin-one", "base64", "a\0b"):
        with pytest.raises(CorpusError, match=r"data\.encoding: .* one of Python's"):
            prepare(DataSpec(source="files", files=["*"], encoding=encoding), tmp_path)


@pytest.mark.slow
def test_long_lines_are_cut_between_characters(tmp_path):
    pytest.importorskip("tokenizers", reason="needs the extra `data`")
    from isoflop.experiments.data.tokenizer import Library

    text = "".join(np.random.default_rng(5).choice(["\u3042", "\u00e9", "a"], 80_000))
    files = {"x.txt": text.encode()}
    assert [files["x.txt"][at] & 0xC0 for at in (1 << 16, 1 << 17)] == [0x80] * 2  # both places are inside a character
    for name in "ab":
        (tmp_path / name).mkdir()
    assert sorted(decoded(corpus_of(tmp_path / "a", files))) == sorted(text)
    corpus = corpus_of(tmp_path / "b", files, tokenizer="bpe", vocab_size=260)
    tokenizer = Library((corpus.folder / "tokenizer.json").read_text(encoding="utf-8"))
    found = tokenizer.decode(corpus.train.tolist()) + tokenizer.decode(corpus.held_out.tolist())
    assert sorted(found) == sorted(text)


def test_no_count_is_negative_and_they_add_up(tmp_path):
    files = two(lambda end: f"<p>&nGt;</p> \u0958 {end}\n".encode() * 20)
    corpus = corpus_of(tmp_path, files, clean=["unicode", "markup"])
    stages = corpus.manifest["stages"]
    assert all(value >= 0 for stage in stages for name, value in stage.items() if name != "stage")
    for stage, after in pairwise(stages):
        assert after["bytes_in"] == stage["bytes_in"] - stage["bytes_removed"] + stage["bytes_added"]
    assert stages[0]["bytes_added"] > 0


def test_a_token_beyond_the_vocabulary_is_refused_and_never_wraps(tmp_path):
    pytest.importorskip("tokenizers", reason="needs the extra `data`")
    tokenizer = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None}
    tokenizer |= {"pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": None, "decoder": None}
    tokenizer["model"] = {"type": "WordLevel", "vocab": {"a": 0, "b": 70_000}, "unk_token": "a"}
    (tmp_path / "gaps.json").write_text(json.dumps(tokenizer))
    with pytest.raises(CorpusError, match="tokens from 0 to 70000 in a vocabulary of 2"):
        corpus_of(tmp_path, two(lambda end: f"a b {end}".encode()), tokenizer=str(tmp_path / "gaps.json"))


def test_patterns_name_files_and_folders_are_explained(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a[1].txt", "sub/b.txt", "sub/deep/c.txt", ".hidden/d.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    os.mkfifo("pipe")
    os.symlink(tmp_path, "sub/round")
    os.symlink(tmp_path / "sub", "sub/deep/again")
    os.symlink("itself", "itself")

    def names(*patterns):
        return [name for name, _ in matching_files(list(patterns))]

    assert names("a[1].txt") == ["a[1].txt"]
    assert names("**/*.txt") == names(f"{tmp_path}/**/*.txt") == ["a[1].txt", "sub/b.txt", "sub/deep/c.txt"]
    assert names("sub/**/[bc].txt") == ["b.txt", "deep/c.txt"]
    with pytest.raises(CorpusError, match=rf"matches the folder sub but no file; .* write {re.escape('sub/**/*')}"):
        matching_files(["sub"])
    for name in ("pipe", "itself"):
        with pytest.raises(CorpusError, match=f"matches {name}, which is no regular file"):
            matching_files([name])
    with pytest.raises(CorpusError, match=r"'no\*' matches no file"):
        matching_files(["no*"])


def test_a_local_data_set_that_is_not_utf_8_is_named(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets", reason="needs the extra `data`")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.txt").write_bytes("\u0416\u0437\n".encode("cp1251") * 50)
    spec = DataSpec(name="h", source="huggingface", hub=HubSpec(name=str(tmp_path / "set")), context_length=8)
    with pytest.raises(CorpusError, match=r"is not UTF-8 .*data\.encoding|cannot open"):
        prepare(spec, tmp_path / "c")


# Every choice of `data` that reads files.

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
    chosen = OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / "data" / f"{choice}.yaml"))
    chosen |= {"files": [f"{folder}/*"], "encoding": encoding, "held_out_fraction": 0.3, "context_length": 8}
    if choice == "bpe":
        chosen["vocab_size"] = 270
    if "clean" in chosen:  # what drops documents is not in question here
        chosen["clean"] = [stage for stage in chosen["clean"] if stage in ("unicode", "control")]
    return DataSpec(**chosen)


def decoded_by_its_tokenizer(corpus):
    file = corpus.folder / "tokenizer.json"
    tokenizer = Library(file.read_text(encoding="utf-8")) if corpus.tokenizer_id.startswith("tokenizer-") else Bytes()
    return "".join(tokenizer.decode(side.tolist()) for side in (corpus.train, corpus.held_out))


def test_every_choice_is_known_here():
    others = {"huggingface", "installed-source", "python-source", "synthetic", "tokens"}
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
            text = decoded_by_its_tokenizer(prepare(data_of(choice, folder, encoding), tmp_path / "corpora"))
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
    text = decoded_by_its_tokenizer(prepare(data_of("text", folder, "utf-8"), tmp_path / "corpora"))
    assert sorted(text.splitlines()) == sorted("".join(written).splitlines())
