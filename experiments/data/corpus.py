"""A corpus on disk: documents -> cleaned -> split by the hash of their name -> tokens -> one shard a side, a manifest.

Shards have the layout of llm.c, so other trainers read them. A corpus appears under its name when it is complete: a
reader sees a whole corpus or none, and two processes that prepare the same one at once end with the same folder. The
folder's name hashes the recipe and the files' sizes and times, so that an unchanged corpus is found without reading
it; `corpus_id` hashes the tokens themselves.
"""

import hashlib
import json
import math
import sys
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path

import numpy as np

from isoflop.experiments.config import DataSpec, SyntheticSpec
from isoflop.experiments.data import hub, near_duplicates
from isoflop.experiments.data.cleaning import check_stages
from isoflop.experiments.data.shards import MANIFEST, SIDES, write_corpus
from isoflop.experiments.data.sources import CorpusError, matching_files, python_sources
from isoflop.experiments.data.synthetic import Language
from isoflop.experiments.data.synthetic import check as check_language
from isoflop.experiments.data.token_files import open_tokens
from isoflop.experiments.data.token_source import open_sides

LAYOUT_VERSION = 1
SOURCES = ("python-source", "files", "huggingface", "tokens", "synthetic")
TEXT_SOURCES = ("python-source", "files", "huggingface")
_CHANGES_TEXT = ("text_column", "skip_bad", "clean", "tokenizer", "vocab_size")  # hashed where they are not the default


@dataclass(frozen=True, eq=False)
class Corpus:
    """Tokens on both sides of the split, memory-mapped, and what every model is evaluated on."""

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
    manifest: dict


