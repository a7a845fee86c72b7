"""Checkpoints that every process writes its part of, and that any number of processes can go on from.

    sharded/<kind>-<step>/about.json        step, seconds, rows so far, and the checksums of the other files
    sharded/<kind>-<step>/*.safetensors     weights and moments by the name of their parameter

Written by torch.distributed.checkpoint as safetensors, so nothing is unpickled. A folder has its name only when it is
complete. `<kind>` and what is kept are as in `experiments.training.checkpoint`.
"""

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor

from isoflop.experiments.files import check_name
from isoflop.experiments.training.checkpoint import (
    SHARDED,
    UNKNOWN,
    Checkpoints,
    Saved,
    State,
    checksum,
    discard,
    saved,
    sharded,
)
from isoflop.read_json import read_json

log = logging.getLogger(__name__)
_ABOUT = "about.json"


class ShardedCheckpoints(Checkpoints):
    """The sharded checkpoints in a trunk's folder, written and read by all processes together.

    `empty` gives a state of the right shapes and shards, which a checkpoint is read into.
    """

    def __init__(self, folder: Path | None, every_seconds: float, empty: Callable[[], State]) -> None:
        super().__init__(folder, every_seconds)
        self.empty = empty
        dist.barrier()

    def due(self) -> bool:
        """Whether it is time to save, by the first process' clock."""
        return self.folder is not None and _agreed(super().due())

    def drop_cooldown(self, run_id: str) -> None:
        """Remove the checkpoints of a cell that has ended, in the first process."""
        if _first():
            super().drop_cooldown(run_id)

    def _prepare(self, folder: Path) -> None:
        if not _first():
            return
        (folder / SHARDED).mkdir(parents=True, exist_ok=True)
        for leftover in (folder / SHARDED).glob(".*.tmp"):
            shutil.rmtree(leftover)
        if saved(folder) and not sharded(folder):
            log.warning(
                "trunk %s starts again: its checkpoints are whole ones, of another where.distributed", folder.name
            )

    def _saved(self, *kinds: str) -> list[Saved]:
        return sharded(self.folder, *kinds) if self.folder is not None else []

    def _save(self, kind: str, state: State, *, keep: int | None = None) -> None:
        if self.folder is None or (final := self.folder / SHARDED / f"{kind}-{state['step']}").exists():
            return
        dist.barrier()  # all have looked before the first one makes it
        temporary = final.with_name(f".{final.name}.tmp")
        dcp.save(_tensors(state), storage_writer=dcp.HuggingFaceStorageWriter(str(temporary), save_distributed=True))
        if _first():
            checksums = {file.name: checksum(file) for file in sorted(temporary.iterdir())}
            kept = {key: state[key] for key in ("step", "seconds", "measurements", "engines")}
            about = {**kept, "checksums": checksums, "digest": _digest({**kept, "checksums": checksums})}
            (temporary / _ABOUT).write_text(json.dumps(about))
            temporary.rename(final)
            if keep is not None:
                for one in self._saved(kind)[keep:]:
                    discard(one.path)
        dist.barrier()
        self._saved_at = time.monotonic()

    def _first_whole(self, candidates: list[Saved]) -> State | None:
        """The first of these checkpoints that is not damaged, read into this process' shards."""
        for one in candidates:
            if not _agreed(_whole(one)):
                continue
            tensors = _tensors(self.empty())
            try:
                dcp.load(tensors, storage_reader=dcp.HuggingFaceStorageReader(str(one.path)))
            except Exception as error:  # every process raises it where one of them cannot read its part
                log.warning("checkpoint %s holds no state (%s)", one.path, type(error).__name__)
                continue
            about = read_json(one.path / _ABOUT, _About, nan=True)
            return State(
                optimizer={key.removeprefix("optimizer."): t for key, t in tensors.items() if key != "loss_sum"},
                step=about["step"],
                seconds=about["seconds"],
                loss_sum=tensors["loss_sum"],
                measurements=about["measurements"],
                engines=about.get("engines", [UNKNOWN]),
            )
        return None


class _About(TypedDict):
    """What is kept of a checkpoint beside its tensors."""

    step: int
    seconds: float
    measurements: list[dict[str, Any]]
    engines: NotRequired[list[str]]
    checksums: dict[str, str]
    digest: NotRequired[str]  # of all the rest; older checkpoints have none


def _digest(about: Mapping[str, Any]) -> str:
    """The hash of what `about.json` states beside it."""
    rest = {key: value for key, value in about.items() if key != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()[:16]


def _tensors(state: State) -> dict[str, Tensor]:
    return {f"optimizer.{key}": tensor for key, tensor in state["optimizer"].items()} | {"loss_sum": state["loss_sum"]}


def _whole(one: Saved) -> bool:
    """Whether the files of a checkpoint still have their checksums; only the first process looks."""
    if not _first():
        return True
    path = one.path
    try:
        about = read_json(path / _ABOUT, _About, nan=True)
        checksums = about["checksums"]
        as_written = about["step"] == one.step and about.get("digest") in (None, _digest(about))
        whole = as_written and all(
            checksum(path / check_name(name, "checksums")) == code for name, code in checksums.items()
        )
    except (OSError, ValueError):
        whole = False
    if not whole:
        log.warning("checkpoint %s is damaged (wrong checksum); going on from an earlier one", path)
    return whole


def _first() -> bool:
    return dist.get_rank() == 0


def _agreed(value: bool) -> bool:
    """The first process' `value`, in every process."""
    message = torch.tensor(float(value)).to(_device())
    dist.broadcast(message, src=0)
    return bool(message)


def _device() -> str:
    return "cuda" if dist.get_backend() == "nccl" else "cpu"
