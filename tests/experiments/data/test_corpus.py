"""A corpus is the same whenever and wherever it is prepared, its sides share no document, and damage is noticed."""

import errno
import hashlib
import json
import math
import os
import struct
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from isoflop.experiments.config import DataSpec, SyntheticSpec
from isoflop.experiments.data import CorpusError
from isoflop.experiments.data import corpus as corpus_module
from isoflop.experiments.data.batches import id_of_tokens, spread_windows
from isoflop.experiments.data.corpus import prepare
from isoflop.experiments.data.sources import python_sources

SMALL = SyntheticSpec(vocab_size=12, tokens=60_000, chains=100)


@pytest.fixture
def texts(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    for i in range(30):
        (folder / f"{i:02}.txt").write_text(f"document {i}\n" * 40)
    (folder / "empty.txt").write_text("")
    (folder / "copy.txt").write_text("document 3\n" * 40)
    return folder


def text_spec(folder, **changes):
    return DataSpec(name="text", source="files", files=[f"{folder}/**/*.txt"], context_length=16, **changes)


def test_python_sources_have_no_tests_and_stay_in_order():
    names = [name for name, _ in python_sources()]
    assert len(names) > 400
    assert names == sorted(names)
    assert "json/decoder.py" in names
    left_out = {"test", "tests", "idlelib", "site-packages"}
    assert not [name for name in names if left_out & set(name.split("/"))]


@pytest.mark.slow
def test_default_corpus(tmp_path):
    corpus = prepare(DataSpec(), tmp_path)
    assert (corpus.vocab_size, corpus.tokenizer_id, corpus.bytes_per_token) == (256, "bytes", 1.0)
    assert corpus.eval_windows.shape == (2048, 65)
    assert 0.8 / 12 <= corpus.held_out_tokens / (corpus.held_out_tokens + corpus.train_tokens) <= 1.2 / 12
    assert math.isnan(corpus.loss_floor)
    assert "PSF" in corpus.manifest["licence"]
    assert corpus.manifest["train"]["tokens"] == corpus.train_tokens == len(corpus.train)


def test_shards_are_readable_as_llm_c(tmp_path, texts):
    corpus = prepare(text_spec(texts), tmp_path)
    raw = (corpus.folder / "train.bin").read_bytes()
    header = np.frombuffer(raw[:1024], np.int32)
    assert tuple(header[:3]) == (20240520, 1, corpus.train_tokens)
    assert np.frombuffer(raw[1024:], np.uint16).astype(np.uint8).tobytes() == corpus.train.astype(np.uint8).tobytes()


def test_every_document_is_on_one_side_and_copies_on_none(tmp_path, texts):
    for i in range(30, 120):
        (texts / f"{i:02}.txt").write_text(f"document {i}\n" * 40)
    corpus = prepare(text_spec(texts), tmp_path)
    assert corpus.manifest["train"]["documents"] + corpus.manifest["held_out"]["documents"] == 120
    train, held = (side.astype(np.uint8).tobytes().decode() for side in (corpus.train, corpus.held_out))
    sides = [(f"document {i}\n" in held, f"document {i}\n" in train) for i in range(120)]
    assert set(sides) == {(True, False), (False, True)}
    assert 8 <= sum(held for held, _ in sides) <= 12  # a twelfth


def test_of_few_documents_one_is_divided(tmp_path, texts):
    corpus = prepare(text_spec(texts, held_out_fraction=0.05), tmp_path)
    assert corpus.manifest["train"]["documents"] + corpus.manifest["held_out"]["documents"] == 31
    assert 0.8 * 0.05 <= corpus.held_out_tokens / (corpus.held_out_tokens + corpus.train_tokens) <= 1.2 * 0.05
    for side in (corpus.train, corpus.held_out):
        assert all(line.startswith("document ") for line in side.astype(np.uint8).tobytes().decode().splitlines())


KIB = 1024


def held_lines(spec, root):
    """The held-out lines of a corpus, and the held-out share of its bytes."""
    corpus = prepare(spec, root)
    share = corpus.held_out_tokens / (corpus.held_out_tokens + corpus.train_tokens)
    return set(corpus.held_out.astype(np.uint8).tobytes().splitlines()), share


@pytest.mark.slow
@pytest.mark.parametrize("kib", [100, 700, 1100, 1300, 5000])  # 2, 11, 18, 21 and 79 pieces
def test_a_single_file_of_any_name_and_size_is_split_alike(tmp_path, kib):
    lines = "".join(f"line {i} of {kib} {i * 2654435761 % 2**32:x}\n" for i in range(kib * KIB // 25))
    found = []
    for name in ("a.txt", "notes.md", "x/y#3.txt") if kib > 2000 else [f"{i}/book {i * 7}.txt" for i in range(20)]:
        file = tmp_path / "texts" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(lines)
        found.append(held_lines(DataSpec(name="t", source="files", files=[str(file)]), tmp_path / "c"))
        file.unlink()
    assert all(one == found[0] for one in found)
    assert 0.8 / 12 <= found[0][1] <= 1.2 / 12


def test_files_of_a_neighbouring_folder_move_no_document(tmp_path, texts):
    spec = text_spec(texts)
    alone, _ = held_lines(spec, tmp_path / "c")
    (tmp_path / "other").mkdir()
    for count in range(3):
        (tmp_path / "other" / f"{count}.txt").write_text(f"a neighbour {count}\n" * 100)
        both, share = held_lines(replace(spec, files=[*spec.files, f"{tmp_path}/other/*"]), tmp_path / "c")
        assert {line for line in both if line.startswith(b"document")} == alone
        assert 0.8 / 12 <= share <= 1.2 / 12


def test_the_split_does_not_depend_on_where_the_files_are(tmp_path, texts):
    moved = tmp_path / "elsewhere"
    os.rename(texts, moved)
    texts.mkdir()
    for file in moved.iterdir():
        (texts / file.name).write_bytes(file.read_bytes())
    ids = {prepare(text_spec(folder), tmp_path / "corpora").corpus_id for folder in (texts, moved)}
    assert len(ids) == 1


def test_one_long_file_is_cut_at_lines_into_documents(tmp_path):
    (tmp_path / "book.txt").write_text("".join(f"line {i}\n" for i in range(300_000)))
    corpus = prepare(DataSpec(name="book", source="files", files=[str(tmp_path / "book.txt")]), tmp_path / "c")
    assert corpus.manifest["train"]["documents"] > 20
    assert corpus.train_tokens + corpus.held_out_tokens == (tmp_path / "book.txt").stat().st_size
    assert corpus.held_out.astype(np.uint8).tobytes().startswith(b"line ")


def test_second_call_reads_the_same_folder_and_a_changed_file_makes_another(tmp_path, texts):
    first = prepare(text_spec(texts), tmp_path)
    written = (first.folder / "manifest.json").stat().st_mtime_ns
    again = prepare(text_spec(texts), tmp_path)
    assert (again.folder, again.corpus_id, again.eval_id) == (first.folder, first.corpus_id, first.eval_id)
    assert (again.folder / "manifest.json").stat().st_mtime_ns == written
    (texts / "07.txt").write_text("changed\n")
    changed = prepare(text_spec(texts), tmp_path)
    assert changed.folder != first.folder
    assert changed.corpus_id != first.corpus_id


@pytest.mark.parametrize("kib", [1, 64, 700])
@pytest.mark.parametrize("at", ["start", "end"])
def test_other_content_of_the_same_size_and_time_is_another_corpus(tmp_path, at, kib):
    file = tmp_path / "x.txt"

    def made(letter):
        lines = [f"line {i} {i * 2654435761 % 2**32:x}\n" for i in range(kib * KIB // 16)]
        lines[0 if at == "start" else -1] = f"{letter * 20}\n"
        file.write_text("".join(lines))
        os.utime(file, (1, 1))
        return prepare(DataSpec(name="t", source="files", files=[str(file)]), tmp_path / "c")

    first, second, again = made("a"), made("b"), made("a")
    assert first.corpus_id == again.corpus_id != second.corpus_id
    assert first.folder == again.folder != second.folder
    assert made("b").folder == second.folder


def test_a_corpus_that_states_no_samples_is_found_by_its_recipe(tmp_path, texts):
    manifest = prepare(text_spec(texts), tmp_path).folder / "manifest.json"
    stated = json.loads(manifest.read_text())
    del stated["samples"]
    manifest.write_text(json.dumps(stated))
    assert prepare(text_spec(texts), tmp_path).folder == manifest.parent


def test_a_preparation_goes_on_from_parts_of_the_same_content_alone(tmp_path, monkeypatch):
    file = tmp_path / "x.txt"
    spec = DataSpec(name="t", source="files", files=[str(file)])
    for letter in "ab":
        file.write_text("".join(f"{letter}{i}\n" for i in range(4000)))
        os.utime(file, (1, 1))
        if letter == "a":
            with monkeypatch.context() as killed:
                killed.setattr("isoflop.experiments.data.shards._held_out", lambda *_: sys.exit(9))
                with pytest.raises(SystemExit):
                    prepare(spec, tmp_path / "c")
            assert list((tmp_path / "c").glob(".*.work/part-0.text"))
    assert set(prepare(spec, tmp_path / "c").train.tolist()) <= set(b"b0123456789\n")


def test_context_changes_the_windows_but_not_the_corpus(tmp_path, texts):
    short, long = prepare(text_spec(texts), tmp_path), prepare(replace(text_spec(texts), context_length=32), tmp_path)
    assert short.corpus_id == long.corpus_id
    assert short.eval_id != long.eval_id


@pytest.mark.process
def test_two_processes_at_once_end_with_one_corpus(tmp_path):
    spec = DataSpec(name="synthetic", source="synthetic", tokenizer="none", context_length=8, synthetic=SMALL)
    with ProcessPoolExecutor(2) as pool:
        first, second = (f.result() for f in [pool.submit(prepare, spec, tmp_path) for _ in range(2)])
    assert first.corpus_id == second.corpus_id
    assert [p.name for p in tmp_path.iterdir()] == [first.folder.name]


def test_a_failed_preparation_leaves_nothing(tmp_path, texts, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("isoflop.experiments.data.shards._start_shard", full)
    with pytest.raises(CorpusError, match=r"no space left on device.*make room, or name another folder"):
        prepare(text_spec(texts), tmp_path / "corpora")
    assert list((tmp_path / "corpora").iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"files": []}, r"data.files is empty"),
        ({"files": ["/nowhere/*.txt"]}, r"'/nowhere/\*.txt' matches no file"),
        ({"source": "web"}, r"data.source must be one of .*, files, huggingface, tokens, synthetic; not 'web'"),
        ({"tokenizer": "gpt2"}, r"data.tokenizer must be bytes, bpe or a tokenizer.json with data.source=files"),
        ({"clean": ["polish"]}, r"data.clean: no stage 'polish'; stages are unicode, control"),
        ({"held_out_fraction": 0.0}, r"data.held_out_fraction must lie between 0 and 1; not 0.0"),
        ({"held_out_fraction": 1e-9}, r"no document falls on the held-out side \(30 in all\)"),
        ({"context_length": 50_000}, r"fewer than one window of data.context_length=50000"),
    ],
)
def test_what_cannot_be_a_corpus_is_refused_by_name(tmp_path, texts, change, message):
    with pytest.raises(CorpusError, match=message):
        prepare(replace(text_spec(texts), **change), tmp_path)


def test_an_unreadable_file_is_named(tmp_path, texts, monkeypatch):
    def denied(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("isoflop.experiments.data.records.pa.input_stream", denied)
    with pytest.raises(CorpusError, match=r"cannot read .*00.txt \(Permission denied\)"):
        prepare(text_spec(texts), tmp_path)


@pytest.mark.parametrize("pattern", ["*.txt", "**/*.txt", "**/lost.txt"])
def test_a_link_to_nothing_is_named(tmp_path, texts, pattern):
    (texts / "lost.txt").symlink_to(tmp_path / "unmounted" / "lost.txt")
    spec = DataSpec(name="t", source="files", files=[f"{texts}/{pattern}"])
    with pytest.raises(
        CorpusError, match=r"lost\.txt(, a link to nothing that is here \(.*unmounted|, which is no regular)"
    ):
        prepare(spec, tmp_path / "c")


@pytest.mark.parametrize(("count", "reported"), [(1, r"0\.txt holds none"), (3, r"0\.txt and 2 more hold none")])
def test_empty_files_are_named(tmp_path, count, reported):
    for number in range(count):
        (tmp_path / f"{number}.txt").write_bytes(b"")
    with pytest.raises(CorpusError, match=rf"no document is left of 0 \(.*/{reported}\)"):
        prepare(DataSpec(name="t", source="files", files=[f"{tmp_path}/*.txt"]), tmp_path / "c")


def test_a_folder_that_cannot_be_read_is_named(tmp_path, texts, monkeypatch):
    (texts / "locked").mkdir()
    scandir = os.scandir

    def refuse(path="."):
        if os.fspath(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(CorpusError, match=r"data\.files: .*/texts/locked cannot be read \(Permission denied\)"):
        prepare(text_spec(texts), tmp_path / "c")


def test_a_damaged_shard_is_noticed(tmp_path, texts):
    corpus = prepare(text_spec(texts), tmp_path)
    shard = corpus.folder / "train.bin"
    shard.write_bytes(shard.read_bytes()[:-2])
    with pytest.raises(CorpusError, match=r"train.bin is not what its manifest says; delete the folder"):
        prepare(text_spec(texts), tmp_path)


def resealed(folder, **change):
    """The manifest as somebody would write it who wants his shard to pass."""
    path = folder / "manifest.json"
    stated = json.loads(path.read_text()) | change
    content = (folder / "train.bin").read_bytes()[1024:]
    stated["train"]["sha256"] = hashlib.sha256(content).hexdigest()
    stated["corpus_id"] = id_of_tokens(stated)
    path.write_text(json.dumps(stated))


@pytest.mark.parametrize("token", [33, 256, 65535])
def test_no_step_gets_a_token_that_its_manifest_does_not_state_or_that_no_row_stands_for(tmp_path, texts, token):
    """A step reads and writes memory by its tokens."""
    corpus = prepare(text_spec(texts), tmp_path)
    shard = corpus.folder / "train.bin"
    content = bytearray(shard.read_bytes())
    content[1024 + 200 : 1024 + 202] = token.to_bytes(2, "little")
    shard.write_bytes(content)
    with pytest.raises(CorpusError, match=r"train.bin is not what its manifest says; delete the folder"):
        prepare(text_spec(texts), tmp_path)
    resealed(corpus.folder)
    if token < 256:
        assert prepare(text_spec(texts), tmp_path).train[100] == token
        return
    with pytest.raises(CorpusError, match=r"train.bin is not what its manifest says") as error:
        prepare(text_spec(texts), tmp_path)
    assert f"token {token} at position 100 is beyond data.vocab_size=256" in str(error.value.__cause__)


def test_a_manifest_whose_id_is_not_that_of_its_tokens_is_refused(tmp_path, texts):
    path = prepare(text_spec(texts), tmp_path).folder / "manifest.json"
    stated = json.loads(path.read_text())
    for change in ({"corpus_id": "0" * 12}, {"vocab_size": 300}):
        path.write_text(json.dumps(stated | change))
        with pytest.raises(CorpusError, match=r"manifest.json: its corpus_id is not that of what it states"):
            prepare(text_spec(texts), tmp_path)


@pytest.mark.parametrize(
    "ends", [b"", b"123", struct.pack("<2q", 5, 3), struct.pack("<2q", -1, 7), struct.pack("<q", 1)]
)
def test_ends_of_documents_that_do_not_fit_are_named(tmp_path, texts, ends):
    corpus = prepare(text_spec(texts), tmp_path)
    assert corpus.document_ends[-1] == corpus.held_out_tokens
    (corpus.folder / "held_out.documents").write_bytes(ends)
    with pytest.raises(CorpusError, match=r"held_out.documents: not the ends of its held-out documents"):
        _ = prepare(text_spec(texts), tmp_path).document_ends
    (corpus.folder / "held_out.documents").unlink()
    assert prepare(text_spec(texts), tmp_path).document_ends is None


def test_evaluation_windows_are_spread_over_everything():
    windows = spread_windows(np.arange(1000, dtype=np.uint16), context_length=9, n_tokens=90)
    assert windows[:, 0].tolist() == list(range(0, 1000, 100))
    assert (np.diff(windows) == 1).all()
    assert len(spread_windows(np.arange(1000, dtype=np.uint16), context_length=9, n_tokens=10**6)) == 100


def test_unique_tokens_cap_what_is_trained_on_and_nothing_else(tmp_path, texts):
    whole = prepare(text_spec(texts), tmp_path)
    part, less = (prepare(replace(text_spec(texts), unique_tokens=n), tmp_path) for n in (1600, 800))
    assert (part.train_tokens, less.train_tokens) == (100 * 17, 50 * 17)
    assert len({whole.corpus_id, part.corpus_id, less.corpus_id}) == 3
    assert whole.folder == part.folder
    assert whole.eval_id == part.eval_id
    known = {tuple(w) for w in spread_windows(whole.train, context_length=16, n_tokens=10**9).tolist()}
    assert {tuple(w) for w in part.train.reshape(-1, 17).tolist()} <= known
    with pytest.raises(CorpusError, match=r"data.unique_tokens=999999 must lie between one window of 16 and the"):
        prepare(replace(text_spec(texts), unique_tokens=999_999), tmp_path)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_a_disk_that_refuses_names_the_folder_and_the_remedy(text, tmp_path, monkeypatch, number):
    def refuse(folder, *rest):
        raise OSError(number, os.strerror(number), str(folder / "train.bin"))

    monkeypatch.setattr(corpus_module, "write_corpus", refuse)
    data = DataSpec(name="t", source="files", files=[f"{text}/*.txt"])
    reason = os.strerror(number).lower()
    reported = rf"where.corpora={tmp_path}/c: the corpus t cannot be written \({reason}: .*train.bin\); make room"
    with pytest.raises(CorpusError, match=reported):
        prepare(data, tmp_path / "c")
