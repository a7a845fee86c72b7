"""What a corpus is, pinned: ids of small fixed inputs of every source, and the recipes that name their folders.

A changed id would be another corpus, so that every run on it would be another run.
"""

import hashlib
import json
import os
import struct
import sys
import sysconfig

import pytest

from isoflop.experiments.config import DataSpec, HubSpec, SyntheticSpec
from isoflop.experiments.data.corpus import prepare

SMALL = SyntheticSpec(vocab_size=12, tokens=6_000, chains=60)


def paragraph(number: int) -> str:
    """Lines that no other number has; with a byte order mark inside, control characters and two kinds of newline."""
    words = [f"w{(number * 7919 + i * i * 31) % 1000}" for i in range(60)]
    lines = [" ".join(words[i : i + 10]) for i in range(0, 60, 10)]
    return "\r\n".join(lines[:3]) + "\x0b\n\ufeff" + "\n".join(lines[3:]) + f"\nna\u00efve cafe\u0301 {number}\n"


@pytest.fixture
def folder(tmp_path):
    """Inputs of every kind below one folder, all of the same time."""
    for part in ("texts", "records", "lib/json", "lib/test", "hub", "tokens"):
        (tmp_path / part).mkdir(parents=True)
    for i in range(24):
        (tmp_path / "texts" / f"{i:02}.txt").write_bytes(paragraph(i).encode())
        (tmp_path / "lib" / "json" / f"m{i:02}.py").write_bytes(paragraph(i + 100).encode())
    (tmp_path / "texts" / "copy.txt").write_bytes(paragraph(3).encode())
    (tmp_path / "texts" / "empty.txt").write_bytes(b"")
    (tmp_path / "texts" / "book.md").write_bytes("".join(paragraph(i) for i in range(200, 600)).encode())
    (tmp_path / "lib" / "test" / "left_out.py").write_text("assert True\n")
    lines = [json.dumps({"text": paragraph(i), "body": f"body {i} " * 9, "id": i}) for i in range(24)]
    (tmp_path / "records" / "whole.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "records" / "broken.jsonl").write_text("\n".join([*lines[:5], '{"text": "cut', *lines[5:]]) + "\n")
    (tmp_path / "hub" / "rows.jsonl").write_text("\n".join(lines) + "\n")
    tokens = [(i * i * 7 + i) % 50_000 for i in range(2_000)]
    (tmp_path / "tokens" / "one.bin").write_bytes(struct.pack("<2000H", *tokens))
    head = struct.pack("<256i", 20240520, 1, 2000, *[0] * 253)
    (tmp_path / "tokens" / "fine_train.bin").write_bytes(head + struct.pack("<2000H", *tokens))
    (tmp_path / "tokens" / "fine_val.bin").write_bytes(struct.pack("<500H", *tokens[:500]))
    for path in tmp_path.rglob("*"):
        if path.is_file():
            os.utime(path, ns=(10**18, 10**18))
    return tmp_path


def make(folder, monkeypatch, **data):
    """The corpus of some keys of data, with the paths in them below `folder`."""
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(folder / "lib")})
    data["files"] = [str(folder / pattern) for pattern in data.get("files", [])]
    if hub := data.pop("hub", None):
        data["hub"] = HubSpec(name=str(folder / hub["name"]), max_bytes=hub["max_bytes"])
    spec = DataSpec(name="x", context_length=16, held_out_fraction=0.25, eval_tokens=640, **data)
    return prepare(spec, folder / "corpora")


CASES = {
    "python-source": {"source": "python-source"},
    "python-source cleaned": {"source": "python-source", "clean": ["unicode", "control"], "text_column": "body"},
    "files": {"source": "files", "files": ["texts/*.txt", "texts/*.md"]},
    "files cleaned": {
        "source": "files", "files": ["texts/*"], "clean": ["unicode", "control", "markup", "boilerplate", "length"],
    },
    "files of records": {"source": "files", "files": ["records/*"], "skip_bad": True, "text_column": "body"},
    "files by bpe": {"source": "files", "files": ["texts/*"], "tokenizer": "bpe", "vocab_size": 300},
    "huggingface": {"source": "huggingface", "hub": {"name": "hub", "max_bytes": 6000}},
    "one file of tokens": {"source": "tokens", "files": ["tokens/one.bin"], "tokenizer": "none", "vocab_size": 50_000},
    "files of tokens": {"source": "tokens", "files": ["tokens/fine*"], "tokenizer": "none", "vocab_size": 70_000},
    "synthetic": {"source": "synthetic", "tokenizer": "none", "synthetic": SMALL},
    "synthetic of order 1": {
        "source": "synthetic", "tokenizer": "none", "synthetic": SyntheticSpec(8, 4_000, 40, order=1, rank=2),
        "clean": ["unicode"],
    },
    "fewer tokens": {"source": "files", "files": ["texts/*"], "unique_tokens": 1600},
}  # fmt: skip

