"""Multiple-choice tasks made from held-out text alone: no network, nothing to download, any language.

next_line: which of four lines of the same document comes next. identifier: which of four words of the same document
comes next. The distractors are of the document too, so that knowing its topic is not enough. Items are a function of
the text: two runs on one corpus answer the same ones, and are compared item by item.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from isoflop.experiments.data.batches import Corpus
from isoflop.experiments.data.tokenizer import Tokenizer

CHOICES = 4
TASKS = ("next_line", "identifier")
_WORD = re.compile(r"[^\W\d]\w{3,23}")
_LINE = (8, 120)  # characters without the indent
_LONGEST = 65_536  # tokens of a document that are looked at
Item = dict[str, Any]  # context, choices, and answer: the number of the right choice
Make = Callable[[str, Tokenizer, int, np.random.Generator], Iterator[Item]]


class TaskError(ValueError):
    """A task cannot be made from this text, or is not known."""


def write_items(task: str, corpus: Corpus, tokenizer: Tokenizer, path: Path, *, count: int) -> int:
    """Write up to `count` items of a task as JSON lines; returns how many.

    Raises TaskError for a corpus without text, or one that has no item.
    """
    if corpus.tokenizer_id == "none":
        raise TaskError(f"task {task} is made of text, and corpus {corpus.folder.name} is tokens without any")
    make: Make = {"next_line": _next_line, "identifier": _identifier}[task]
    room = corpus.eval_windows.shape[1] - 1
    items = list(_spread(corpus, tokenizer, make, room, count))
    if not items:
        raise TaskError(f"the held-out text of corpus {corpus.folder.name} has no item for task {task}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    return len(items)


def _spread(corpus: Corpus, tokenizer: Tokenizer, make: Make, room: int, count: int) -> Iterator[Item]:
    """Items of the documents in turn, until there are enough or none has another."""
    texts = [text for text in _documents(corpus, tokenizer, count) if len(text) > 4 * room]
    sources = [make(text, tokenizer, room, np.random.default_rng(i)) for i, text in enumerate(texts)]
    made = 0
    while sources and made < count:
        left = []
        for source in sources:
            item = next(source, None)
            if item is not None and made < count:
                yield item
                made += 1
                left.append(source)
        sources = left


def _documents(corpus: Corpus, tokenizer: Tokenizer, most: int) -> Iterator[str]:
    """Held-out documents, at even distances if there are more than `most`; the whole side where they are unknown."""
    known = corpus.document_ends
    ends = np.array([corpus.held_out_tokens]) if known is None else known
    starts = np.concatenate([[0], ends[:-1]])
    wanted = np.unique(np.linspace(0, len(ends) - 1, min(most, len(ends))).astype(int))
    for start, end in zip(starts[wanted], ends[wanted], strict=True):
        yield tokenizer.decode(corpus.held_out[start : min(end, start + _LONGEST)].tolist())


def _next_line(text: str, tokenizer: Tokenizer, room: int, rng: np.random.Generator) -> Iterator[Item]:
    lines = text.splitlines(keepends=True)
    starts = np.concatenate([[0], np.cumsum([len(line) for line in lines])])
    usable = {
        i for i, line in enumerate(lines)
        if _LINE[0] <= len(line.strip()) <= _LINE[1] and len(tokenizer.encode(line)) <= room // 2
    }  # fmt: skip
    for at in rng.permutation(sorted(usable)):
        if at == 0:
            continue
        distinct = {lines[i].strip(): lines[i] for i in sorted(usable)}
        distinct.pop(lines[at].strip())
        candidates = list(distinct.values())
        others = [candidates[i] for i in rng.permutation(len(candidates))[: CHOICES - 1]]
        if item := _item(text[: starts[at]], lines[at], others, tokenizer, room, rng):
            yield item


def _identifier(text: str, tokenizer: Tokenizer, room: int, rng: np.random.Generator) -> Iterator[Item]:
    words = sorted(set(_WORD.findall(text)))
    usable = [word for word in words if len(tokenizer.encode(word)) <= room // 4]
    places = [match for match in _WORD.finditer(text) if match[0] in set(usable) and match.start() > 0]
    for k in rng.permutation(len(places)):
        word = places[k][0]
        others = _nearest([other for other in usable if other != word], len(word), rng)
        if item := _item(text[: places[k].start()], word, others, tokenizer, room, rng):
            yield item


def _nearest(candidates: Sequence[str], length: int, rng: np.random.Generator) -> list[str]:
    """CHOICES - 1 of the candidates whose length is nearest, so that length gives nothing away."""
    near = sorted(candidates, key=lambda other: (abs(len(other) - length), other))[: 3 * CHOICES]
    if len(near) < CHOICES - 1:
        return []
    return [near[i] for i in rng.permutation(len(near))[: CHOICES - 1]]


def _item(
    before: str, answer: str, others: Sequence[str], tokenizer: Tokenizer, room: int, rng: np.random.Generator
) -> Item | None:
    """The item, its context cut at the left so that the longest choice fits the window after it."""
    if len(others) < CHOICES - 1:
        return None
    order = rng.permutation(CHOICES)
    choices = [[answer, *others][i] for i in order]
    longest = max(len(tokenizer.encode(choice)) for choice in choices)
    context = tokenizer.decode(tokenizer.encode(before[-8 * room :])[-(room - longest) :]).lstrip("\ufffd")
    if not context.strip():
        return None
    return {"context": context, "choices": choices, "answer": int(np.flatnonzero(order == 0)[0])}
