"""Token files written here byte by byte after their formats' descriptions, by nothing of the package."""

import json
import os
import struct
from dataclasses import replace

import numpy as np
import pytest

from isoflop.experiments.config import DataSpec
from isoflop.experiments.data import CorpusError
from isoflop.experiments.data.corpus import manifest_text, prepare
from isoflop.experiments.data.token_files import MEGATRON_MAGIC, header, open_tokens

TOKENS = [7, 0, 49_999, 12, 65_535] * 40


def nano_gpt(path, tokens):
    path.write_bytes(b"".join(struct.pack("<H", token) for token in tokens))


def llm_c(path, tokens, *, llama3=False):
    start = [20240801, 7] if llama3 else [20240520, 1]
    ints = start + [len(tokens)] + [0] * 253
    path.write_bytes(struct.pack("<256i", *ints) + b"".join(struct.pack("<I" if llama3 else "<H", t) for t in tokens))


def megatron(path, tokens, code=4):
    letter = {4: "i", 8: "H"}[code]
    lengths = [len(tokens) // 2, len(tokens) - len(tokens) // 2]
    path.write_bytes(struct.pack(f"<{len(tokens)}{letter}", *tokens))
    size = struct.calcsize(letter)
    index = b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, code, 2, 3)
    index += struct.pack("<2i", *lengths) + struct.pack("<2q", 0, lengths[0] * size) + struct.pack("<3q", 0, 1, 2)
    path.with_suffix(".idx").write_bytes(index)


def save_npy(path, tokens):
    with path.open("wb") as file:  # np.save adds .npy to a name
        np.save(file, tokens)


FORMATS = {
    "nano_gpt": nano_gpt,
    "llm_c": llm_c,
    "llm_c_llama3": lambda path, tokens: llm_c(path, tokens, llama3=True),
    "raw_uint32": lambda path, tokens: np.array(tokens, np.uint32).tofile(path),
    "raw_int64": lambda path, tokens: np.array(tokens, np.int64).tofile(path),
    "npy_int64": lambda path, tokens: save_npy(path, np.array(tokens)),
    "npy_big_endian": lambda path, tokens: save_npy(path, np.array(tokens, ">i4")),
    "megatron_int32": megatron,
    "megatron_uint16": lambda path, tokens: megatron(path, tokens, 8),
}


@pytest.mark.parametrize("write", FORMATS.values(), ids=FORMATS)
def test_every_format_is_read_in_place(tmp_path, write):
    write(tmp_path / "x.bin", TOKENS)
    found = open_tokens(tmp_path / "x.bin", 2**16)
    assert isinstance(found, np.memmap)
    assert found.tolist() == TOKENS


@pytest.mark.parametrize("write", FORMATS.values(), ids=FORMATS)
def test_files_become_a_corpus_without_a_copy(tmp_path, write):
    write(tmp_path / "train.bin", TOKENS)
    write(tmp_path / "val.bin", TOKENS[:60])
    spec = DataSpec(
        name="t", source="tokens", files=[f"{tmp_path}/*.bin"], tokenizer="none", vocab_size=2**16, context_length=8
    )
    corpus = prepare(spec, tmp_path / "c")
    assert (corpus.train.tolist(), corpus.held_out.tolist()) == (TOKENS, TOKENS[:60])
    assert [p.name for p in corpus.folder.iterdir()] == ["manifest.json"]
    assert corpus.vocab_size == 2**16
    ids = {corpus.corpus_id}
    nano_gpt(tmp_path / "train.bin", TOKENS)
    nano_gpt(tmp_path / "val.bin", TOKENS[:60])
    for index in tmp_path.glob("*.idx"):
        index.unlink()
    ids.add(prepare(spec, tmp_path / "d").corpus_id)
    assert len(ids) == 1  # the id is of the tokens, whatever the file


def test_the_end_of_a_single_file_is_held_out(tmp_path):
    nano_gpt(tmp_path / "x.bin", TOKENS)
    spec = DataSpec(
        name="t", source="tokens", files=[f"{tmp_path}/x.bin"], tokenizer="none", vocab_size=2**16, context_length=4
    )
    corpus = prepare(spec, tmp_path / "c")
    assert corpus.train.tolist() + corpus.held_out.tolist() == TOKENS
    assert corpus.held_out_tokens == round(len(TOKENS) / 12)


