"""Damage to the bytes of a file: what disks, transfers and people do to one, reproducible by a seed."""

import json
import re
from typing import Any

import numpy as np

ODD = (
    None, True, False, 0, -1, 1.5, 2**31, 2**63, 10**30, 1e308, "", "x", "nan", "\u00e9", "../x", "a" * 5000, [], {},
    [None], {"": 0}, [[[[]]]], "1e400", "2024-01-01",
)  # fmt: skip
CELLS = (
    b"", b"nan", b"inf", b"-inf", b"-1", b"0", b"x", b"1e400", b"9" * 400, b"2024-01-01T00:00:00Z", b"{}", b"[1]",
    b"1+2j", b'"', b"\xff\xfe", b"\0", b"true", b"None", b"1,5", b"\xe2\x80\xa8",
)  # fmt: skip


def damaged(content: bytes, other: bytes, random: np.random.Generator) -> bytes:
    """`content` after one to three kinds of damage; `other` is a file of another kind, parts of which are put in."""
    for _ in range(int(random.integers(1, 4))):
        kinds = (_flip, _cut, _zero, _double, _swap, _splice, _cells, _values, _nest, _insert)
        kind = kinds[int(random.integers(len(kinds)))]
        content = kind(content, other, random)
    return content


def _place(content: bytes, random: np.random.Generator) -> int:
    """A position; often near an end, where headers and footers are."""
    near = min(64, len(content))
    choice = random.random()
    if choice < 0.25:
        return int(random.integers(0, near + 1))
    if choice < 0.5:
        return len(content) - int(random.integers(0, near + 1))
    return int(random.integers(0, len(content) + 1))


def _flip(content: bytes, other: bytes, random: np.random.Generator) -> bytes:
    bits = bytearray(content)
    for _ in range(int(random.integers(1, 9)) if bits else 0):
        at = min(_place(content, random), len(bits) - 1)
        bits[at] ^= 1 << int(random.integers(8))
    return bytes(bits)


def _cut(content: bytes, other: bytes, random: np.random.Generator) -> bytes:
    at = _place(content, random)
    return content[:at] if random.random() < 0.7 else content[at:]


def _zero(content: bytes, other: bytes, random: np.random.Generator) -> bytes:
    at, length = _place(content, random), int(random.integers(1, 4097))
    fill = b"\0" if random.random() < 0.7 else b"\xff"
    return content[:at] + fill * len(content[at : at + length]) + content[at + length :]


def _double(content: bytes, other: bytes, random: np.random.Generator) -> bytes:
    at, length = _place(content, random), int(random.integers(1, 513))
    return content[:at] + content[at : at + length] * int(random.integers(2, 5)) + content[at + length :]


def _swap(content: bytes, other: bytes, random: np.random.Generator) -> bytes:
    lines = content.split(b"\n")
    i, j = (int(random.integers(len(lines))) for _ in range(2))
    lines[i], lines[j] = lines[j], lines[i]
    return b"\n".join(lines)


def _splice(content: bytes, other: bytes, random: np.random.Generator) -> bytes:
    at, start = _place(content, random), _place(other, random)
    return content[:at] + other[start : start + int(random.integers(1, 513))] + content[at:]


def _cells(content: bytes, other: bytes, random: np.random.Generator) -> bytes:
    """Values between separators become others."""
    parts = re.split(rb"([,\t\n: =]+)", content)
    for _ in range(int(random.integers(1, 5))):
        parts[int(random.integers(0, (len(parts) + 1) // 2)) * 2] = CELLS[int(random.integers(len(CELLS)))]
    return b"".join(parts)


def _values(content: bytes, other: bytes, random: np.random.Generator) -> bytes:
    """A value anywhere in JSON becomes one of another kind, or its key is lost."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return content
    return json.dumps(with_other_values(value, random)).encode()


def with_other_values(value: Any, random: np.random.Generator) -> Any:
    """JSON in which a value is one of another kind, or a key is lost."""
    if random.random() < 0.2 or not isinstance(value, dict | list) or not value:
        return ODD[int(random.integers(len(ODD)))]
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = keys[int(random.integers(len(keys)))]
    value = dict(value) if isinstance(value, dict) else list(value)
    if random.random() < 0.2:
        del value[key]
    else:
        value[key] = with_other_values(value[key], random)
    return value


def _nest(content: bytes, other: bytes, random: np.random.Generator) -> bytes:
    at, depth = _place(content, random), int(10 ** random.uniform(1, 5))
    opened = (b"[", b'{"a":', b"(", b"- ")[int(random.integers(4))]
    return content[:at] + opened * depth + content[at:]


def _insert(content: bytes, other: bytes, random: np.random.Generator) -> bytes:
    at = _place(content, random)
    return content[:at] + random.bytes(int(random.integers(1, 65))) + content[at:]
