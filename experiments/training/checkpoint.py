"""Writes and reads the checkpoints of one trunk: of the trunk itself, at its branch points, and of cooldowns.

Each is written to a temporary name and renamed, so a kill at any moment leaves the earlier ones whole. Its checksum is
part of its name (`checkpoint_files`). They are read with `weights_only=True`: tensors, numbers and text, never code.
"""

import logging
import os
import time
from pathlib import Path
from typing import TypedDict

import torch
from torch import Tensor

from isoflop.experiments.training.checkpoint_files import (
    BRANCH,
    KEPT,
    TRUNK,
    Saved,
    cooldown_of,
    discard,
    file_name,
    saved,
    sharded,
)

log = logging.getLogger(__name__)


class State(TypedDict):
    """What a checkpoint holds: everything that the next step of a learner depends on."""

    optimizer: dict[str, Tensor]  # `Optimizer.state`: weights, moments, count of steps
    step: int  # steps taken; batches are a function of it
    seconds: float  # of training so far
    loss_sum: Tensor  # of the training losses since the last row, nats/token, float64
    measurements: list[dict]  # the rows so far, the fields of `rows.Measurement`


class Checkpoints:
    """The checkpoints in a trunk's `folder`; with `folder=None` nothing is written and nothing is found."""

    def __init__(self, folder: Path | None, every_seconds: float) -> None:
        self.folder, self.every_seconds = folder, every_seconds
        self._saved_at = time.monotonic()
        if folder is not None:
            self._prepare(folder)

    def trunk(self, up_to: int) -> State | None:
        """The furthest state of the trunk that has taken at most `up_to` steps."""
        return self._first_whole([one for one in self._saved(TRUNK, BRANCH) if one.step <= up_to])

    def cooldown(self, run_id: str) -> State | None:
        """The furthest state of a cell's own cooldown, None if it was not interrupted there."""
        return self._first_whole(self._saved(cooldown_of(run_id)))

    def due(self) -> bool:
        """Whether `every_seconds` have passed since the last save."""
        return self.folder is not None and time.monotonic() - self._saved_at >= self.every_seconds

    def save_trunk(self, state: State) -> None:
        """Save a state of the trunk; the latest two are kept."""
        self._save(TRUNK, state, keep=KEPT)

    def save_branch(self, state: State) -> None:
        """Save the state where a cell leaves the trunk, for good: a longer budget launched later goes on from it."""
        if state["step"] not in {0, *(one.step for one in self._saved(BRANCH))}:
            self._save(BRANCH, state)

    def save_cooldown(self, run_id: str, state: State) -> None:
        """Save a state of a cell's own cooldown; the latest two are kept."""
        self._save(cooldown_of(run_id), state, keep=KEPT)

    def drop_cooldown(self, run_id: str) -> None:
        """Remove the checkpoints of a cell that has ended."""
        _remove(self._saved(cooldown_of(run_id)))

    def _prepare(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)
        if sharded(folder) and not saved(folder):
            log.warning("trunk %s starts again: its checkpoints are shards, of where.distributed=fsdp2", folder.name)

    def _saved(self, *kinds: str) -> list[Saved]:
        return saved(self.folder, *kinds) if self.folder is not None else []

    def _save(self, kind: str, state: State, *, keep: int | None = None) -> None:
        if self.folder is None:
            return
        temporary = self.folder / f".{kind}.{os.getpid()}.tmp"
        try:
            _write(temporary, state)
            os.replace(temporary, self.folder / file_name(kind, state["step"], of=temporary))
        finally:
            temporary.unlink(missing_ok=True)
        self._saved_at = time.monotonic()
        if keep is not None:
            _remove(self._saved(kind)[keep:])

    def _first_whole(self, candidates: list[Saved]) -> State | None:
        """The state in the first of these files that is not damaged, None if none is; damaged ones are removed."""
        damaged: list[Saved] = []
        for one in candidates:
            if one.whole:
                _remove_damaged(damaged, f"step {one.step} ({one.path.name})")
                return torch.load(one.path, map_location="cpu", weights_only=True)
            damaged.append(one)
        _remove_damaged(damaged, "the start")
        return None


def _write(path: Path, state: State) -> None:
    """Save a state. Raises OSError naming the file if the disk refuses it, which torch hides behind its own error."""
    try:
        with open(path, "wb") as file:
            torch.save(state, file)
    except RuntimeError as error:
        if isinstance(reason := error.__context__, OSError):
            raise OSError(reason.errno, reason.strerror, str(path)) from error
        raise


def _remove_damaged(damaged: list[Saved], instead: str) -> None:
    for one in damaged:
        log.warning("checkpoint %s is damaged (wrong checksum) and removed; going on from %s", one.path, instead)
    _remove(damaged)


def _remove(checkpoints: list[Saved]) -> None:
    for one in checkpoints:
        discard(one.path)
