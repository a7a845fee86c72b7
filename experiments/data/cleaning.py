"""Cleaning of text, stage by stage: each has a name, is switched on by it, and counts what it did.

A stage maps a text to a text, or to None when the document is to be dropped. A file of text is cleaned before it is
cut, for what a stage takes out may be longer than a piece: of such a text `repetition` drops pieces.
"""

import html
import re
import unicodedata
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from isoflop.experiments.data import CorpusError
from isoflop.experiments.data.records import cut_text

SHORTEST, LONGEST = 64, 2_000_000  # characters of a document
MOST_REPEATED = 0.5  # of the characters, in lines that were there before
LEAST_COMPRESSED = 0.08  # of its size: what zlib makes of text that repeats itself within lines
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b\u2060\ufeff\ufffe\uffff]")
_FLAG = r"(?:checked|compact|controls|defer|disabled|hidden|itemscope|nowrap|open|readonly|required|selected)\b"
_VALUED = r"[\w:@.-]++\s*+=(?!=)"
_VALUE = r"""\s*(?:"[^"]*"|'[^']*'|[^\s"'<>]+)"""
_LONE = rf"(?:\w++-[\w-]++|{_FLAG})(?!\s*=)"  # an attribute without a value
_ATTRIBUTE = rf"""(?:\s++|(?<=["']))(?:{_VALUED}{_VALUE}|{_LONE})"""
# What stands in a tag behind its name. Broken attributes too where the first looks like one: of code between < and > it
# does not.
_REST = rf"(?:(?>{_ATTRIBUTE})*+\s*+/?>|(?=\s++(?:{_VALUED}|{_LONE}))[^<>]*+>)"
_INLINE = re.compile(
    r"</?(?:a|abbr|b|cite|code|del|em|font|i|img|input|ins|kbd|label|link|mark|meta|noscript|picture|samp|small|span|"
    rf"strong|sub|sup|time|u|wbr){_REST}",
    re.IGNORECASE,
)
_CELL = rf"</?t[dh]{_REST}"
_BLOCK = (
    r"(?:<!doctype\b[^<>]*>|</?(?:address|article|aside|blockquote|body|br|button|caption|center|dd|details|div|dl|dt|"
    r"fieldset|figcaption|figure|footer|form|h[1-6]|head|header|hr|html|legend|li|main|nav|ol|optgroup|option|p|pre|"
    rf"section|select|summary|table|tbody|t[dh]|textarea|tfoot|thead|title|tr|ul){_REST})"
)
_CELLS = re.compile(rf"(?:{_CELL}\s*)+", re.IGNORECASE)
_BLOCKS = re.compile(rf"{_BLOCK}(?:\s*{_BLOCK})*(?:\s*\n)?", re.IGNORECASE)
_HIDDEN = re.compile(r"<(script|style)\b[^<>]*>|<!--", re.IGNORECASE)
_END = {kind: re.compile(rf"</{kind}\s*>", re.IGNORECASE) for kind in ("script", "style")} | {"": re.compile("-->")}
_NOTICE = re.compile(
    r"all rights reserved|(?:use|uses|accept) (?:of )?cookies|cookie policy|privacy policy|terms of (?:use|service)|"
    r"subscribe to our newsletter|click here to|do not edit",
)
_LONGEST_NOTICE = 400  # characters of its line


def normalise_unicode(text: str) -> str:
    """Canonical composition, one newline for every convention."""
    if text.isascii():
        return text.replace("\r\n", "\n").replace("\r", "\n")
    return unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n"))


def remove_control(text: str) -> str:
    """The text without control characters (tabs and line breaks stay), zero-width spaces and byte order marks."""
    return _CONTROL.sub("", text)


def remove_markup(text: str) -> str:
    """HTML as it is read: no tags, scripts and comments, entities as characters, lines and cells apart.

    What `unicode` and `control` do stays done: no entity brings back a control character. Text without a closing tag
    stays as it is.
    """
    if "</" not in text:
        return text
    shown = _laid_out(_INLINE.sub("", _without_hidden(text)))
    read = html.unescape(shown)
    for stage in (normalise_unicode, remove_control):
        if stage(shown) == shown:
            read = stage(read)
    return read


def _laid_out(text: str) -> str:
    """The text with a line break, or a tab between cells, for each run of tags that stand between blocks."""
    parts, at = [], 0
    for run in _BLOCKS.finditer(text):
        parts += [text[at : run.start()].rstrip(), "\t" if _CELLS.fullmatch(run[0]) else "\n"]
        at = run.end()
    if not parts:
        return text
    return "".join([*parts, text[at:]]).strip("\n\t") + ("\n" if text.endswith("\n") else "")


