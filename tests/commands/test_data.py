"""isoflop prepare as it is typed: what no corpus can be made of ends in one line, and nothing half-written is left."""

import json
import os
import signal
import struct
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

from isoflop.experiments.data.tokenizer import TokenizerError, find_tokenizer


@pytest.fixture(autouse=True)
def inside(tmp_path, monkeypatch):
    """Commands are typed in an empty folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture
def texts(tmp_path):
    """Forty lines of JSON and forty files of text, none like another."""
    folder = tmp_path / "texts"
    folder.mkdir()
    rng = np.random.default_rng(0)
    words = [" ".join(f"w{n}" for n in rng.integers(0, 9000, 40)) for _ in range(40)]
    (folder / "all.jsonl").write_text(
        "".join(json.dumps({"text": text, "id": i}) + "\n" for i, text in enumerate(words))
    )
    for i, text in enumerate(words):
        (folder / f"{i}.txt").write_text(text)
    return folder


def prepare(typed, pattern, *options, data="text"):
    return typed("prepare", f"data={data}", f"data.files=[{pattern}]", "data.held_out_fraction=0.3", *options)


def damage(texts, name):
    """Put what one kind of bad input is into the folder; returns the pattern that matches it."""
    lines = (texts / "all.jsonl").read_text().splitlines()
    content = {
        "empty.txt": b"",
        "binary.txt": b"\x89PNG\r\n\x1a\n\x00\x00 and more",
        "broken.jsonl": "\n".join([*lines[:6], '{"text": "cut o', *lines[6:]]).encode(),
        "tokens.bin": struct.pack("<200H", *[7, 300] * 100),
        "short.txt": b"too short for a window\n",
    }
    (texts / name).write_bytes(content[name])
    return texts / name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("empty.txt", (), "corpus text: no document is left of 0"),
        ("binary.txt", (), "binary.txt is binary (a zero byte); leave it out of the globs; or data.skip_bad=true"),
        ("broken.jsonl", (), "broken.jsonl: line 7 is not a JSON object"),
        ("broken.jsonl", ("data.skip_bad=true", "data.text_column=txt"), "did you mean 'text'? there are text, id"),
        ("tokens.bin", ("data=tokens", "data.vocab_size=256"), "token 300 at position 1 is beyond data.vocab_size=256"),
        ("short.txt", ("data=clean-text",), "no document is left of 1 (1 by length)"),
        ("short.txt", ("data.tokenizer=bpe", "data.vocab_size=100"), "data.vocab_size must be at least 256"),
        ("short.txt", ("data.tokenizer=no.json",), "data.tokenizer: no.json is not a file"),
        ("short.txt", ("data.clean=[polish]",), "data.clean: no stage 'polish'"),
        (
            "short.txt",
            ("data.source=web",),
            "data.source must be one of python-source, installed-source, files, huggingface, tokens",
        ),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(typed, texts, tmp_path, name, options, message):
    pattern = damage(texts, name)
    data = next((option[5:] for option in options if option.startswith("data=")), "text")
    code, out, err = prepare(typed, pattern, *[o for o in options if not o.startswith("data=")], data=data)
    assert (code, out) == (2, "")
    assert message in err
    assert err.startswith("isoflop: ")
    assert err.count("\n") == 1
    corpora = tmp_path / "here" / "corpora"
    assert not corpora.exists() or not list(corpora.iterdir())


def test_a_text_too_short_for_one_window_is_one_line(typed, texts):
    code, out, err = prepare(typed, damage(texts, "short.txt"), data="text")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "its train side has 16 tokens, fewer than one window of data.context_length=64 + 1; add text" in err


@pytest.mark.slow
def test_bad_lines_and_files_are_skipped_and_counted_where_that_is_asked_for(typed, texts):
    for name in ("broken.jsonl", "binary.txt"):
        damage(texts, name)
    code, out, _ = prepare(typed, f"{texts}/b*", "data.skip_bad=true", "--json")
    assert code == 0
    reported = json.loads(out)
    assert reported["skipped"] == {"binary file": 1, "broken JSON line": 1}
    assert reported["read"]["documents"] == 40
    assert "skipped 1: broken JSON line" in prepare(typed, f"{texts}/b*", "data.skip_bad=true")[1]


@pytest.mark.slow
def test_a_corpus_below_one_window_is_refused_and_stays_whole(typed, texts, tmp_path):
    code, _, err = prepare(typed, f"{texts}/*.txt", "data.context_length=9000")
    assert code == 2
    assert "fewer than one window of data.context_length=9000 + 1; add text or shorten the context" in err
    (kept,) = (tmp_path / "here" / "corpora").iterdir()
    assert (kept / "manifest.json").exists()
    assert prepare(typed, f"{texts}/*.txt", "data.context_length=16")[0] == 0


def test_a_tokenizer_that_is_not_the_checkpoints_is_refused(tmp_path):
    from isoflop.experiments.data.tokenizer import Bytes, Library

    own = Library(Bytes().json())
    (tmp_path / f"{own.tokenizer_id}.json").write_text(own.text)
    assert find_tokenizer(own.tokenizer_id, 256, tmp_path).text == own.text
    with pytest.raises(TokenizerError, match="has 256 tokens, the model 300; they do not match"):
        find_tokenizer(own.tokenizer_id, 300, tmp_path)
    (tmp_path / f"{own.tokenizer_id}.json").write_text(own.text + " ")
    with pytest.raises(TokenizerError, match=r"is tokenizer-\w+, the run was trained with .*; they do not match"):
        find_tokenizer(own.tokenizer_id, 256, tmp_path)


SLOWLY = """
import sys, time
from isoflop.experiments.data import parts
make = parts._make
def slow(*given):
    make(*given)
    time.sleep(0.3)
