"""Data sets of `datasets`, from a local folder and without a network: the same code path that the Hub takes."""

import importlib
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from isoflop.experiments.config import DataSpec, HubSpec, saved_data
from isoflop.experiments.data import CorpusError, hub
from isoflop.experiments.data.corpus import prepare

TEXTS = [f"document {i} caf\u00e9 " * (1 + i % 5) for i in range(60)]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    datasets = importlib.import_module("datasets")  # not where tests are collected: it takes half a second
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "set"
    folder.mkdir()
    write(folder / "train.jsonl", TEXTS)
    write(folder / "validation.jsonl", ["another split"])
    return folder


def write(path, texts):
    path.write_text("".join(json.dumps({"text": text, "id": i}) + "\n" for i, text in enumerate(texts)))


def spec(folder, *, skip_bad=False, text_column="text", **hub):
    return DataSpec(
        name="set", source="huggingface", hub=HubSpec(name=str(folder), **hub), held_out_fraction=0.3,
        context_length=8, skip_bad=skip_bad, text_column=text_column,
    )  # fmt: skip


def text_of(corpus):
    return [side.astype(np.uint8).tobytes().decode() for side in (corpus.train, corpus.held_out)]


def test_a_local_folder_is_streamed_into_a_corpus(folder, tmp_path):
    corpus = prepare(spec(folder), tmp_path / "c")
    reported = corpus.manifest
    assert reported["read"] == {"documents": 60, "bytes": sum(len(text.encode()) for text in TEXTS)}
    assert sorted("".join(text_of(corpus))) == sorted("".join(TEXTS))
    assert reported["recipe"]["hub"]["split"] == "train"
    assert not list(corpus.folder.glob("raw*"))
    assert [p.name for p in (tmp_path / "c").iterdir()] == [corpus.folder.name]


@pytest.mark.slow
def test_a_broken_stream_goes_on_where_it_broke(folder, tmp_path, monkeypatch):
    whole = prepare(spec(folder), tmp_path / "whole")
    monkeypatch.setattr(hub, "RAW_BYTES", 500)
    pulled, texts = [], hub._texts

    def cut(dataset, data, first):
        for i, text in enumerate(texts(dataset, data, first), first):
            if len(pulled) == 40:
                raise hub.StreamError("the stream broke")
            pulled.append(i)
            yield text

    monkeypatch.setattr(hub, "_texts", cut)
    with pytest.raises(CorpusError, match="the stream broke"):
        prepare(spec(folder), tmp_path / "c")
    (work,) = (path for path in (tmp_path / "c").iterdir() if path.is_dir())
    kept = sum(pq.read_metadata(path).num_rows for path in work.glob("raw-*.parquet"))
    assert 30 < kept <= 40
    monkeypatch.setattr(hub, "_texts", lambda d, s, first: pulled.append(first) or texts(d, s, first))
    resumed = prepare(spec(folder), tmp_path / "c")
    assert pulled[-1] == kept
    assert resumed.manifest["read"] == whole.manifest["read"]
    assert sorted("".join(text_of(resumed))) == sorted("".join(text_of(whole)))


@pytest.mark.parametrize(
    "about", [{}, {"rows": "x", "bytes": "1"}, {"rows": "-1", "bytes": "1"}, {"rows": "9", "bytes": "1"}]
)
def test_what_a_stream_left_and_cannot_be_counted_is_named(tmp_path, about):
    path = tmp_path / "raw-0.parquet"
    pq.write_table(pa.table({"text": ["a", "b"]}).replace_schema_metadata(about), path)
    with pytest.raises(CorpusError, match=r"raw-0.parquet: damaged .*delete its folder and prepare again"):
        hub.counted(path)
    path.write_bytes(b"PAR1")
    with pytest.raises(CorpusError, match=r"raw-0.parquet: damaged"):
        hub.counted(path)
    pq.write_table(pa.table({"text": ["a", "b"]}).replace_schema_metadata({"rows": "2", "bytes": "2"}), path)
    assert hub.counted(path) == (2, 2)


def test_so_many_bytes_are_enough(folder, tmp_path):
    corpus = prepare(spec(folder, max_bytes=1000), tmp_path / "c")
    assert 1000 <= corpus.manifest["read"]["bytes"] < 1100
    assert corpus.folder != prepare(spec(folder), tmp_path / "c").folder


def test_another_text_in_the_folder_is_another_corpus(folder, tmp_path):
    first = prepare(spec(folder), tmp_path / "c")
    write(folder / "train.jsonl", TEXTS[1:])
    assert prepare(spec(folder), tmp_path / "c").corpus_id != first.corpus_id


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": ""}, r"data\.hub\.name is empty"),
        ({"name": "owner/no-such-set"}, r"cannot open 'owner/no-such-set', split 'train' \(.*a local folder"),
        ({"split": "trian"}, r"cannot open .*Bad split: trian\. Available splits: \['train', 'validation'\]"),
        ({"text_column": "txt"}, r"row 1: no column data\.text_column='txt'; did you mean 'text'\? there are text, id"),
        ({"text_column": "id"}, r"row 1: 'id' is not text; data\.skip_bad=true skips"),
        ({"max_bytes": 0}, r"data\.hub\.max_bytes must be at least 1; not 0"),
    ],
)
def test_what_is_not_there_is_refused_and_leaves_nothing(folder, tmp_path, change, message):
    with pytest.raises(CorpusError, match=message) as caught:
        prepare(spec(**({"folder": change.pop("name", folder)} | change)), tmp_path / "c")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "c").exists() or not list((tmp_path / "c").iterdir())


def test_rows_without_text_are_counted_where_that_is_asked_for(folder, tmp_path):
    write(folder / "train.jsonl", [*TEXTS[:40], None, *TEXTS[40:]])
    corpus = prepare(spec(folder, skip_bad=True), tmp_path / "c")
    assert corpus.manifest["skipped"] == {"text that is none": 1}
    assert corpus.manifest["read"]["documents"] == 60


def test_without_the_library_the_extra_is_named(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "find_spec", lambda name: None)
    with pytest.raises(CorpusError, match=r"needs the datasets library; pip install 'isoflop\[data\]'"):
        prepare(spec(folder), tmp_path / "c")


def test_a_data_spec_of_an_older_run_is_read(folder):
    assert saved_data({"name": "set", "synthetic": {"vocab_size": 5}}).synthetic.vocab_size == 5
    assert saved_data({"hub": {"name": "x"}}).hub == HubSpec(name="x")
