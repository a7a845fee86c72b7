"""Bytes and BPE return any text, are identified by what they do, and are read as the tokenizers library reads them."""

import math
import random

import numpy as np
import pytest

from isoflop.experiments.config import DataSpec
from isoflop.experiments.data import CorpusError
from isoflop.experiments.data.corpus import prepare
from isoflop.experiments.data.tokenizer import Bytes, Library, TokenizerError, train_bpe

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
        lambda texts, size: seen.extend(texts) or train_bpe(iter(seen), size),
    )
    corpus = prepare(spec(folder, tokenizer="bpe", vocab_size=270), folder / "c")
    assert 2_000 < sum(map(len, seen)) < 10_000
    assert corpus.manifest["train"]["bytes"] > 10_000


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
