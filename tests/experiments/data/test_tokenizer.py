"""Bytes and BPE return any text, are identified by what they do, and are read as the tokenizers library reads them."""

import json
import math
import random
import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from isoflop.experiments.config import DataSpec
from isoflop.experiments.data import CorpusError
from isoflop.experiments.data.corpus import manifest_text, prepare
from isoflop.experiments.data.tokenizer import (
    Bytes,
    Library,
    Numbers,
    TokenizerError,
    continuation,
    read_tokenizer,
    train_bpe,
)

TEXT = "na\u00efve \u65e5\u672c\u8a9e \n\t  \u20ac\U0001f642 def f(x):\r\n  return x\x00y  <|end|> "


def texts(n=200):
    rng = random.Random(0)
    return [" ".join(rng.choice(["der", "die", "das", "nicht", "und"]) + str(rng.randrange(50)) for _ in range(60))
            for _ in range(n)]  # fmt: skip


@pytest.fixture(scope="module")
def bpe():
    return train_bpe((text.encode() for text in texts()), 300)


@pytest.mark.parametrize("own", [True, False])
def test_bytes_mean_the_same_in_the_library(own):
    tokenizer = Bytes() if own else Library(Bytes().json())
    assert tokenizer.encode(TEXT) == list(TEXT.encode())
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT


def test_bpe_returns_any_text_and_shortens_what_it_knows(bpe):
    assert bpe.vocab_size == 300
    for text in [TEXT, *texts(3)]:
        assert bpe.decode(bpe.encode(text)) == text
    assert len(bpe.encode(texts(1)[0])) < 0.7 * len(texts(1)[0])
    assert bpe.encode_batch([TEXT, "und"]) == [bpe.encode(TEXT), bpe.encode("und")]


def test_the_same_text_gives_the_same_tokenizer(bpe):
    again = train_bpe((text.encode() for text in texts()), 300)
    assert (again.text, again.tokenizer_id) == (bpe.text, bpe.tokenizer_id)


def test_vocabularies_that_cannot_be_are_refused():
    with pytest.raises(TokenizerError, match="at least 256"):
        train_bpe([b"x"], 100)
    with pytest.raises(TokenizerError, match=r"only 258 tokens to offer; set data\.vocab_size=258"):
        train_bpe([b"ab ab ab"], 5000)


@pytest.fixture
def folder(tmp_path):
    for i, text in enumerate(texts(60)):
        (tmp_path / f"{i}.txt").write_text(text + f" {i}")
    return tmp_path


def spec(folder, **changes):
    return DataSpec(
        name="t", source="files", files=[f"{folder}/*.txt"], context_length=8, held_out_fraction=0.3, **changes
    )


def test_a_corpus_of_bpe_holds_the_text(folder):
    plain = prepare(spec(folder), folder / "c")
    corpus = prepare(spec(folder, tokenizer="bpe", vocab_size=290), folder / "c")
    tokenizer = Library((corpus.folder / "tokenizer.json").read_text())
    assert (corpus.vocab_size, corpus.tokenizer_id) == (290, tokenizer.tokenizer_id)
    assert tokenizer.decode(corpus.held_out.tolist()).encode() == plain.held_out.astype(np.uint8).tobytes()
    assert tokenizer.decode(corpus.train.tolist()).encode() == plain.train.astype(np.uint8).tobytes()
    assert corpus.bytes_per_token == pytest.approx(plain.held_out_tokens / corpus.held_out_tokens)
    again = prepare(spec(folder, tokenizer="bpe", vocab_size=290), folder / "d")
    assert again.corpus_id == corpus.corpus_id != plain.corpus_id


def test_a_large_corpus_gives_its_tokenizer_a_sample(folder, monkeypatch):
    seen = []
    monkeypatch.setattr("isoflop.experiments.data.shards.LEARNED_FROM", 6_000)
    monkeypatch.setattr(
        "isoflop.experiments.data.shards.train_bpe",
        lambda texts, size, **own: seen.extend(texts) or train_bpe(iter(seen), size, **own),
    )
    corpus = prepare(spec(folder, tokenizer="bpe", vocab_size=270), folder / "c")
    assert 2_000 < sum(map(len, seen)) < 10_000
    assert corpus.manifest["train"]["bytes"] > 10_000