class Corpora:
    """The corpora in one folder, each prepared when it is first asked for and then kept open."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._open: dict[str, Corpus] = {}

    def __call__(self, data: DataSpec) -> Corpus:
        key = repr(data)
        if key not in self._open:
            self._open[key] = prepare(data, self._root)
        return self._open[key]


def prepare(data: DataSpec, root: Path) -> Corpus:
    """The corpus that `data` describes, made under `root` unless it is there already.

    Raises CorpusError for globs that match nothing, unreadable files, a split with an empty side, or too few tokens
    for one window on either side.
    """
    _check(data)
    root = Path(root)
    recipe, files = _recipe(data)
    folder = root / f"{data.name}-{_digest(recipe)}"
    if not (folder / MANIFEST).exists():
        write_corpus(folder, data, files, recipe)
    return _open(folder, data)


def spread_windows(tokens: np.ndarray, *, context_length: int, n_tokens: int) -> np.ndarray:
    """Windows of T + 1 at even distances over all of `tokens`: enough for `n_tokens` targets, or all there are."""
    starts = spread_starts(len(tokens), context_length=context_length, n_tokens=n_tokens)
    return tokens[starts[:, None] + np.arange(context_length + 1)]


def spread_starts(available_tokens: int, *, context_length: int, n_tokens: int) -> np.ndarray:
    """Where the windows of `spread_windows` begin."""
    available = available_tokens // (context_length + 1)
    wanted = min(available, -(-n_tokens // context_length))
    return np.arange(wanted) * available // wanted * (context_length + 1)


def _check(data: DataSpec) -> None:
    if data.source not in SOURCES:
        raise CorpusError(f"data.source must be one of {', '.join(SOURCES)}; not {data.source!r}")
    is_text = data.source in TEXT_SOURCES
    allowed = "bytes, bpe or a tokenizer.json" if is_text else "'none'"
    known = data.tokenizer in ("bytes", "bpe") or data.tokenizer.endswith(".json")
    if not (known if is_text else data.tokenizer == "none"):
        raise CorpusError(f"data.tokenizer must be {allowed} with data.source={data.source}; not {data.tokenizer!r}")
    if data.tokenizer.endswith(".json") and not Path(data.tokenizer).expanduser().is_file():
        raise CorpusError(f"data.tokenizer: {data.tokenizer} is not a file (searched from {Path.cwd()})")
    check_stages(data.clean, [near_duplicates.STAGE])
    if near_duplicates.STAGE in data.clean:
        near_duplicates.check_installed()
    if not 0 < data.held_out_fraction < 1:
        raise CorpusError(f"data.held_out_fraction must lie between 0 and 1; not {data.held_out_fraction}")
    for name in ("context_length", "eval_tokens", "vocab_size"):
        if getattr(data, name) < 1:
            raise CorpusError(f"data.{name} must be at least 1; not {getattr(data, name)}")


def _recipe(data: DataSpec) -> tuple[dict, list[tuple[str, Path]]]:
    """What the tokens are made from, without reading them, and the files to read."""
    recipe = {"layout": LAYOUT_VERSION, "source": data.source, "held_out_fraction": data.held_out_fraction}
    if data.source == "synthetic":
        check_language(data.synthetic)
        new = {name for name in ("order", "rank") if getattr(data.synthetic, name) == getattr(SyntheticSpec(), name)}
        return recipe | {"synthetic": {k: v for k, v in asdict(data.synthetic).items() if k not in new}}, []
    if data.source == "huggingface":
        hub.check(data.hub)
        files = [(str(path), path) for path in hub.local_files(data.hub)]
    else:
        files = python_sources() if data.source == "python-source" else matching_files(data.files)
    seen = [(name, path.stat().st_size, path.stat().st_mtime_ns) for name, path in files]
    made_by = {"python": sys.version} if data.source == "python-source" else {}
    if data.source == "huggingface":
        made_by["hub"] = asdict(data.hub)
    if data.source == "tokens":
        made_by["paths"] = [str(path) for _, path in files]
    if data.tokenizer.endswith(".json"):
        text = Path(data.tokenizer).expanduser().read_bytes()
        made_by["tokenizer_sha256"] = hashlib.sha256(text).hexdigest()
    return recipe | made_by | _not_default(data) | {"files": seen}, files


def _not_default(data: DataSpec) -> dict:
    default = {f.name: f.default if f.default is not MISSING else [] for f in fields(DataSpec)}
    return {name: value for name in _CHANGES_TEXT if (value := getattr(data, name)) != default[name]}


def _open(folder: Path, data: DataSpec) -> Corpus:
    manifest = json.loads((folder / MANIFEST).read_text())
    if data.source == "tokens":
        shards = open_sides(manifest)
    else:
        shards = {side: _shard(folder, side) for side in SIDES}
    for side, tokens in shards.items():
        if len(tokens) != manifest[side]["tokens"]:
            raise CorpusError(
                f"{folder}: {side}.bin is not what its manifest says; delete the folder and prepare again"
            )
        if len(tokens) <= data.context_length:
            raise CorpusError(
                f"corpus {data.name}: its {side.replace('_', '-')} side has {len(tokens)} tokens, fewer than "
                f"one window of data.context_length={data.context_length} + 1; add text or shorten the context"
            )
    corpus_id, shards["train"] = _capped(manifest["corpus_id"], shards["train"], data)
    windows = spread_windows(shards["held_out"], context_length=data.context_length, n_tokens=data.eval_tokens)
    eval_id = hashlib.sha256(str(windows.shape).encode() + windows.tobytes()).hexdigest()[:12]
    floor = Language.draw(data.synthetic).reachable_loss(windows) if data.source == "synthetic" else math.nan
    return Corpus(
        folder=folder,
        corpus_id=corpus_id,
        tokenizer_id=manifest["tokenizer_id"],
        vocab_size=manifest["vocab_size"],
        train_tokens=len(shards["train"]),
        held_out_tokens=len(shards["held_out"]),
        bytes_per_token=manifest["bytes_per_token"] or math.nan,
        eval_id=eval_id,
        loss_floor=floor,
        train=shards["train"],
        held_out=shards["held_out"],
        eval_windows=windows,
        manifest=manifest,
    )


def _capped(corpus_id: str, train: np.ndarray, data: DataSpec) -> tuple[str, np.ndarray]:
    """The corpus's id and training tokens; with data.unique_tokens so many targets, in windows at even distances."""
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
    return _digest({"corpus": corpus_id, "windows": list(windows.shape)}), windows.reshape(-1)


def _shard(folder: Path, side: str) -> np.ndarray:
    try:
        return open_tokens(folder / f"{side}.bin")
    except CorpusError as error:
        raise CorpusError(
            f"{folder}: {side}.bin is not what its manifest says; delete the folder and prepare again"
        ) from error


def _digest(value: dict) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]
