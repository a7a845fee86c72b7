"""What decides how long a step takes: the shape of model and batch, the optimiser, and the code that steps."""

import hashlib
import json
import os
from dataclasses import asdict, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from isoflop.experiments.config import WhereSpec
from isoflop.experiments.study.cell import Cell
from isoflop.models.config import FULL_BITS, MOST_BITS

ROOT = Path(__file__).resolve().parents[2]
STEPPING = ("models", "experiments/training", "experiments/parallel")  # what a step runs through
SOURCES = (".py", ".c", ".h")
BITS = ("weight_bits", "activation_bits")


def place(where: WhereSpec) -> str:
    """The device with the settings of `where` that change its step: a measurement holds for one of these."""
    settings = {"micro": where.micro_batch, "graph": where.graph, "compile": where.compile}
    named = "".join(f"-{key}-{str(value).lower()}" for key, value in settings.items() if value is not None)
    return where.device + named + ("-recompute" if where.activation_checkpointing else "")


def shape_key(cell: Cell) -> str:
    """Cells with the same key take the same time a step: to how many bits a factor is rounded does not matter."""
    rounded: dict[str, Any] = {name: MOST_BITS for name in BITS if getattr(cell.model, name) != FULL_BITS}
    model = replace(cell.model, **rounded) if rounded else cell.model
    return _key(model, cell.optim.batch_size, cell.optim.name, cell.precision)


@cache
def _key(model: object, batch_size: int, optimizer: str, precision: str) -> str:
    return _digest(json.dumps([asdict(model), batch_size, optimizer, precision], sort_keys=True).encode())  # type: ignore[call-overload]


@cache
def engine_id() -> str:
    """Hash of the code and libraries that a step runs through: what was measured with others is stale."""
    files = [path for folder in STEPPING for path in sorted((ROOT / folder).rglob("*.*")) if path.suffix in SOURCES]
    core = os.environ.get("OPENBLAS_CORETYPE", "").encode()
    return _digest(b"".join([*(path.read_bytes() for path in files), _version("torch"), _version("numpy"), core]))


def _version(package: str) -> bytes:
    try:
        return version(package).encode()
    except PackageNotFoundError:
        return b""


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
