"""Tokenizers: text to token ids and back, each with its tokenizer.json, which `tokenizers`, transformers and vLLM read.

bytes: token = byte, 256 of them, no library needed. none: the tokens of a source without text, written as decimal
numbers between spaces. Anything else is a tokenizer.json read by the `tokenizers` library.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Any, Protocol

from isoflop.experiments.files import check_name
from isoflop.read_json import read_bytes

END_OF_TEXT = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "[EOS]")  # tokens that tokenizers have for it
_SHOWN = 12  # characters of a difference
NO_TOKEN = "<no token>"  # of a text that is none: in no vocabulary, so that the library refuses the text
ADDERS = ("TemplateProcessing", "BertProcessing", "RobertaProcessing")  # processors that put tokens around a text


class TokenizerError(ValueError):
    """A tokenizer cannot be made, or does not fit what it is used with."""


class Tokenizer(Protocol):
    """What generation, export and corpora need."""

    @property
    def tokenizer_id(self) -> str:
        """Its identity, which runs record."""

    @property
    def vocab_size(self) -> int:
        """How many tokens it has."""

    def encode(self, text: str) -> list[int]:
        """The token ids of a text."""

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of token ids."""

    def json(self) -> str:
        """The content of its tokenizer.json."""


@dataclass(frozen=True)
class Bytes:
    """Token id = byte value; any text comes back to the byte."""

    tokenizer_id = "bytes"
    vocab_size = 256

    def encode(self, text: str) -> list[int]:
        """The token ids of a text."""
        return list(text.encode())

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of token ids."""
        return bytes(tokens).decode(errors="replace")

    def json(self) -> str:
        """The content of its tokenizer.json."""
        vocabulary = {char: byte for byte, char in enumerate(_byte_characters())}
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
        return _tokenizer_json(
            model={"type": "BPE", "vocab": vocabulary, "merges": []}, pre_tokenizer=byte_level, decoder=byte_level
        )


@dataclass(frozen=True)
class Numbers:
    """Token id = the number in the text."""

    vocab_size: int
    tokenizer_id = "none"

    def encode(self, text: str) -> list[int]:
        """The token ids of numbers between blanks. Raises TokenizerError for other text."""
        for word in text.split():
            if not word.isdecimal() or int(word) >= self.vocab_size:
                raise TokenizerError(f"{word!r} is not a token; write numbers from 0 to {self.vocab_size - 1}")
        return [int(word) for word in text.split()]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of token ids."""
        return " ".join(map(str, tokens))

    def json(self) -> str:
        """The content of its tokenizer.json."""
        vocabulary = {str(i): i for i in range(self.vocab_size)}
        return _tokenizer_json(
            model={"type": "WordLevel", "vocab": vocabulary, "unk_token": NO_TOKEN},
            pre_tokenizer={"type": "WhitespaceSplit"},
            decoder=None,
        )


def read_tokenizer(path: Path) -> "Library":
    """The tokenizer in a tokenizer.json, of whole texts. Raises TokenizerError naming a file that is none."""
    return Library(whole_texts(_read(path).text))


def whole_texts(text: str) -> str:
    """A tokenizer.json without the length that it may cut texts to or fill them up to; itself where it has none.

    Training code leaves such a length in the file: of a corpus it would lose the ends of documents, or add padding.
    """
    try:
        about = json.loads(text)
    except (ValueError, RecursionError):  # none: the library says so
        return text
    if not isinstance(about, dict) or not (about.get("truncation") or about.get("padding")):
        return text
    return json.dumps(about | {"truncation": None, "padding": None}, ensure_ascii=False)


def _without_added_tokens(text: str) -> str:
    """A tokenizer.json that puts no tokens around a text; itself where it puts none.

    Corpora are read without them: a model that is then asked with them has never seen them.
    """
    about = json.loads(text)
    processor = about.get("post_processor") or {}
    steps = processor.get("processors", [processor])
    kept = [step for step in steps if step.get("type") not in ADDERS]
    if len(kept) == len(steps):
        return text
    left = {"type": "Sequence", "processors": kept} if kept else None
    return json.dumps(about | {"post_processor": left}, ensure_ascii=False)


def continuation(decode: Callable[[list[int]], str], prompt: Sequence[int], tokens: Sequence[int]) -> str:
    """The text that tokens add to that of a prompt, the blank between the two included.

    Some tokenizers drop the blank at the beginning of what they decode.
    """
    before, whole = decode(list(prompt)), decode([*prompt, *tokens])
    return whole[len(before) :] if whole.startswith(before) else decode(list(tokens))


def _read(path: Path) -> "Library":
    """A tokenizer.json as it is. Raises TokenizerError naming a file that is none."""
    try:
        found = Library(read_bytes(path).decode("utf-8"))
        found.backend  # noqa: B018  # reads it
    except (OSError, ValueError) as error:
        raise TokenizerError(f"{path}: {error}") from error
    return found


