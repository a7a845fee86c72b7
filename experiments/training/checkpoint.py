"""Checkpoints of one trunk: on the way, at branch points, and in a cooldown under way.

Each is written to a temporary name and renamed, so that a kill at any moment leaves the ones before it whole, and
carries its checksum in its name (`checkpoint_files`). They are read with `weights_only=True`: tensors,
numbers and text, never code.
"""

import logging
import os
import time
from collections.abc import Iterable
from pathlib import Path

import torch

from isoflop.experiments.training.checkpoint_files import (
    BRANCH,
    KEPT,
    TRUNK,
    Saved,
    cooldown_of,
    file_name,
    saved,
    sharded,
)

log = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints in `folder`; with `folder=None` nothing is written and nothing found."""

    def __init__(self, folder: Path | None, every_seconds: float) -> None:
        self.folder, self.every_seconds = folder, every_seconds
        self._saved_at = time.monotonic()
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            for leftover in folder.glob(".*.tmp"):
                leftover.unlink(missing_ok=True)
            if sharded(folder) and not saved(folder):
                log.warning(
                    "trunk %s starts again: its checkpoints are shards, of where.distributed=fsdp2", folder.name
                )

    def trunk(self, up_to: int) -> dict | None:
        """The furthest state of the trunk that has taken no more than `up_to` steps."""
        if self.folder is None:
            return None
        return _first_whole(one for one in saved(self.folder, TRUNK, BRANCH) if one.step <= up_to)

    def cooldown(self, run_id: str) -> dict | None:
        """The state of a cell's own cooldown, if it was interrupted in it."""
        return _first_whole(saved(self.folder, cooldown_of(run_id))) if self.folder is not None else None

    def due(self) -> bool:
        return self.folder is not None and time.monotonic() - self._saved_at >= self.every_seconds

    def save_trunk(self, state: dict) -> None:
        self._save(TRUNK, state, keep=KEPT)

    def save_branch(self, state: dict) -> None:
        """Keep a branch point: a longer budget asked for later goes on from it."""
        if self.folder is not None and state["step"] not in {0, *(one.step for one in saved(self.folder, BRANCH))}:
            self._save(BRANCH, state)

    def save_cooldown(self, run_id: str, state: dict) -> None:
        self._save(cooldown_of(run_id), state, keep=KEPT)

    def drop_cooldown(self, run_id: str) -> None:
        if self.folder is not None:
            _remove(saved(self.folder, cooldown_of(run_id)))

    def _save(self, kind: str, state: dict, *, keep: int | None = None) -> None:
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
            _remove(saved(self.folder, kind)[keep:])


def _write(path: Path, state: dict) -> None:
    """Save a state. Raises OSError naming the file if the disk refuses it, which torch hides behind its own error."""
    try:
        with open(path, "wb") as file:
            torch.save(state, file)
    except RuntimeError as error:
        if isinstance(reason := error.__context__, OSError):
            raise OSError(reason.errno, reason.strerror, str(path)) from error
        raise


def _first_whole(candidates: Iterable[Saved]) -> dict | None:
    """The state in the first of these files that is not damaged, None if none is left; damaged ones are removed."""
    damaged = []
    for one in candidates:
        if one.whole:
            _warn(damaged, f"step {one.step} ({one.path.name})")
            return torch.load(one.path, map_location="cpu", weights_only=True)
        damaged.append(one)
    _warn(damaged, "the start")
    return None


def _warn(damaged: list[Saved], instead: str) -> None:
    for one in damaged:
        log.warning("checkpoint %s is damaged (wrong checksum) and removed; going on from %s", one.path, instead)
    _remove(damaged)


def _remove(files: Iterable[Saved]) -> None:
    for one in files:
        one.path.unlink(missing_ok=True)
