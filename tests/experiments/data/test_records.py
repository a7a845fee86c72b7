"""Documents are read from lines of JSON, rows of parquet and files of text; what cannot be read is named or counted."""

import csv
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


SPEECH = [
    *(f"line {i} of text" for i in range(10)), '"Open quote', "it's", 'a "b" c', '""', '"all of it"', 'ends here"',
    '"', '"a ""b"" c"', "'", 'say ""', "",
]  # fmt: skip
SPOKEN = {
    "quotes of all kinds": SPEECH, "one whole quote": [*SPEECH[:10], '"all of it"'], "none": SPEECH[:10],
    "quotes to pair": ['"Open quote', *SPEECH[:10], 'ends here"', "last"], "a doubled one": ['He said ""no"".', "x"],
}  # fmt: skip


@pytest.mark.parametrize("texts", SPOKEN.values(), ids=SPOKEN)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_quotes_in_a_tsv_are_text(tmp_path, texts, newline):
    rows = ["id\ttext", *(f"{i}\t{text}" for i, text in enumerate(texts))]
    found, bad = read(write(tmp_path / "a.tsv", newline.join(rows).encode()))
    assert ([text for _, text in found], bad) == (texts, {})


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
@pytest.mark.parametrize("texts", [*SPOKEN.values(), ['a "b"\nc', "x"], ["a\tb", '"'], ["a\n\nb", "c\td"]])
def test_a_tsv_that_was_written_as_a_csv_is_read_as_one(tmp_path, quoting, texts):
    with (tmp_path / "a.tsv").open("w", newline="") as file:
        csv.writer(file, delimiter="\t", quoting=quoting).writerows([["id", "text"], *enumerate(texts)])
    found, bad = read(tmp_path / "a.tsv")
    assert ([text for _, text in found], bad) == (texts, {})


@pytest.mark.parametrize(
    ("name", "remedy"), [("a.csv", "quote cells that hold a comma"), ("a.tsv", "write tabs within")]
)
def test_a_row_with_more_cells_than_the_header_is_named(tmp_path, name, remedy):
    between = "," if name == "a.csv" else "\t"
    path = write(tmp_path / name, "id,text\n1,one\n2,two, three\n3,four\n".replace(",", between).encode())
    with pytest.raises(CorpusError, match=rf"{name}: row 2 has 3 cells under a header of 2; {remedy}.*skip_bad=true"):
        read(path)
    found, bad = read(path, skip_bad=True)
    assert ([text for _, text in found], bad) == (["one", "four"], {"row too long": 1})


PARQUET_KINDS = {
    "text": lambda values: values,
    "large": lambda values: values.cast(pa.large_string()),
    "view": lambda values: values.cast(pa.string_view()) if hasattr(pa, "string_view") else values,
    "dictionary": lambda values: values.dictionary_encode(),
    "dictionary of large": lambda values: values.cast(pa.large_string()).dictionary_encode(),
    "bytes": lambda values: values.cast(pa.binary()),
    "dictionary of bytes": lambda values: values.cast(pa.binary()).dictionary_encode(),
}


@pytest.mark.parametrize("convert", PARQUET_KINDS.values(), ids=PARQUET_KINDS)
def test_a_bad_byte_of_parquet_is_named_in_every_kind_of_column(tmp_path, convert):
    content = pa.array([*(text.encode() for text in TEXTS), b"caf\xe9", b"last"])
    texts = pa.StringArray.from_buffers(len(content), content.buffers()[1], content.buffers()[2])
    pq.write_table(pa.table({"text": convert(texts)}), tmp_path / "a.parquet")
    with pytest.raises(CorpusError, match=r"a\.parquet: row 4: byte 3 of 'text' is not utf-8; or data\.skip_bad=true"):
        read(tmp_path / "a.parquet")
    found, bad = read(tmp_path / "a.parquet", skip_bad=True)
    assert ([text for _, text in found], bad) == ([*TEXTS, "last"], {"text that is not utf-8": 1})


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
