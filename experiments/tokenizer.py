"""Tokenizers as the text of a tokenizer.json, which the `tokenizers` library, transformers and vLLM read.

bytes: token = byte, 256 of them, no library needed. numbers: the tokens of a source without text, written as decimal
numbers between spaces.
"""

import json


def bytes_json() -> str:
    """Token id = byte value; any text comes back to the byte."""
    vocabulary = {char: byte for byte, char in enumerate(_byte_characters())}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    return _tokenizer_json(
        model={"type": "BPE", "vocab": vocabulary, "merges": []}, pre_tokenizer=byte_level, decoder=byte_level
    )


def numbers_json(vocab_size: int) -> str:
    """Token id = the number."""
    vocabulary = {str(i): i for i in range(vocab_size)}
    return _tokenizer_json(
        model={"type": "WordLevel", "vocab": vocabulary, "unk_token": "0"},
        pre_tokenizer={"type": "WhitespaceSplit"},
        decoder=None,
    )


def _tokenizer_json(**parts: object) -> str:
    empty = {"truncation": None, "padding": None, "added_tokens": [], "normalizer": None, "post_processor": None}
    return json.dumps({"version": "1.0", **empty, **parts}, ensure_ascii=False) + "\n"


def _byte_characters() -> list[str]:
    """The printable character that byte-level tokenizers write for each byte: itself, or one from U+0100 on."""
    shown = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in shown else next(others)) for byte in range(256)]