@dataclass(frozen=True)
class Library:
    """A tokenizer.json, used on whole texts whatever length it states. Its id hashes the text of the file."""

    text: str

    @cached_property
    def backend(self) -> Any:
        """The `tokenizers.Tokenizer`. Raises TokenizerError without the library or for another kind of file."""
        try:
            import tokenizers
        except ImportError:
            raise TokenizerError("this tokenizer needs the tokenizers library; pip install 'isoflop[data]'") from None
        try:
            return tokenizers.Tokenizer.from_str(whole_texts(self.text))
        except Exception as error:  # the library raises bare Exception
            raise TokenizerError(f"not a tokenizer.json ({str(error).splitlines()[0]})") from error

    @cached_property
    def tokenizer_id(self) -> str:
        """A hash of the file."""
        return f"tokenizer-{hashlib.sha256(self.text.encode()).hexdigest()[:12]}"

    @property
    def vocab_size(self) -> int:
        """How many tokens it has, added ones included."""
        return self.backend.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """The token ids of a text."""
        return self.backend.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """As `encode`, on all cores."""
        return [found.ids for found in self.backend.encode_batch_fast(texts, add_special_tokens=False)]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of token ids."""
        return self.backend.decode(list(tokens), skip_special_tokens=False)

    def json(self) -> str:
        """The content of its tokenizer.json, which puts no tokens around a text."""
        return _without_added_tokens(whole_texts(self.text))


@dataclass
class Losses:
    """What texts lose in their tokens: how many of those compared came back as another text, and where the first did.

    A blank at the beginning, which some tokenizers add, is no difference.
    """

    changed: int = 0
    compared: int = 0
    was: str = ""
    became: str = ""

    def add(self, text: str, tokenizer: Tokenizer) -> None:
        """Compare one more text with what its tokens say."""
        text, back = text.removeprefix(" "), tokenizer.decode(tokenizer.encode(text)).removeprefix(" ")
        self.compared += 1
        if back == text:
            return
        if not self.changed:
            at = next(i for i, (one, other) in enumerate(zip_longest(text, back)) if one != other)
            self.was, self.became = text[at : at + _SHOWN], back[at : at + _SHOWN]
        self.changed += 1


@dataclass(frozen=True)
class Separator:
    """What stands behind each document of a corpus: a text and its tokens, and the bytes of text that these are."""

    text: str = ""
    tokens: tuple[int, ...] = ()
    size: int = 0  # of a token of its own: no text


def find_separator(wanted: str, tokenizer: Tokenizer) -> Separator:
    """The separator that data.separator names. Raises TokenizerError for one that the tokenizer does not have."""
    own = set[str]()
    if isinstance(tokenizer, Library):
        own = {token.content for token in tokenizer.backend.get_added_tokens_decoder().values()}
    if wanted == "auto":
        text = "\n\n" if isinstance(tokenizer, Bytes) else next((end for end in END_OF_TEXT if end in own), "")
        if not text:
            raise TokenizerError(
                f"data.separator=auto: the tokenizer has none of {', '.join(END_OF_TEXT)}; "
                "name its token for the end of a text, or a text"
            )
    else:
        text = wanted.replace("\\n", "\n").replace("\\t", "\t")  # as they are typed
    tokens = tokenizer.encode(text)
    if (back := tokenizer.decode(tokens)).removeprefix(" ") != text.removeprefix(" "):
        raise TokenizerError(f"data.separator={text!r}: the tokenizer makes it {back!r}; name one that it has")
    return Separator(text, tuple(tokens), 0 if text in own else len(text.encode()))


def train_bpe(texts: Iterable[bytes], vocab_size: int, *, end: str = "") -> Library:
    """Byte-level BPE (GPT-2's cutting into words) of exactly `vocab_size` tokens; any text comes back to the byte.

    One of them is `end`, if given. Raises TokenizerError without the library, for fewer tokens than bytes, or for a
    text that has not as many merges.
    """
    own = [end] if end else []
    if vocab_size < 256 + len(own):
        raise TokenizerError(
            f"data.vocab_size must be at least {256 + len(own)}, one token per byte{f' and {end}' * len(own)}; "
            f"not {vocab_size}"
        )
    try:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    except ImportError:
        raise TokenizerError("data.tokenizer=bpe needs the tokenizers library; pip install 'isoflop[data]'") from None
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=alphabet, special_tokens=own, show_progress=False
    )
    backend.train_from_iterator((text.decode() for text in texts), trainer)
    if (found := backend.get_vocab_size()) != vocab_size:
        raise TokenizerError(f"the text has only {found} tokens to offer; set data.vocab_size={found} or add text")
    return Library(backend.to_str())


def find_tokenizer(tokenizer_id: str, vocab_size: int, folder: Path) -> Tokenizer:
    """The tokenizer of an id that a run recorded; those of the library are kept in `folder` under their id.

    Raises TokenizerError if it is not there or has another vocabulary.
    """
    if tokenizer_id == "bytes":
        return Bytes()
    if tokenizer_id == "none":
        return Numbers(vocab_size)
    path = folder / f"{check_name(tokenizer_id, 'tokenizer_id')}.json"
    if not path.is_file():
        raise TokenizerError(f"{path}: no such file; the run's tokenizer {tokenizer_id} belongs there")
    tokenizer = _read(path)
    if tokenizer.tokenizer_id != tokenizer_id:
        raise TokenizerError(
            f"{path} is {tokenizer.tokenizer_id}, the run was trained with {tokenizer_id}; they do not match"
        )
    if tokenizer.vocab_size != vocab_size:
        raise TokenizerError(f"{path} has {tokenizer.vocab_size} tokens, the model {vocab_size}; they do not match")
    return tokenizer


def _tokenizer_json(**parts: object) -> str:
    empty: dict[str, object] = {
        "truncation": None, "padding": None, "added_tokens": [], "normalizer": None, "post_processor": None,
    }  # fmt: skip
    return json.dumps({"version": "1.0", **empty, **parts}, ensure_ascii=False) + "\n"


def _byte_characters() -> list[str]:
    """The printable character that byte-level tokenizers write for each byte: itself, or one from U+0100 on."""
    shown = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in shown else next(others)) for byte in range(256)]
