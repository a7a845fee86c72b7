"""Text out of tables, stores and files of others, as a terminal or a page may show it. Standard library only."""

import re
from collections.abc import Sequence

_HIDDEN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)  # control characters but newline and tab, escapes of a terminal, marks that turn text round, half characters


def printable(text: str) -> str:
    """The same with characters that a terminal obeys, or that turn text round, as escapes: \\x1b, \\u202e."""
    return _HIDDEN.sub(lambda found: ascii(found[0])[1:-1], text)


def counted(count: int, noun: str) -> str:
    """A count with what it counts: "1 cell", "2 cells"."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def loss_text(value: float, *, of: float | None = None, sign: str = "") -> str:
    """A loss to four decimals, below 0.1 to as many significant digits; a difference of losses by the loss it is `of`.

    >>> loss_text(2.35421), loss_text(6.1234e-5), loss_text(0.00042, of=2.3), loss_text(4.2e-7, of=6e-5, sign="+")
    ('2.3542', '6.123e-05', '0.0004', '+4.200e-07')
    """
    return format(value, f"{sign}.4f" if abs(value if of is None else of) >= 0.1 else f"{sign}#.4g")


def shortened(names: Sequence[str], most: int) -> dict[str, str]:
    """Labels of at most `most` letters that tell names apart: without what all begin with, cut in the middle.

    >>> shortened(["llama-base-2048-a", "llama-base-2048-b", "llama-base-4096-c"], 8)
    {'llama-base-2048-a': '...048-a', 'llama-base-2048-b': '...048-b', 'llama-base-4096-c': '...096-c'}
    """
    if max(map(len, names), default=0) <= most:
        return {name: name for name in names}
    first, last = min(names), max(names)  # what these two begin with, all do
    shared = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), 0)
    dropped = shared if shared > 3 else 0
    labels = {name: _cut("..." * (dropped > 0) + name[dropped:], most) for name in names}
    if len(set(labels.values())) == len(labels):
        return labels
    return {name: _cut(f"{k} {name}", most) for k, name in enumerate(names, start=1)}


def _cut(text: str, most: int) -> str:
    tail = (most - 3) // 2
    return text if len(text) <= most else f"{text[: most - 3 - tail]}...{text[len(text) - tail :]}"


def plain_markdown(text: str) -> str:
    """The same as a part of Markdown in which it can be no tag, no entity, no link and no image."""
    return printable(text).replace("&", "&amp;").replace("<", "&lt;").replace("](", "]\\(")


def code_span(text: str) -> str:
    """The same as code inside a line of Markdown, letter by letter: between more backticks than it holds in a row."""
    shown = printable(text).replace("\n", "\\n")
    fence = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    edge = " " if shown.startswith("`") or shown.endswith("`") else ""
    return f"{fence}{edge}{shown}{edge}{fence}"