parts.PART_BYTES, parts.PARALLEL_FROM, parts._make = 2000, 10**6, slow
sys.argv = ["isoflop", *sys.argv[1:]]
from isoflop.__main__ import main
main()
"""


@pytest.mark.process
def test_a_killed_preparation_goes_on_from_its_whole_parts(typed, texts, tmp_path):
    where = tmp_path / "killed"
    words = ["prepare", "data=text", f"data.files=[{texts}/*.txt]", "data.held_out_fraction=0.3"]
    process = subprocess.Popen([sys.executable, "-c", SLOWLY, *words, f"where.corpora={where}"])
    deadline = time.monotonic() + 600  # something hangs
    while len(whole := list(where.glob(".*/part-*.json"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert len(whole) >= 2
    assert not list(where.glob("text-*"))
    goes_on = SLOWLY.replace("time.sleep(0.3)", "print('made', given[0].number)")
    again = subprocess.run(
        [sys.executable, "-c", goes_on, *words, f"where.corpora={where}"], check=True, capture_output=True, text=True
    )
    assert typed(*words)[0] == 0
    (fresh,), (resumed,) = (tmp_path / "here" / "corpora").iterdir(), where.iterdir()
    assert resumed.name == fresh.name
    assert {p.name: p.read_bytes() for p in resumed.iterdir()} == {p.name: p.read_bytes() for p in fresh.iterdir()}
    assert "read 40 documents" in again.stdout
    made = [line for line in again.stdout.splitlines() if line.startswith("made")]
    assert made[0] >= f"made {len(whole) - 1}"
    assert len(made) < 6


SIZES = "run,N,D,loss\na,1e8,1e9,3.5\nb,2e8,1e9,3.4\nc,4e8,2e9,3.2\nd,8e8,4e9,3.0\n"
TWICE = [
    ("import", "--n-params", "1e6", "2e6", "--n-params: the number of every run is given twice (1e6, 2e6)"),
    ("import", "--tokens", "a=1e9", "a=2e9", "--tokens: a is given twice (a=1e9, a=2e9)"),
    ("import", "--map", "loss=loss", "loss=D", "--map: loss is given twice (loss=loss, loss=D)"),
    ("fit", "--map", "loss=loss", "loss=D", "--map: loss is given twice (loss=loss, loss=D)"),
    ("fit", "--fix", "E=0", "E=1.5", "--fix: E is given twice (E=0, E=1.5)"),
]


@pytest.mark.parametrize(("command", "option", "one", "other", "message"), TWICE)
def test_what_is_given_twice_is_refused(typed, tmp_path, command, option, one, other, message):
    (tmp_path / "t.csv").write_text(SIZES)
    out = ("--out", tmp_path / "o.csv") if command == "import" else ()
    code, _, error = typed(command, tmp_path / "t.csv", *out, option, one, option, other)
    assert code == 2
    assert message in error.strip().splitlines()[-1]
    assert not (tmp_path / "o.csv").exists()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--n-params=2M", "--n-params 2e+06: the source reports 4 different ones (a, b, c, d); leave it out, or give"),
        ("--batch-tokens=2M", "--batch-tokens 2e+06: the source reports 2 different ones"),
        ("--tokens=2M", "--tokens: a, b, c, d report the tokens at their ends; leave it out for these"),
        ("--tokens=b=2M", "--tokens: b report the tokens at their ends"),
    ],
)
def test_a_number_for_all_runs_does_not_replace_those_that_the_source_tells(typed, tmp_path, option, message):
    rows = SIZES.splitlines()
    ends = ("batch_tokens", "1e5", "1e5", "2e5", "2e5")
    (tmp_path / "t.csv").write_text("".join(f"{row},{end}\n" for row, end in zip(rows, ends, strict=True)))
    code, _, error = typed("import", tmp_path / "t.csv", "--out", tmp_path / "o.csv", option)
    assert code == 2
    assert message in error


def test_the_number_of_one_run_replaces_that_of_the_source_and_is_said(typed, tmp_path):
    (tmp_path / "t.csv").write_text(SIZES)
    code, out, _ = typed("import", tmp_path / "t.csv", "--out", tmp_path / "o.csv", "--n-params", "b=124M")
    assert code == 0
    assert "note: --n-params is taken in place of what the source reports of b" in out
    assert pd.read_csv(tmp_path / "o.csv")["n_params"].tolist() == [1e8, 1.24e8, 4e8, 8e8]
