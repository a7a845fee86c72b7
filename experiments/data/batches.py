"""An open corpus: its tokens on both sides of the split, its held-out windows, and the batches of every step.

Shards have the layout of llm.c, so other trainers read them. `data.corpus` makes a corpus.

Batches are a pure function of (seed, size, step), and of the shares of a mixture: no state, so a resumed or
branched run reads what it would have read.
The corpus is cut into windows of T + 1 tokens without overlap, and every epoch visits them in a new order that
(seed, size, epoch) alone decides, where a size is a depth and a width. Sizes of one seed share no order, so that their
losses share no noise of it. Batch size, budget, rate, optimiser and all else of a model do not enter: nested budgets
read the same prefix, and arms of one size and seed the same text in the same order. The corpus of a mixture holds its
domains one after the other; which comes when is `domains.interleave`.
"""

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple, NotRequired, TypedDict

import numpy as np

from isoflop.experiments.config import DataSpec
from isoflop.experiments.data import CorpusError
from isoflop.experiments.data.domains.interleave import interleaved
from isoflop.experiments.data.token_files import SIDES, Place, Side
from isoflop.read_json import JsonError, read_bytes, read_json

MANIFEST = "manifest.json"
DOCUMENTS = "held_out.documents"  # int64: where each held-out document ends in its shard, in tokens

Size = tuple[int, int]  # layers and width of a model


class _Stage(TypedDict):
    stage: str
    documents: int
    changed: int
    dropped: int
    bytes_removed: int
    bytes_added: NotRequired[int]
    documents_added: NotRequired[int]  # by cutting the texts of files into pieces


class Read(TypedDict):
    """How much text was read."""

    documents: int
    bytes: int


class Domain(TypedDict):
    """One of the texts of a mixture, whose windows follow those of the domain before it on both sides."""

    name: str
    corpus_id: str
    windows: int  # of the training side
    held_out_windows: int


class Losses(TypedDict):
    """Of the documents compared, how many are `changed` by their tokens, and the first difference."""

    changed: int
    compared: int
    was: str
    became: str


class Behind(TypedDict):
    """What stands behind each document."""

    text: str
    tokens: list[int]


class Manifest(TypedDict):
    """What is read of the manifest of a corpus."""

    corpus_id: str
    name: str
    tokenizer_id: str
    vocab_size: int
    licence: str
    train: Side
    held_out: Side
    bytes_per_token: float | None
    read: NotRequired[Read]
    skipped: NotRequired[dict[str, int]]
    stages: NotRequired[list[_Stage]]
    losses: NotRequired[Losses]
    separator: NotRequired[Behind]
    samples: NotRequired[str]  # a hash of parts of the files; older corpora have none
    domains: NotRequired[list[Domain]]


