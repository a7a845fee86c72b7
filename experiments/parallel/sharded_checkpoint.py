"""Checkpoints that every process writes its part of, and that any number of processes can go on from.

    sharded/<kind>-<step>/about.json        step, rows so far, what else is no tensor; its checksums make the rest whole
    sharded/<kind>-<step>/*.safetensors     weights and moments by the name of their parameter

Written by torch.distributed.checkpoint as safetensors, so nothing is unpickled. A folder has its name only when it is
complete. `<kind>` and what is kept are as in `experiments.training.checkpoint`.
"""

import json
import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor

from isoflop.experiments.training.checkpoint_files import (
    BRANCH,
    KEPT,
    SHARDED,
    TRUNK,
    Saved,
    checksum,
    cooldown_of,
    discard,
    saved,
    sharded,
)

log = logging.getLogger(__name__)
_ABOUT = "about.json"


class ShardedCheckpoints:
    """The sharded checkpoints in a trunk's folder: what `Checkpoints` does, by all processes together.

    `empty` gives a state of the right shapes and shards, which a checkpoint is read into.
    """

    def __init__(self, folder: Path | None, every_seconds: float, empty: Callable[[], dict]) -> None:
        self.folder = folder / SHARDED if folder else None
        self.every_seconds, self.empty = every_seconds, empty
        self._saved_at = time.monotonic()
        if self.folder and _first():
            self.folder.mkdir(parents=True, exist_ok=True)
            for leftover in self.folder.glob(".*.tmp"):
                shutil.rmtree(leftover)
            if saved(folder) and not sharded(folder):
                log.warning(
                    "trunk %s starts again: its checkpoints are whole ones, of another where.distributed", folder.name
                )
        dist.barrier()

    def trunk(self, up_to: int) -> dict | None:
        """The furthest state of the trunk that has taken no more than `up_to` steps."""
        return self._read(one.path for one in self._saved(TRUNK, BRANCH) if one.step <= up_to)

    def cooldown(self, run_id: str) -> dict | None:
        """The state of a cell's own cooldown, if it was interrupted in it."""
        return self._read(one.path for one in self._saved(cooldown_of(run_id)))

    def due(self) -> bool:
        """Whether it is time to save, by the first process' clock."""
        return self.folder is not None and _agreed(time.monotonic() - self._saved_at >= self.every_seconds)

    def save_trunk(self, state: dict) -> None:
        self._save(TRUNK, state)

    def save_branch(self, state: dict) -> None:
        if state["step"]:
            self._save(BRANCH, state)

    def save_cooldown(self, run_id: str, state: dict) -> None:
        self._save(cooldown_of(run_id), state)

    def drop_cooldown(self, run_id: str) -> None:
        if _first():
            _remove(self._saved(cooldown_of(run_id)))

    def _saved(self, *kinds: str) -> list[Saved]:
        return sharded(self.folder.parent, *kinds) if self.folder else []

    def _save(self, kind: str, state: dict) -> None:
        if self.folder is None or (final := self.folder / f"{kind}-{state['step']}").exists():
            return
        dist.barrier()  # all have looked before the first one makes it
        temporary = final.with_name(f".{final.name}.tmp")
        dcp.save(_tensors(state), storage_writer=dcp.HuggingFaceStorageWriter(str(temporary), save_distributed=True))
        if _first():
            about = {key: value for key, value in state.items() if key in ("step", "seconds", "measurements")}
            about["checksums"] = {file.name: checksum(file) for file in sorted(temporary.iterdir())}
            (temporary / _ABOUT).write_text(json.dumps(about))
            temporary.rename(final)
            _remove(self._saved(kind)[KEPT:])
        dist.barrier()
        self._saved_at = time.monotonic()

    def _read(self, candidates) -> dict | None:
        """The first of these checkpoints that is not damaged, read into this process' shards."""
        for path in candidates:
            if not _agreed(_whole(path)):
                continue
            state = self.empty()
            tensors = _tensors(state)
            dcp.load(tensors, storage_reader=dcp.HuggingFaceStorageReader(str(path)))
            about = json.loads((path / _ABOUT).read_text())
            optimizer = {key.removeprefix("optimizer."): t for key, t in tensors.items() if key != "loss_sum"}
            return state | about | {"optimizer": optimizer, "loss_sum": tensors["loss_sum"]}
        return None


def _tensors(state: dict) -> dict[str, Tensor]:
    return {f"optimizer.{key}": tensor for key, tensor in state["optimizer"].items()} | {"loss_sum": state["loss_sum"]}


def _whole(path: Path) -> bool:
    if not _first():
        return True  # it does not decide
    checksums = json.loads((path / _ABOUT).read_text())["checksums"]
    whole = all((path / name).exists() and checksum(path / name) == code for name, code in checksums.items())
    if not whole:
        log.warning("checkpoint %s is damaged (wrong checksum); going on from an earlier one", path)
    return whole


def _first() -> bool:
    return dist.get_rank() == 0


def _agreed(value: bool) -> bool:
    """What the first process says."""
    told = torch.tensor(float(value)).to(_device())
    dist.broadcast(told, src=0)
    return bool(told)


def _device() -> str:
    return "cuda" if dist.get_backend() == "nccl" else "cpu"


def _remove(checkpoints: list[Saved]) -> None:
    for one in checkpoints:
        discard(one.path)