@pytest.mark.parametrize("notes", [0, 9])
@pytest.mark.parametrize("learned_from", [2**26, 100_000])
def test_a_tokenizer_is_trained_on_long_documents_too(tmp_path, monkeypatch, notes, learned_from):
    """On the training half of a divided one, and on a share of one that is longer than the whole sample."""
    monkeypatch.setattr("isoflop.experiments.data.shards.LEARNED_FROM", learned_from)
    seen = []
    monkeypatch.setattr(
        "isoflop.experiments.data.shards.train_bpe",
        lambda texts, size, **own: seen.extend(texts) or train_bpe(iter(seen), size, **own),
    )
    rng = random.Random(0)
    words = [["".join(rng.choices(letters, k=rng.randint(2, 8))) for _ in range(200)] for letters in ("abcd", "wxyz")]
    texts = [" ".join(rng.choices(words[0], k=100)) for _ in range(notes)] + [
        " ".join(rng.choices(words[1], k=200_000))
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    data = replace(spec(tmp_path, tokenizer="bpe", vocab_size=400), files=[f"{tmp_path}/a.jsonl"])
    corpus = prepare(data, tmp_path / "c")
    assert corpus.bytes_per_token > 2
    train = corpus.manifest["train"]["bytes"]
    assert 0.3 * min(train, learned_from) < sum(map(len, seen)) <= min(train, 2.5 * learned_from)
    held = Library(corpus.folder.joinpath("tokenizer.json").read_text()).decode(corpus.held_out.tolist())
    assert not any(held[:500] in text.decode() for text in seen)


def test_where_no_text_is_on_the_training_side_that_is_the_message(tmp_path):
    (tmp_path / "a.txt").write_text("a b c d e f g")
    data = replace(spec(tmp_path, tokenizer="bpe", vocab_size=300), held_out_fraction=0.999)
    with pytest.raises(CorpusError, match=r"corpus t: no document falls on the train side \(1 in all\); add text or"):
        prepare(data, tmp_path / "c")


def behind(corpus):
    """What stands behind each held-out document, as text, by the ends that the corpus states."""
    tokens, ends = corpus.manifest["separator"]["tokens"], corpus.document_ends
    assert all(corpus.held_out[end - len(tokens) : end].tolist() == tokens for end in ends)
    assert corpus.manifest["held_out"]["documents"] == len(ends)
    return corpus.manifest["separator"]["text"]


@pytest.mark.parametrize(
    ("separator", "text"), [("auto", "\n\n"), ("\n\n", "\n\n"), (r"\n\n", "\n\n"), ("<end>", "<end>")]
)
def test_a_separator_stands_behind_each_document_of_bytes(folder, separator, text):
    plain = prepare(spec(folder), folder / "c")
    corpus = prepare(spec(folder, separator=separator), folder / "c")
    assert "behind each document: nothing: data.separator" in manifest_text(plain)
    assert f"behind each document: {text!r}, {len(text)} tokens" in manifest_text(corpus)
    assert behind(corpus) == text
    for side in ("train", "held_out"):
        whole = getattr(corpus, side).astype(np.uint8).tobytes().decode()
        assert whole.endswith(text)
        assert whole.count(text) == plain.manifest[side]["documents"]
        assert whole.replace(text, "").encode() == getattr(plain, side).astype(np.uint8).tobytes()
    assert corpus.bytes_per_token == 1
    assert "separator" not in plain.manifest["recipe"]


def test_a_bpe_learns_a_token_for_the_end_of_a_text(folder):
    plain = prepare(spec(folder), folder / "c")
    corpus = prepare(spec(folder, tokenizer="bpe", vocab_size=290, separator="auto"), folder / "c")
    assert behind(corpus) == "<|endoftext|>"
    (token,) = corpus.manifest["separator"]["tokens"]
    assert (corpus.train == token).sum() == corpus.manifest["train"]["documents"]
    tokenizer = Library((corpus.folder / "tokenizer.json").read_text())
    rest = corpus.held_out[corpus.held_out != token].tolist()
    assert tokenizer.decode(rest).encode() == plain.held_out.astype(np.uint8).tobytes()
    assert corpus.bytes_per_token == pytest.approx(plain.held_out_tokens / corpus.held_out_tokens)
    with pytest.raises(TokenizerError, match=r"at least 257, one token per byte and <\|endoftext\|>; not 256"):
        prepare(spec(folder, tokenizer="bpe", vocab_size=256, separator="auto"), folder / "c")


def test_a_tokenizer_json_ends_texts_with_its_own_token(folder, bpe):
    backend = bpe.backend.from_str(bpe.text)
    file = folder / "own.json"
    file.write_text(backend.to_str())
    with pytest.raises(
        TokenizerError, match=r"data\.separator=auto: the tokenizer has none of <\|endoftext\|>, .*</s>"
    ):
        prepare(spec(folder, tokenizer=str(file), separator="auto"), folder / "c")
    assert behind(prepare(spec(folder, tokenizer=str(file), separator="\n"), folder / "c")) == "\n"
    backend.add_special_tokens(["<s>", "</s>"])
    file.write_text(backend.to_str())
    corpus = prepare(spec(folder, tokenizer=str(file), separator="auto"), folder / "c")
    assert (behind(corpus), corpus.manifest["separator"]["tokens"]) == ("</s>", [backend.token_to_id("</s>")])
    words = {"type": "WordLevel", "vocab": {"a": 0, "?": 1}, "unk_token": "?"}
    file.write_text(json.dumps(json.loads(Bytes().json()) | {"model": words}))
    with pytest.raises(
        TokenizerError, match=r"data\.separator='\|': the tokenizer makes it '\?'; name one that it has"
    ):
        prepare(spec(folder, tokenizer=str(file), separator="|"), folder / "c")


def test_nothing_stands_between_pieces_of_one_file(tmp_path):
    """Where they follow each other on one side."""
    rng = random.Random(0)
    text = "".join(f"{rng.random()}\n" for _ in range(100_000))
    (tmp_path / "a.txt").write_text(text)
    corpus = prepare(spec(tmp_path, separator="<end>"), tmp_path / "c")
    found = []
    for side in (corpus.train, corpus.held_out):
        *runs, rest = side.astype(np.uint8).tobytes().decode().split("<end>")
        assert rest == ""
        places = [(text.index(run), text.index(run) + len(run)) for run in runs]
        assert all(before[1] < after[0] for before, after in pairwise(places))
        found += places
    assert 2 < len(found) < len(text) // 2**16
    assert sorted(found)[0][0] == 0
    assert [start for start, _ in sorted(found)[1:]] == [end for _, end in sorted(found)[:-1]]
    with pytest.raises(
        CorpusError, match=r"data\.separator='auto' with data\.source=synthetic, whose documents are tokens"
    ):
        prepare(DataSpec(name="t", source="synthetic", tokenizer="none", separator="auto"), tmp_path / "c")


def test_any_tokenizer_json_may_be_used(folder, bpe):
    file = folder / "own.json"
    file.write_text(bpe.text)
    corpus = prepare(spec(folder, tokenizer=str(file)), folder / "c")
    assert corpus.tokenizer_id == bpe.tokenizer_id
    assert corpus.train.max() < 300
    file.write_text(Bytes().json())
    other = prepare(spec(folder, tokenizer=str(file)), folder / "c")
    assert other.vocab_size == 256
    assert math.isclose(other.bytes_per_token, 1.0)
    with pytest.raises(CorpusError, match=r"none\.json is not a file"):
        prepare(spec(folder, tokenizer="none.json"), folder / "c")


@pytest.mark.parametrize("state", ["truncation", "padding", "both"])
def test_a_file_that_cuts_or_fills_texts_reads_a_corpus_whole(folder, bpe, state):
    file, plain = folder / "own.json", folder / "plain.json"
    backend = bpe.backend.from_str(bpe.text)
    if state != "padding":
        backend.enable_truncation(16)
    if state != "truncation":
        backend.enable_padding(pad_id=0, pad_token="<pad>")
    file.write_text(backend.to_str())
    plain.write_text(bpe.text)
    whole = prepare(spec(folder, tokenizer=str(plain)), folder / "c")
    corpus = prepare(spec(folder, tokenizer=str(file)), folder / "c")
    assert corpus.corpus_id == whole.corpus_id
    kept = Library((corpus.folder / "tokenizer.json").read_text())
    assert kept.tokenizer_id == corpus.tokenizer_id
    assert not ({"truncation", "padding"} & {key for key, value in json.loads(kept.json()).items() if value})
    assert Library(backend.to_str()).encode(texts(1)[0]) == bpe.encode(texts(1)[0])  # as stores hold it from before


def test_a_file_that_states_no_length_keeps_its_id_to_the_byte(folder, bpe):
    text = json.dumps(json.loads(bpe.text), indent=7)
    (folder / "own.json").write_text(text)
    assert read_tokenizer(folder / "own.json") == Library(text)


def test_a_tokenizer_that_loses_text_is_said_to(folder, bpe):
    file = folder / "own.json"
    words = {word: i for i, word in enumerate(["[UNK]", *(f"die{i}" for i in range(50))])}
    model = {"type": "WordLevel", "vocab": words, "unk_token": "[UNK]"}
    known = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
             "post_processor": None, "decoder": None, "pre_tokenizer": {"type": "WhitespaceSplit"}}  # fmt: skip
    file.write_text(json.dumps(known | {"model": model}))
    corpus = prepare(spec(folder, tokenizer=str(file), eval_tokens=8), folder / "c")
    (message,) = corpus.warnings
    assert re.search(r"loses text: 60 of 60 documents compared .* with '\[UNK\] \[UNK.*' for '\w+", message)
    assert message in manifest_text(corpus)
    lower = json.loads(bpe.text) | {"normalizer": {"type": "Lowercase"}}
    file.write_text(json.dumps(lower))
    (folder / "0.txt").write_text("DER " + texts(1)[0])
    assert "loses text: 1 of 60" in prepare(spec(folder, tokenizer=str(file), eval_tokens=8), folder / "c").warnings[0]
    file.write_text(bpe.text)
    assert not prepare(spec(folder, tokenizer=str(file), eval_tokens=8), folder / "c").warnings