class Mixture(NamedTuple):
    """The `shares` of domains that have so many training `windows`."""

    shares: tuple[float, ...]
    windows: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Corpus:
    """Tokens on both sides of the split, memory-mapped, and the windows that every model is evaluated on."""

    folder: Path
    corpus_id: str  # hash of the tokens
    tokenizer_id: str
    vocab_size: int
    train_tokens: int
    held_out_tokens: int
    bytes_per_token: float  # on the held-out text; NaN where there is no text
    eval_id: str  # hash of the held-out windows
    loss_floor: float  # exact loss of the best predictor on those windows, NaN where unknown
    train: np.ndarray
    held_out: np.ndarray
    eval_windows: np.ndarray  # (windows, T + 1), spread evenly over the held-out documents
    manifest: Manifest
    places: dict[str, Place]  # of both sides
    warnings: tuple[str, ...] = ()  # what a reader of its losses must know

    @property
    def document_ends(self) -> np.ndarray | None:
        """Where each held-out document ends, in tokens; None where the corpus does not know its documents.

        Raises CorpusError for a file that does not fit the held-out side.
        """
        path = self.folder / DOCUMENTS
        if not path.exists():
            return None
        try:
            content = read_bytes(path)
        except JsonError as error:
            raise CorpusError(str(error)) from error
        ends = np.frombuffer(content[: len(content) // 8 * 8], "<i8")
        whole = len(content) == ends.nbytes and len(ends) and ends[0] > 0 and (np.diff(ends) >= 0).all()
        if not whole or ends[-1] != self.held_out_tokens:
            raise CorpusError(f"{path}: not the ends of its held-out documents; delete the folder and prepare again")
        return ends

    @property
    def domains(self) -> list[Domain]:
        """The domains of the corpus of a mixture, in alphabetical order; none of any other."""
        return self.manifest.get("domains", [])

    def mixture(self, data: DataSpec) -> Mixture | None:
        """How a run on `data` mixes the domains of this corpus; None for a corpus without."""
        if not data.mixture:
            return None
        shares = tuple(data.mixture[one["name"]] for one in self.domains)
        return Mixture(shares, tuple(one["windows"] for one in self.domains))

    @property
    def prepared(self) -> "Prepared":
        """What another process opens it by."""
        floor = None if math.isnan(self.loss_floor) else self.loss_floor
        return Prepared(folder=str(self.folder), eval_id=self.eval_id, loss_floor=floor, places=self.places)


class Prepared(TypedDict):
    """A corpus that a launch has prepared: a job opens it by this, and asks neither its source nor its cleaning."""

    folder: str
    eval_id: str
    loss_floor: float | None
    places: dict[str, Place]


class OpenCorpora:
    """Corpora by their data, each opened when it is first called for and then kept open.

    `known` are some that are prepared, by the `corpus_key` of their data: opened as they are, unless their files
    have changed. Others are made by `prepare`.
    """

    def __init__(self, prepare: Callable[[DataSpec], Corpus], known: Mapping[str, Prepared] | None = None) -> None:
        self._prepare, self._known = prepare, known or {}
        self._open: dict[str, Corpus] = {}

    def __call__(self, data: DataSpec) -> Corpus:
        key = corpus_key(data)
        if key not in self._open:
            known = self._known.get(key)
            whole = known is not None and all(map(_is_unchanged, known["places"].values()))
            self._open[key] = reopen(data, known) if known and whole else self._prepare(data)
        return self._open[key]


def corpus_key(data: DataSpec) -> str:
    """What names a corpus that is open: its data. Mixtures of the same domains have one corpus."""
    return repr(replace(data, mixture=dict.fromkeys(sorted(data.mixture), 0.0)))


def reopen(data: DataSpec, known: Prepared) -> Corpus:
    """A corpus that was prepared before, from the files where it lay then. Raises CorpusError if its tokens differ."""
    folder = Path(known["folder"])
    corpus = open_folder(data, folder, read_manifest(folder), known["places"])
    if corpus.eval_id != known["eval_id"]:
        raise CorpusError(f"{folder}: its held-out tokens have changed since the launch; isoflop run launches it anew")
    return replace(corpus, loss_floor=math.nan if known["loss_floor"] is None else known["loss_floor"])


def spread_windows(tokens: np.ndarray, *, context_length: int, n_tokens: int) -> np.ndarray:
    """Windows (W, T + 1) at even distances over all of `tokens`: enough for `n_tokens` targets, or all there are."""
    starts = spread_starts(len(tokens), context_length=context_length, n_tokens=n_tokens)
    return tokens[starts[:, None] + np.arange(context_length + 1)]


def spread_starts(available_tokens: int, *, context_length: int, n_tokens: int) -> np.ndarray:
    """The positions in the tokens where the windows of `spread_windows` begin, (windows,)."""
    available = available_tokens // (context_length + 1)
    wanted = min(available, -(-n_tokens // context_length))
    return np.arange(wanted) * available // wanted * (context_length + 1)


def read_manifest(folder: Path) -> Manifest:
    """What a complete folder says of itself. Raises CorpusError naming the file."""
    remedy = "delete the folder and prepare again"
    found: Manifest = read_json(folder / MANIFEST, Manifest, error=CorpusError, remedy=remedy)
    if found["corpus_id"] != id_of_tokens(found):
        raise CorpusError(f"{folder / MANIFEST}: its corpus_id is not that of what it states; {remedy}")
    return found


def id_of_tokens(manifest: Mapping[str, Any]) -> str:
    """The identity of a corpus: a hash of its vocabulary's size and of the tokens of both sides."""
    whole = hashlib.sha256(str(manifest["vocab_size"]).encode())
    for side in SIDES:
        whole.update(manifest[side]["sha256"].encode())
    for domain in manifest.get("domains", []):
        whole.update(str(domain["windows"]).encode())
    return whole.hexdigest()[:12]


def sides(manifest: Manifest) -> dict[str, Side]:
    """Both sides of the split, by name."""
    return {"train": manifest["train"], "held_out": manifest["held_out"]}


def _is_unchanged(place: Place) -> bool:
    try:
        return os.stat(place["file"]).st_mtime_ns == place["modified"]
    except OSError:
        return False


def open_folder(data: DataSpec, folder: Path, manifest: Manifest, places: dict[str, Place]) -> Corpus:
    """The corpus in a complete folder, without its loss floor. Raises CorpusError for a side below one window."""
    shards: dict[str, np.ndarray] = {
        side: np.memmap(place["file"], place["dtype"], "r", place["offset"], (place["tokens"],))
        for side, place in places.items()
    }
    for side, tokens in shards.items():
        if len(tokens) <= data.context_length:
            raise CorpusError(
                f"corpus {data.name}: its {side.replace('_', '-')} side has {len(tokens)} tokens, fewer than "
                f"one window of data.context_length={data.context_length} + 1; add text or shorten the context"
            )
    corpus_id, shards["train"] = _capped(manifest["corpus_id"], shards["train"], data)
    wanted = len(shards["held_out"]) if "domains" in manifest else data.eval_tokens  # of domains it holds no other
    windows = spread_windows(shards["held_out"], context_length=data.context_length, n_tokens=wanted)
    eval_id = hashlib.sha256(str(windows.shape).encode() + windows.tobytes()).hexdigest()[:12]
    return Corpus(
        folder=folder,
        corpus_id=corpus_id,
        tokenizer_id=manifest["tokenizer_id"],
        vocab_size=manifest["vocab_size"],
        train_tokens=len(shards["train"]),
        held_out_tokens=len(shards["held_out"]),
        bytes_per_token=manifest["bytes_per_token"] or math.nan,
        eval_id=eval_id,
        loss_floor=math.nan,
        train=shards["train"],
        held_out=shards["held_out"],
        eval_windows=windows,
        manifest=manifest,
        places=places,
        warnings=(*_lossy(manifest), *_small(data, windows)),
    )


def _lossy(manifest: Manifest) -> list[str]:
    """A line where the tokens of a corpus, or of a domain of one, are not all of its text."""
    if (losses := manifest.get("losses")) is None:
        return []
    return [
        f"corpus {manifest['name']}: tokenizer {manifest['tokenizer_id']} loses text: {losses['changed']} of "
        f"{losses['compared']} documents compared come back as others, the first with {losses['became']!r} for "
        f"{losses['was']!r}; losses and bits per byte are of what it keeps, not to be compared across tokenizers"
    ]


def _small(data: DataSpec, windows: np.ndarray) -> list[str]:
    """A line where the held-out side has fewer tokens than data.eval_tokens, in whole windows."""
    if (measured := len(windows) * data.context_length) >= data.eval_tokens:
        return []
    which = "as many of each domain as the smallest holds out" if data.mixture else "all that it holds out"
    return [
        f"corpus {data.name}: final losses are measured on {measured:,} tokens, {which}, not on "
        f"data.eval_tokens={data.eval_tokens:,}; add text or raise data.held_out_fraction"
    ]


def _capped(corpus_id: str, train: np.ndarray, data: DataSpec) -> tuple[str, np.ndarray]:
    """The corpus's id and training tokens; with data.unique_tokens so many targets, in windows at even distances.

    Raises CorpusError for more unique tokens than there are, or fewer than one window.
    """
    if data.unique_tokens is None:
        return corpus_id, train
    length = data.context_length
    available = len(train) // (length + 1) * length
    if not length <= data.unique_tokens <= available:
        raise CorpusError(
            f"data.unique_tokens={data.unique_tokens} must lie between one window of {length} and the {available} "
            f"that corpus {data.name} has"
        )
    windows = spread_windows(train, context_length=length, n_tokens=data.unique_tokens)
    return digest({"corpus": corpus_id, "windows": list(windows.shape)}), windows.reshape(-1)


def digest(value: Mapping[str, Any]) -> str:
    """The first 12 hexadecimal digits of the hash of a value, as JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def batch(tokens: np.ndarray, *, step: int, **which: Any) -> np.ndarray:
    """Inputs and targets of one step, (B, T + 1) int64: the inputs are [:, :-1], the targets [:, 1:]."""
    return batches(tokens, step=step, count=1, **which)[0]


def batches(
    tokens: np.ndarray, *, seed: int, size: Size, step: int, count: int, batch_size: int, context_length: int
) -> np.ndarray:
    """The batches of `count` steps from `step` on, (count, B, T + 1) int64, in one gather."""
    n_windows = count_windows(len(tokens), context_length)
    window = window_numbers(n_windows, seed=seed, size=size, step=step, count=count, batch_size=batch_size)
    return gather(tokens, window, context_length)


def window_numbers(
    n_windows: int, *, seed: int, size: Size, step: int, count: int, batch_size: int, mixture: Mixture | None = None
) -> np.ndarray:
    """Which windows the batches of `count` steps from `step` on are made of, (count, B)."""
    if mixture is not None:
        order = partial(_order_of_domain, seed, size, mixture.windows)
        begin, end = step * batch_size, (step + count) * batch_size
        found = interleaved(mixture.shares, mixture.windows, order, seed=seed, size=size, begin=begin, end=end)
        return found.reshape(count, batch_size)
    position = np.arange(step * batch_size, (step + count) * batch_size)
    epoch, within = np.divmod(position, n_windows)
    window = np.concatenate([_order(seed, size, int(e), n_windows)[within[epoch == e]] for e in np.unique(epoch)])
    return window.reshape(count, batch_size)


def gather(tokens: np.ndarray, windows: np.ndarray, context_length: int) -> np.ndarray:
    """The tokens of windows of any shape, (.., T + 1) int64."""
    return tokens[windows[..., None] * (context_length + 1) + np.arange(context_length + 1)].astype(np.int64)


def count_windows(n_tokens: int, context_length: int) -> int:
    """Whole windows in a corpus; each predicts `context_length` tokens, so an epoch is their product.

    Raises ValueError if there is none.
    """
    windows = n_tokens // (context_length + 1)
    if not windows:
        raise ValueError(f"{n_tokens} tokens are fewer than one window of context_length={context_length} + 1")
    return windows


def remember_orders(count: int) -> None:
    """Cache so many orders at least: a process that trains several seeds by turns needs one for each."""
    global _order
    if count > (_order.cache_parameters()["maxsize"] or 0):
        _order = lru_cache(maxsize=count)(_order.__wrapped__)


@lru_cache(maxsize=4)
def _order(seed: int, size: Size, epoch: int, n_windows: int, domain: int = 0) -> np.ndarray:
    """The order of the windows in one epoch, (n_windows,). The counter holds the size, so that sizes share no order.

    `domain` counts those of a mixture from 1.
    """
    return np.random.Generator(np.random.Philox(key=[seed, epoch], counter=[0, domain, *size])).permutation(n_windows)


def _order_of_domain(seed: int, size: Size, windows: tuple[int, ...], domain: int, epoch: int) -> np.ndarray:
    return _order(seed, size, epoch, windows[domain], domain + 1)
