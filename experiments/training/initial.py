"""The initial weights of a cell, `init_from`: random, of an earlier run, or of a Llama model in a Hugging Face folder.

A model may begin from another only if both have the same shape, vocabulary and tokenizer. The context may differ where
positions are not learned: then no weight depends on it.
"""

import hashlib
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypedDict

from isoflop.experiments.config import DataSpec
from isoflop.experiments.data.tokenizer import Bytes, Library, Numbers, whole_texts
from isoflop.experiments.store.store import StoreError, open_store
from isoflop.experiments.study.cell import Cell, Initial
from isoflop.experiments.study.study import Study
from isoflop.models.config import ModelConfig
from isoflop.read_json import JsonError, check_shape, read_bytes, read_json

if TYPE_CHECKING:  # torch loads only when a checkpoint is read
    from isoflop.models.language_model import LanguageModel

RANDOM = "random"
_SHAPE_KEYS = ("family", "n_layer", "d_model", "n_head", "d_ff", "tied")  # what the schema calls a model's shape


class _Run(TypedDict):
    run_id: str


class _Provenance(TypedDict):
    """What is read of the isoflop.json of an export."""

    run: _Run


class _About(TypedDict):
    """What is read of the weights that a run kept."""

    tokenizer_id: str
    run_id: str


class InitError(ValueError):
    """`init_from` names nothing that these cells can begin from."""


class Corpus(Protocol):
    """What initial weights are compared with."""

    @property
    def tokenizer_id(self) -> str:
        """The identity of its tokenizer."""

    @property
    def vocab_size(self) -> int:
        """How many tokens there are."""


def begin_from(study: Study, init_from: str, *, runs: Path, corpora: Callable[[DataSpec], Corpus]) -> Study:
    """The study with every cell beginning where `init_from` says, as an arm of its own unless it has a name.

    Raises InitError if there is nothing of that name, or if a cell differs from it in shape, vocabulary or tokenizer.
    """
    if init_from == RANDOM:
        return study
    folder = _folder(init_from, runs)
    model, tokenizer_id, parent = _describe(init_from, folder)
    initial = Initial(folder, _digest(folder), parent)
    for cell in study.cells:
        _check(init_from, cell, corpora(cell.data), model, tokenizer_id)
    arm = f"from {parent or initial.digest}"  # so that no law takes it for a run from random weights unnoticed
    cells = [replace(cell, initial=initial, arm=cell.arm or arm) for cell in study.cells]
    return replace(study, cells=tuple(cells))


def start(cell: Cell) -> "LanguageModel":
    """A new model with the weights that a cell begins from."""
    from isoflop.models import build_model
    from isoflop.models.weights import fill

    assert cell.initial is not None, "random weights are drawn by models.parametrization"
    model = build_model(cell.model)
    fill(model, dict(_read(cell.initial.folder).named_parameters()), source=str(cell.initial.folder))
    return model


def _folder(init_from: str, runs: Path) -> Path:
    """The folder that a path, or the beginning of a run's id, names."""
    from isoflop.experiments.store.models import find_trained, weights_file

    path = Path(init_from).expanduser()
    if path.is_dir():
        if not any(path.glob("*.safetensors")):
            raise InitError(f"init_from={init_from}: no .safetensors in this folder; name a run's or a Llama model's")
        return path.resolve()
    try:
        store = open_store(runs)
        return weights_file(store, find_trained(store, init_from).run_id).parent
    except StoreError as error:
        raise InitError(f"init_from={init_from} is no folder, and as a run: {error}") from error


def _describe(init_from: str, folder: Path) -> tuple[ModelConfig, str, str]:
    """Shape, tokenizer's id and run id of the weights in a folder."""
    from isoflop.models.export import PROVENANCE_FILE
    from isoflop.models.weights import WeightsError, read_about

    try:
        model = _read(folder).config
    except WeightsError as error:
        raise InitError(f"init_from={init_from}: {error}") from error
    if not (folder / "config.json").exists():
        weights = next(folder.glob("*.safetensors"))
        about = read_about(weights)
        check_shape(about, _About, source=f"{weights}: metadata")
        return model, about["tokenizer_id"], about["run_id"]
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise InitError(f"init_from={init_from}: no tokenizer.json in it, so its tokens cannot be compared with ours")
    exported = folder / PROVENANCE_FILE
    parent = read_json(exported, _Provenance, nan=True, error=InitError)["run"]["run_id"] if exported.exists() else ""
    return model, _tokenizer_id(_text(init_from, file), model.vocab_size), parent


def _text(init_from: str, path: Path) -> str:
    try:
        return read_bytes(path).decode("utf-8")
    except (UnicodeDecodeError, JsonError) as error:
        raise InitError(f"init_from={init_from}: {path}: not a tokenizer.json ({error})") from error


def _read(folder: Path) -> "LanguageModel":
    from isoflop.models.export import read_folder
    from isoflop.models.weights import WEIGHTS_FILE, load_weights

    if (folder / "config.json").exists():
        return read_folder(folder)
    return load_weights(folder / WEIGHTS_FILE)[0]


def _tokenizer_id(text: str, vocab_size: int) -> str:
    own = [tokenizer for tokenizer in (Bytes(), Numbers(vocab_size)) if tokenizer.json() == text]
    return own[0].tokenizer_id if own else Library(whole_texts(text)).tokenizer_id


def _check(init_from: str, cell: Cell, corpus: Corpus, model: ModelConfig, tokenizer_id: str) -> None:
    if tokenizer_id != corpus.tokenizer_id:
        remedy = "data.tokenizer=bytes" if tokenizer_id == "bytes" else "data.tokenizer=.../tokenizer.json, its own"
        raise InitError(
            f"init_from={init_from} has tokenizer {tokenizer_id}, corpus {cell.data.name} has {corpus.tokenizer_id}: "
            f"the same token would mean another text; use {remedy}"
        )
    has, wanted = asdict(model), asdict(cell.model)
    free = set() if model.positions == "learned" else {"context_length"}
    different = [name for name in has if has[name] != wanted[name] and name not in free]
    if different:
        differences = ", ".join(f"{name} {has[name]}, the cell's {wanted[name]}" for name in different)
        settable = [name for name in different if name in _SHAPE_KEYS]
        remedy = "; use " + " ".join(f"model.{name}={has[name]}" for name in settable) if settable else ""
        raise InitError(f"init_from={init_from} has {differences} ({cell.label}): weights of another shape{remedy}")


def _digest(folder: Path) -> str:
    """Hash of the weights' files, by name and content."""
    whole = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        whole.update(path.name.encode() + b"\0")
        with path.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()[:16]