def with_processor(kind):
    """A small tokenizer.json of words with a blank mark, which puts tokens around a text by a processor of `kind`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    words = ["<s>", "</s>", "\u2581if", "\u2581name", "\u2581is", "not", "\u2581not"]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<s>"))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    ends = [("</s>", 1), ("<s>", 0)]
    template = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    byte_level = processors.ByteLevel(trim_offsets=False)
    backend.post_processor = {
        "template": template,
        "bert": processors.BertProcessing(*ends),
        "roberta": processors.RobertaProcessing(*ends),
        "sequence": processors.Sequence([byte_level, template]),
        "byte level": byte_level,
    }[kind]
    return Library(backend.to_str())


@pytest.mark.parametrize("kind", ["template", "bert", "roberta", "sequence", "byte level"])
def test_what_is_exported_puts_no_tokens_around_a_text_as_corpora_have_none(kind):
    from tokenizers import Tokenizer

    tokenizer = with_processor(kind)
    own = tokenizer.encode("if name")
    exported = Tokenizer.from_str(tokenizer.json())
    assert own == exported.encode("if name").ids == [2, 3]
    left = json.loads(tokenizer.json())["post_processor"]
    assert left is None or "ByteLevel" in json.dumps(left)
    assert tokenizer.tokenizer_id == Library(tokenizer.text).tokenizer_id, "the file is the same"


def test_a_text_that_is_no_token_is_none_in_the_library_either():
    from tokenizers import Tokenizer

    exported = Tokenizer.from_str(Numbers(64).json())
    assert exported.encode("5 6 63").ids == [5, 6, 63]
    for text in ("64", "hello", "5 x"):
        with pytest.raises(Exception, match="UNK"):
            exported.encode(text)


@pytest.mark.parametrize("cut", range(1, 5))
def test_the_blank_between_a_prompt_and_what_follows_is_kept(cut):
    for tokenizer, tokens in ((with_processor("template"), [2, 3, 4, 6, 5]), (Numbers(64), [5, 6, 0, 12, 7])):
        whole = tokenizer.decode(tokens)
        assert (
            whole[: len(tokenizer.decode(tokens[:cut]))] + continuation(tokenizer.decode, tokens[:cut], tokens[cut:])
            == whole
        )
    every = list(TEXT.encode())
    assert continuation(Bytes().decode, every[:4], every[4:]) == TEXT[3:]


def test_a_tokenizer_that_mends_its_beginning_is_read_from_there():
    """Where more tokens change the text of the prompt, what follows is decoded alone."""
    words = {0: "a", 1: ".", 2: "b"}

    def decode(tokens):
        return " ".join(words[t] for t in tokens).replace(" .", ".").replace("a. b", "a! b")

    assert continuation(decode, [0, 1], [2]) == "b"
