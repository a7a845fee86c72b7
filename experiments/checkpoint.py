"""Checkpoints of one trunk: a rolling one, one per branch point, one per cooldown under way.

Each is written to a temporary name and renamed, so that a kill at any moment leaves the previous one whole. They are
read with `weights_only=True`: tensors, numbers and text, never code.
"""

import logging
import os
import pickle
import time
from pathlib import Path

import torch

log = logging.getLogger(__name__)
_ROLLING = "latest.pt"


class Checkpoints:
    """The checkpoints in `folder`; with `folder=None` nothing is written and nothing found."""

    def __init__(self, folder: Path | None, every_seconds: float) -> None:
        self.folder, self.every_seconds = folder, every_seconds
        self._saved_at = time.monotonic()
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            for leftover in folder.glob(".*.tmp"):
                leftover.unlink(missing_ok=True)

    def trunk(self, up_to: int) -> dict | None:
        """The furthest state of the trunk that has taken no more than `up_to` steps."""
        if self.folder is None:
            return None
        branches = {int(p.stem.removeprefix("branch-")): p for p in self.folder.glob("branch-*.pt")}
        best = next((s for k in sorted(branches, reverse=True) if k <= up_to and (s := _read(branches[k]))), None)
        rolling = _read(self.folder / _ROLLING)
        if rolling and (best["step"] if best else 0) < rolling["step"] <= up_to:
            return rolling
        return best

    def cooldown(self, run_id: str) -> dict | None:
        """The state of a cell's own cooldown, if it was interrupted in it."""
        return _read(self.folder / _cooldown(run_id)) if self.folder is not None else None

    def due(self) -> bool:
        return self.folder is not None and time.monotonic() - self._saved_at >= self.every_seconds

    def save_trunk(self, state: dict) -> None:
        self._save(_ROLLING, state)

    def save_branch(self, state: dict) -> None:
        """Keep a branch point: a longer budget asked for later goes on from it."""
        if self.folder is not None and not (self.folder / f"branch-{state['step']}.pt").exists():
            self._save(f"branch-{state['step']}.pt", state)

    def save_cooldown(self, run_id: str, state: dict) -> None:
        self._save(_cooldown(run_id), state)

    def drop_cooldown(self, run_id: str) -> None:
        if self.folder is not None:
            (self.folder / _cooldown(run_id)).unlink(missing_ok=True)

    def _save(self, name: str, state: dict) -> None:
        if self.folder is None:
            return
        temporary = self.folder / f".{name}.{os.getpid()}.tmp"
        torch.save(state, temporary)
        os.replace(temporary, self.folder / name)
        self._saved_at = time.monotonic()


def _cooldown(run_id: str) -> str:
    return f"cooldown-{run_id}.pt"


def _read(path: Path) -> dict | None:
    """The state in a file, None if there is none or it is damaged (said in the log: an earlier one takes its place)."""
    if not path.exists():
        return None
    try:
        return torch.load(path, weights_only=True)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        log.warning("checkpoint %s is damaged (%s); going on from an earlier one", path, str(error).splitlines()[0])
        return None