@pytest.mark.parametrize("write", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("held_out", [1, 2])
def test_many_files_are_one_corpus(tmp_path, write, held_out):
    """As scripts write them that cut a corpus into shards: the tokens of each side one behind the other."""
    names = [*(f"x_val_{i:06}" for i in range(held_out)), *(f"x_train_{i:06}" for i in range(3))]
    texts = {name: [token + i for token in [7, 0, 49_990, 12] * (20 + i)] for i, name in enumerate(names)}
    for name, tokens in texts.items():
        write(tmp_path / f"{name}.bin", tokens)
    spec = DataSpec(
        name="t", source="tokens", files=[f"{tmp_path}/x*.bin"], tokenizer="none", vocab_size=50_257, context_length=8
    )
    corpus = prepare(spec, tmp_path / "c")
    whole = {side: [t for name in sorted(texts) if side in name for t in texts[name]] for side in ("train", "val")}
    assert (corpus.train.tolist(), corpus.held_out.tolist()) == (whole["train"], whole["val"])
    assert f"train: 3 documents, {len(whole['train'])} tokens" in manifest_text(corpus)
    assert (corpus.folder / "held_out.bin").exists() == (held_out > 1)
    for side, tokens in whole.items():
        write(tmp_path / f"one_{side}.bin", tokens)
    one = prepare(replace(spec, files=[f"{tmp_path}/one*.bin"]), tmp_path / "c")
    assert one.corpus_id == corpus.corpus_id
    with (corpus.folder / "train.bin").open("r+b") as shard:
        shard.seek(1030)
        shard.write(b"\1")
    with pytest.raises(CorpusError, match=r"train\.bin is not what its manifest says"):
        prepare(spec, tmp_path / "c")
    small = replace(spec, vocab_size=49_991)
    with pytest.raises(
        CorpusError, match=r"x_train_\d+\.bin: token 4999\d at position \d is beyond data\.vocab_size=49991"
    ):
        prepare(small, tmp_path / "d")
    assert list((tmp_path / "d").iterdir()) == []
    with pytest.raises(
        CorpusError, match=r"matches 3 token files, 0 of them .* training files and some with val in their"
    ):
        prepare(replace(spec, files=[f"{tmp_path}/x_train*.bin"]), tmp_path / "d")


def test_what_does_not_fit_is_refused(tmp_path):
    spec = DataSpec(name="t", source="tokens", files=[f"{tmp_path}/*.bin"], tokenizer="none", vocab_size=50_000)
    nano_gpt(tmp_path / "x.bin", TOKENS)
    with pytest.raises(CorpusError, match=r"x\.bin: token 65535 at position 4 is beyond data\.vocab_size=50000"):
        prepare(spec, tmp_path / "c")
    assert list((tmp_path / "c").iterdir()) == []
    nano_gpt(tmp_path / "y.bin", TOKENS)
    with pytest.raises(CorpusError, match="matches 2 token files, 0 of them held out"):
        prepare(spec, tmp_path / "c")


def test_headers_that_lie_are_noticed(tmp_path):
    llm_c(tmp_path / "a.bin", TOKENS)
    with (tmp_path / "a.bin").open("ab") as file:
        file.write(b"\0\0")
    with pytest.raises(CorpusError, match="header says 200 tokens, the file holds 201"):
        open_tokens(tmp_path / "a.bin", 2**16)
    megatron(tmp_path / "b.bin", TOKENS)
    (tmp_path / "b.bin").write_bytes(b"\0" * 40)
    with pytest.raises(CorpusError, match="index names 200 tokens, the file holds 10"):
        open_tokens(tmp_path / "b.bin", 2**16)
    (tmp_path / "c.bin").write_bytes(b"odd")
    with pytest.raises(CorpusError, match="3 bytes are not a whole number"):
        open_tokens(tmp_path / "c.bin", 2**16)
    with pytest.raises(CorpusError, match="exceed the 2"):
        header(np.uint16, 2**31)


@pytest.mark.parametrize("vocab_size", [300, 50_000, 65_537, 128_256, 2**31])
@pytest.mark.parametrize("dtype", ["<u2", "<u4", "<i4", "<u8", "<i8"])
def test_what_has_no_header_is_read_by_the_bits_that_it_has(tmp_path, vocab_size, dtype):
    tokens = (np.random.default_rng(0).zipf(1.3, 5000) * 7919) % min(vocab_size, 2**16 if dtype == "<u2" else 2**31)
    tokens.astype(dtype).tofile(tmp_path / "x.bin")
    spec = DataSpec(
        name="t", source="tokens", files=[f"{tmp_path}/x.bin"], tokenizer="none", vocab_size=vocab_size,
        context_length=8, eval_tokens=64,
    )  # fmt: skip
    corpus = prepare(spec, tmp_path / "c")
    assert [*corpus.train, *corpus.held_out] == tokens.tolist()
    bits = 8 * np.dtype(dtype).itemsize
    assert f"tokens of uint{bits} in {tmp_path}/x.bin" in manifest_text(corpus)
    assert prepare(spec, tmp_path / "c").train.tolist() == corpus.train.tolist()


def test_a_corpus_that_was_read_as_too_few_bits_is_to_be_made_again(tmp_path):
    np.array(TOKENS, np.uint32).tofile(tmp_path / "x.bin")
    spec = DataSpec(
        name="t", source="tokens", files=[f"{tmp_path}/x.bin"], tokenizer="none", vocab_size=2**16, context_length=8
    )
    manifest = prepare(spec, tmp_path / "c").folder / "manifest.json"
    stated = json.loads(manifest.read_text())
    for side, (start, end) in {"train": (0, 367), "held_out": (367, 400)}.items():
        stated[side] |= {"tokens": end - start, "range": [start, end]}
        del stated[side]["dtype"]
    manifest.write_text(json.dumps(stated))
    with pytest.raises(CorpusError, match="delete the folder and prepare again"):
        prepare(spec, tmp_path / "c")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones(9), r"an array of float64, shape \(9,\)"),
        (np.ones((3, 3), int), r"shape \(3, 3\); tokens are whole numbers in one dimension"),
        (np.ones(0, int), "an array of int64"),
        (np.array(["a"]), "an array of <U1"),
        (np.array([None]), r"begins as a \.npy and is none"),
        (np.array([True]), "an array of bool"),
    ],
)
def test_an_array_of_no_tokens_is_refused(tmp_path, array, message):
    save_npy(tmp_path / "x.npy", array)
    with pytest.raises(CorpusError, match=f"x.npy: .*{message}"):
        open_tokens(tmp_path / "x.npy", 2**16)