# corpus_id, eval_id, tokens of both sides, the recipe beyond layout, split and source
PINS = {
    "python-source": ("91e62435bb60", "02e59a8daf5a", (5394, 2218), {"python": "HERE"}),
    "python-source cleaned": (
        "1fac1e7f500e", "005790814640", (5896, 1548),
        {"clean": ["unicode", "control"], "python": "HERE", "text_column": "body"},
    ),
    "files": ("8c5c781026ca", "91302ba21d92", (100925, 33634), {}),
    "files cleaned": (
        "c581dac0f39f", "81c5b9e53ce7", (98712, 32879),
        {
            "clean": ["unicode", "control", "markup", "boilerplate", "length"],
            "revised": {"markup": 2, "boilerplate": 2, "cut": 2},
        },
    ),
    "files of records": ("a185e4104f9d", "2b9ffcbda7a1", (1287, 351), {"skip_bad": True, "text_column": "body"}),
    "files by bpe": (
        "685fcac738b7", "0a9f5d2b03a6", (68375, 22878),
        {"tokenizer": "bpe", "vocab_size": 300, "revised": {"bpe": 2}},
    ),
    "huggingface": (
        "9bf85c588e2b", "79d2d8768d8f", (4426, 1585),
        {"hub": {"max_bytes": 6000, "name": "DIR/hub", "revision": None, "split": "train", "subset": None}},
    ),
    "one file of tokens": (
        "f484bde4a8d9", "d30cf416d28d", (1500, 500),
        {"paths": ["DIR/tokens/one.bin"], "tokenizer": "none", "vocab_size": 50_000},
    ),
    "files of tokens": (
        "4879925697fd", "2b5f61cde2a4", (2000, 500),
        {
            "paths": ["DIR/tokens/fine_train.bin", "DIR/tokens/fine_val.bin"],
            "tokenizer": "none", "vocab_size": 70_000,
        },
    ),
    "synthetic": (
        "87a3c16489df", "ddd86dc7edd5", (4300, 1700),
        {"synthetic": {
            "bigram_weight": 1.2, "chains": 60, "seed": 7, "skip_weight": 1.0, "tokens": 6000,
            "trigram_weight": 0.25, "vocab_size": 12,
        }},
    ),
    "synthetic of order 1": (
        "ac1063e1da51", "efc157c064e0", (2800, 1200),
        {"synthetic": {
            "bigram_weight": 1.2, "chains": 40, "order": 1, "rank": 2, "seed": 7, "skip_weight": 1.0,
            "tokens": 4000, "trigram_weight": 0.25, "vocab_size": 8,
        }},
    ),
    "fewer tokens": ("160a90909950", "91302ba21d92", (1700, 33634), {}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_corpus_keeps_its_id_and_its_recipe(folder, monkeypatch, case):
    corpus = make(folder, monkeypatch, **CASES[case])
    corpus_id, eval_id, tokens, recipe = PINS[case]
    assert (corpus.corpus_id, corpus.eval_id) == (corpus_id, eval_id)
    assert (corpus.train_tokens, corpus.held_out_tokens) == tokens
    found = json.loads(json.dumps(corpus.manifest["recipe"]).replace(str(folder), "DIR"))
    if "python" in found:
        assert found["python"] == sys.version
        found["python"] = "HERE"
    assert found == {"layout": 2, "held_out_fraction": 0.25, "source": CASES[case]["source"], **recipe}


@pytest.mark.parametrize(
    ("case", "names"),
    [
        ("python-source", [f"json/m{i:02}.py" for i in range(24)]),
        ("files of records", ["broken.jsonl", "whole.jsonl"]),
        ("files of tokens", ["fine_train.bin", "fine_val.bin"]),
        ("huggingface", ["DIR/hub/rows.jsonl"]),
        ("synthetic", None),
    ],
)
def test_a_folder_is_named_by_recipe_and_files(folder, monkeypatch, case, names):
    """Sizes and times of the files count, under names that do not depend on where they are but for a data set's."""
    corpus = make(folder, monkeypatch, **CASES[case])
    whole = dict(corpus.manifest["recipe"])
    if names is not None:
        sizes = {path.name: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
        seen = [name.replace("DIR", str(folder)) for name in names]
        whole["files"] = [[name, sizes[name.rpartition("/")[2]], 10**18] for name in seen]
    digest = hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:12]
    assert corpus.folder.name == f"x-{digest}"
