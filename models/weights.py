"""A model in one file: safetensors, with the shape and whatever else is known of it in the metadata.

The bytes depend on the weights and the metadata alone. The file is written to a temporary name and renamed.
"""

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypedDict

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from isoflop.models import build_model
from isoflop.models.config import ModelConfig, n_total
from isoflop.models.language_model import LanguageModel
from isoflop.read_json import JsonError, parse_json

WEIGHTS_FILE = "model.safetensors"
_METADATA_KEY = "isoflop"  # one key: safetensors gives several no order
_FREE_SHAPE = 2**24  # parameters of a shape that is built before its tensors are compared; a larger one must have them


class _Saved(TypedDict):
    """What the metadata hold."""

    model: ModelConfig
    about: dict[str, Any]


class WeightsError(ValueError):
    """A file does not hold the model that was requested."""


def save_weights(model: LanguageModel, path: Path, about: Mapping) -> None:
    """Write weights in float32, the shape, and `about` (anything JSON can hold) to `path`."""
    metadata = json.dumps({"model": asdict(model.config), "about": dict(about)}, sort_keys=True)
    write_tensors({name: p.detach() for name, p in model.named_parameters()}, path, {_METADATA_KEY: metadata})


def load_weights(path: Path) -> tuple[LanguageModel, dict]:
    """The model in `path` and the `about` it was saved with. Raises WeightsError for a file of another make."""
    tensors, metadata = read_tensors(path)
    saved = _saved(metadata, path)
    model = build_model(checked_shape(lambda: ModelConfig(**saved["model"]), tensors, source=str(path)))  # type: ignore[arg-type]
    fill(model, tensors, source=str(path))
    return model, saved["about"]


def read_about(path: Path) -> dict:
    """The `about` that the model in `path` was saved with. Raises WeightsError for a file of another make."""
    return _saved(read_tensors(path)[1], path)["about"]


def checked_shape(make: Callable[[], ModelConfig], tensors: Mapping[str, Tensor], *, source: str) -> ModelConfig:
    """The shape that `make` returns. Raises WeightsError where it is none, or one far beyond what `tensors` fill."""
    try:
        config = make()
    except ValueError as error:
        raise WeightsError(f"{source}: {error}") from error
    held, wanted = sum(tensor.numel() for tensor in tensors.values()), n_total(config)
    if wanted > max(2 * held, _FREE_SHAPE):
        raise WeightsError(f"{source}: its shape has {wanted:,} parameters, its tensors hold {held:,}")
    return config


def _saved(metadata: Mapping[str, str], path: Path) -> _Saved:
    if _METADATA_KEY not in metadata:
        raise WeightsError(f"{path}: safetensors, but not a model that isoflop saved (no {_METADATA_KEY!r} metadata)")
    try:
        return parse_json(metadata[_METADATA_KEY], _Saved, source=f"{path}: metadata")
    except JsonError as error:
        raise WeightsError(str(error)) from error


def fill(model: LanguageModel, tensors: Mapping[str, Tensor], *, source: str) -> None:
    """Copy `tensors` into the parameters of the same names.

    Raises WeightsError naming the first tensor that is missing, unknown or of another shape.
    """
    own = dict(model.named_parameters())
    for name in sorted(own.keys() | tensors.keys()):
        if name not in tensors:
            raise WeightsError(f"{source}: no tensor {name}, which this shape of model has")
        if name not in own:
            raise WeightsError(f"{source}: tensor {name} has no place in this shape of model")
        if own[name].shape != tensors[name].shape:
            has, wanted = tuple(tensors[name].shape), tuple(own[name].shape)
            raise WeightsError(f"{source}: tensor {name} has shape {has}, the model's is {wanted}")
        if not tensors[name].is_floating_point():
            raise WeightsError(f"{source}: tensor {name} is of {tensors[name].dtype}, not of a float type")
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(tensors[name])


def write_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write tensors to a safetensors file, whole or not at all. Raises OSError naming it if the disk refuses."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode & 0o777  # as the umask has it, like the files beside; safetensors makes it 0600
        save_file({name: t.float().cpu().clone() for name, t in tensors.items()}, temporary, metadata)
        temporary.chmod(mode)
        os.replace(temporary, path)
    except SafetensorError as error:
        if number := re.search(r"os error (\d+)", str(error)):
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(temporary)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file. Raises WeightsError if it is missing or damaged."""
    if not path.is_file():
        raise WeightsError(f"{path}: no such file")
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise WeightsError(f"{path}: not a whole safetensors file ({error})") from error
