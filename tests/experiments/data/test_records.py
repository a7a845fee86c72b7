"""Documents are read from lines of JSON, rows of parquet and files of text; what cannot be read is named or counted."""

import gzip
import json
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from isoflop.experiments.config import DataSpec
from isoflop.experiments.data import CorpusError
from isoflop.experiments.data.corpus import prepare
from isoflop.experiments.data.records import documents

TEXTS = ["one", "two \u00e9\n", "three \U0001f642"]
LINES = "".join(json.dumps({"text": text, "id": i}) + "\n" for i, text in enumerate(TEXTS)).encode()


def read(path, *, column="text", skip_bad=False):
    bad = Counter()
    found = list(documents(path.name, path, column=column, skip_bad=skip_bad, skipped=bad))
    return [(d.name, d.content.decode()) for d in found], dict(bad)


def write(path, content):
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(content))
    elif path.suffix == ".zst":
        with pa.output_stream(str(path), compression="zstd") as stream:
            stream.write(content)
    else:
        path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst"])
def test_a_line_of_json_is_a_document(tmp_path, name):
    found, bad = read(write(tmp_path / name, LINES + b"\n"))
    assert found == [(f"{name}#{i + 1}", text) for i, text in enumerate(TEXTS)]
    assert bad == {}


def test_a_row_of_parquet_is_a_document(tmp_path):
    pq.write_table(pa.table({"body": [*TEXTS, None], "n": [1, 2, 3, 4]}), tmp_path / "a.parquet")
    with pytest.raises(CorpusError, match=r"a\.parquet: row 4: 'body' is not text.*data\.skip_bad=true"):
        read(tmp_path / "a.parquet", column="body")
    with pytest.raises(CorpusError, match=r"row 1: 'n' is not text"):
        read(tmp_path / "a.parquet", column="n")
    found, bad = read(tmp_path / "a.parquet", column="body", skip_bad=True)
    assert [text for _, text in found] == TEXTS
    assert bad == {"text that is none": 1}
    with pytest.raises(CorpusError, match=r"text_column='boddy'; did you mean 'body'\? there are body, n"):
        read(tmp_path / "a.parquet", column="boddy")
    (tmp_path / "b.parquet").write_bytes(b"PAR1 not")
    with pytest.raises(CorpusError, match="not a parquet file"):
        read(tmp_path / "b.parquet")


@pytest.mark.parametrize(
    ("line", "message", "reason"),
    [
        (b'{"text": "x"', "line 2 is not a JSON object", "broken JSON line"),
        (b'["text"]', "line 2 is not a JSON object", "broken JSON line"),
        (b'{"text": 3}', "line 2: 'text' is not text", "text that is none"),
    ],
)
def test_a_broken_line_is_named_or_counted(tmp_path, line, message, reason):
    first, rest = LINES.split(b"\n", 1)
    path = write(tmp_path / "a.jsonl", b"\n".join([first, line, rest]))
    with pytest.raises(CorpusError, match=f"a.jsonl: {message}.*data.skip_bad=true"):
        read(path)
    found, bad = read(path, skip_bad=True)
    assert [text for _, text in found] == TEXTS
    assert bad == {reason: 1}


def test_a_wrong_column_is_named_with_the_nearest(tmp_path):
    with pytest.raises(CorpusError, match=r"data.text_column='txt'; did you mean 'text'\? there are text, id"):
        read(write(tmp_path / "a.jsonl", LINES), column="txt", skip_bad=True)


def test_a_binary_file_is_refused_or_counted(tmp_path):
    path = write(tmp_path / "a.txt", b"PK\x00\x01")
    with pytest.raises(CorpusError, match=r"a\.txt is binary"):
        read(path)
    assert read(path, skip_bad=True) == ([], {"binary file": 1})


def test_damaged_compression_is_named(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(b"not gzip at all")
    with pytest.raises(CorpusError, match=r"cannot read .*a\.jsonl\.gz"):
        read(path)


def test_the_manifest_counts_what_was_skipped(tmp_path):
    for i in range(20):
        write(tmp_path / f"{i}.jsonl", json.dumps({"text": f"{i} " * 50}).encode() + b"\n{broken\n")
    spec = DataSpec(
        name="t", source="files", files=[f"{tmp_path}/*.jsonl"], context_length=8, skip_bad=True, held_out_fraction=0.3
    )
    corpus = prepare(spec, tmp_path / "c")
    assert corpus.manifest["skipped"] == {"broken JSON line": 20}
    assert corpus.manifest["read"]["documents"] == 20