def _without_hidden(text: str) -> str:
    """The text without scripts, styles and comments; what has no end stays. Each end is searched for once."""
    shown, at, endless = [], 0, set[str]()
    for start in _HIDDEN.finditer(text):
        kind = (start[1] or "").lower()
        if start.start() < at or kind in endless:
            continue
        if (end := _END[kind].search(text, start.end())) is None:
            endless.add(kind)
            continue
        shown.append(text[at : start.start()])
        at = end.end()
    return "".join([*shown, text[at:]])


def remove_boilerplate(text: str) -> str:
    """Short lines that legal notices and web pages repeat."""
    if not _NOTICE.search(text.lower()):
        return text
    return "".join(
        line
        for line in text.splitlines(keepends=True)
        if len(line) > _LONGEST_NOTICE or not _NOTICE.search(line.lower())
    )


def of_length(text: str) -> str | None:
    """None for a text shorter than SHORTEST or longer than LONGEST characters."""
    return text if SHORTEST <= len(text) <= LONGEST else None


def of_variety(text: str) -> str | None:
    """None for text that mostly repeats its own lines, or that shrinks to almost nothing."""
    lines = [line for line in text.split("\n") if line.strip()]
    total = sum(map(len, lines))
    if total > SHORTEST and 1 - sum(map(len, set(lines))) / total > MOST_REPEATED:
        return None
    content = text.encode()
    return None if len(zlib.compress(content, 1)) < LEAST_COMPRESSED * len(content) else text


def of_length_when_cut(text: str) -> str | None:
    """None for a text shorter than SHORTEST: none is too long that is cut."""
    return text if len(text) >= SHORTEST else None


def of_variety_when_cut(text: str) -> str | None:
    """The pieces that `of_variety` keeps; None where it keeps none."""
    return "".join(piece for piece in map(bytes.decode, cut_text(text.encode())) if of_variety(piece)) or None


STAGES: dict[str, Callable[[str], str | None]] = {
    "unicode": normalise_unicode,
    "control": remove_control,
    "markup": remove_markup,
    "boilerplate": remove_boilerplate,
    "length": of_length,
    "repetition": of_variety,
}
WHEN_CUT = {"length": of_length_when_cut, "repetition": of_variety_when_cut}  # of a text that is cut afterwards
# What was done in another way before, with the number of this way: in the recipe of the corpora that it is done to.
REVISED = {"markup": 2, "boilerplate": 2, "near-duplicates": 2, "cut": 2, "bpe": 2, "tables": 2}


@dataclass
class Count:
    """What a stage did: `documents` came in, `dropped` of them ended there, `changed` came out as other text."""

    stage: str
    documents: int = 0
    bytes_in: int = 0
    changed: int = 0
    dropped: int = 0
    bytes_removed: int = 0  # with the dropped documents and from the changed ones
    bytes_added: int = 0  # to changed documents: some characters are longer when composed
    documents_added: int = 0  # by cutting

    def add(self, before: int, after: int | None, *, changed: bool) -> None:
        """One document of so many bytes, and what it left with; None when it was dropped."""
        self.documents += 1
        self.bytes_in += before
        self.dropped += after is None
        self.changed += changed
        self.bytes_removed += max(0, before - (after or 0))
        self.bytes_added += max(0, (after or 0) - before)


def check_stages(names: Sequence[str], others: Sequence[str] = ()) -> None:
    """Raise CorpusError for a stage that does not exist."""
    allowed = [*STAGES, *others]
    for name in names:
        if name not in allowed:
            raise CorpusError(f"data.clean: no stage {name!r}; stages are {', '.join(allowed)}")


def clean(content: bytes, counts: Sequence[Count], *, cut: bool = False) -> bytes | None:
    """A document through the stages that `counts` names, in that order; None when one of them drops it.

    `cut` is for a text that is cut into pieces afterwards.
    """
    stages = STAGES | WHEN_CUT if cut else STAGES
    text = content.decode()
    for count in counts:
        cleaned = stages[count.stage](text)
        if cleaned is None:
            count.add(len(content), None, changed=False)
            return None
        changed = cleaned != text
        after = cleaned.encode() if changed else content
        count.add(len(content), len(after), changed=changed)
        text, content = cleaned, after
    return content