def absurd(*, magic=MEGATRON_MAGIC, version=1, code=8, sequences=2, documents=1, lengths=(100, 100), more=b""):
    start = magic + struct.pack("<QBQQ", version, code, sequences, documents)
    return start + np.array(lengths, "<i4").tobytes() + more


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a Megatron index"),
        (b"MMIDIDX", "not a Megatron index"),
        (absurd(magic=b"MMIDIDY\0\0"), "not a Megatron index"),
        (absurd(code=77), "token type 77; known are"),
        (absurd(sequences=2**63), "9223372036854775808 sequences, too many for a file of its size"),
        (absurd(sequences=2**62), "too many for a file of its size"),
        (absurd(sequences=10**6), "1000000 sequences, too many"),
        (absurd(lengths=(-100, 300)), "sequence 0 has a length of -100"),
        (absurd(lengths=(100, -(2**31))), "sequence 1 has a length of -2147483648"),
        (absurd(lengths=(2**31 - 1, 2**31 - 1)), "its index names 4294967294 tokens, the file holds"),
        (absurd(sequences=0, lengths=()), "its index names 0 tokens"),
    ],
)
def test_an_absurd_index_is_refused_by_name(tmp_path, content, message):
    megatron(tmp_path / "m.bin", TOKENS)
    (tmp_path / "m.idx").write_bytes(content)
    with pytest.raises(CorpusError, match=message) as error:
        open_tokens(tmp_path / "m.bin", 2**16)
    assert "m." in str(error.value)


@pytest.mark.parametrize("name", ["m.bin", "m.idx"])
def test_a_pipe_is_no_token_file(tmp_path, name):
    megatron(tmp_path / "m.bin", TOKENS)
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    with pytest.raises(CorpusError, match=f"{name}: not a regular file"):
        open_tokens(tmp_path / "m.bin", 2**16)


@pytest.mark.slow
def test_what_is_written_beyond_16_bits_is_read_by_an_independent_reader(tmp_path):
    """A vocabulary of 70,000 words: shards of uint32, read here by struct alone."""
    words = {f"w{i}": i for i in range(70_000)}
    tokenizer = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None}
    tokenizer |= {"pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": None, "decoder": None}
    tokenizer["model"] = {"type": "WordLevel", "vocab": words, "unk_token": "w0"}
    (tmp_path / "words.json").write_text(json.dumps(tokenizer))
    texts = {f"{i}.txt": [69_999 - i, 65_536, 7 * i, 65_535, i] * 4 for i in range(12)}
    for name, tokens in texts.items():
        (tmp_path / name).write_text(" ".join(f"w{token}" for token in tokens))
    spec = DataSpec(
        name="t", source="files", files=[f"{tmp_path}/*.txt"], tokenizer=str(tmp_path / "words.json"),
        context_length=4, held_out_fraction=0.3,
    )  # fmt: skip
    corpus = prepare(spec, tmp_path / "c")
    written = []
    for side in ("train", "held_out"):
        raw = (corpus.folder / f"{side}.bin").read_bytes()
        magic, version, count = struct.unpack("<3i", raw[:12])
        assert (magic, version, len(raw)) == (20240801, 7, 1024 + 4 * count)
        tokens = list(struct.unpack(f"<{count}I", raw[1024:]))
        assert tokens == getattr(corpus, side).tolist()
        written += tokens
    assert sorted(written) == sorted(token for tokens in texts.values() for token in tokens)
    assert corpus.vocab_size == 70_000
