"""The checkpoints of one trunk: of the trunk itself, at its branch points, and of cooldowns. No torch until one is
saved or read: whoever removes checkpoints knows them by name.

    trunk-<step>-<checksum>.pt               the trunk between branch points, the last two
    branch-<step>-<checksum>.pt              where a cell leaves the trunk
    cooldown-<run_id>-<step>-<checksum>.pt   a cell after it has left the trunk, the last two
    sharded/<kind>-<step>/                   the same with where.distributed=fsdp2 (`parallel.sharded_checkpoint`)

Each is written to a temporary name and renamed, so a kill at any moment leaves the earlier ones whole. The checksum is
part of a file's name: the file is whole exactly if its content still has it. They are read with `weights_only=True`:
tensors, numbers and text, never code.
"""

import errno
import hashlib
import logging
import os
import re
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from isoflop.read_json import JsonError, check_shape, require_regular

if TYPE_CHECKING:
    from torch import Tensor

TRUNK, BRANCH = "trunk", "branch"
KEPT = 2  # of a kind: the latest, and the one before in case the latest is damaged
SHARDED = "sharded"
_NAME = re.compile(r"(trunk|branch|cooldown-[^-]+)-(\d+)-([0-9a-f]{16})\.pt")
_SHARDED_NAME = re.compile(r"(trunk|branch|cooldown-[^-]+)-(\d+)()")

log = logging.getLogger(__name__)


UNKNOWN = "unknown"  # the engine of steps whose checkpoint does not say


@dataclass(frozen=True)
class Saved:
    """A checkpoint on disk, by its name: a file, or the folder of a sharded one, whose checksums are inside it."""

    path: Path
    kind: str
    step: int
    checksum: str

    @property
    def whole(self) -> bool:
        """Whether the file still has the checksum that its name gives."""
        try:
            return checksum(self.path) == self.checksum
        except (JsonError, FileNotFoundError):  # a pipe, a link to nothing
            return False


def cooldown_of(run_id: str) -> str:
    """The kind of the checkpoints of one cell's cooldown."""
    return f"cooldown-{run_id}"


def file_name(kind: str, step: int, of: Path) -> str:
    """The name for the checkpoint whose content is in the file `of`."""
    return f"{kind}-{step}-{checksum(of)}.pt"


def saved(folder: Path, *kinds: str) -> list[Saved]:
    """The checkpoints of these kinds (of every kind when none is given), the furthest first."""
    return _named(folder.glob("*.pt"), _NAME, kinds)


def sharded(folder: Path, *kinds: str) -> list[Saved]:
    """The sharded checkpoints of these kinds (of every kind when none is given), the furthest first."""
    return _named((folder / SHARDED).glob("*"), _SHARDED_NAME, kinds)


def needless(folder: Path, pending: Mapping[str, int], *, keep_furthest: bool = True) -> list[Saved]:
    """The checkpoints that no cell needs. `pending` gives the branch step of each cell of the trunk without a result.

    Kept are, for each of those, the states to go on from, and with `keep_furthest` the furthest state of the trunk: a
    longer budget launched later starts there.
    """
    found = []
    for of_kind in (saved, sharded):
        trunk = [s for s in of_kind(folder, TRUNK, BRANCH) if s.step]
        keep = trunk[:1] if keep_furthest else []
        for run_id, branch_step in pending.items():
            keep += [s for s in trunk if s.step <= branch_step][:KEPT]
            keep += of_kind(folder, cooldown_of(run_id))[:KEPT]
        found += [s for s in of_kind(folder) if s not in keep]
    return found


def _named(paths: Iterable[Path], name: re.Pattern, kinds: tuple[str, ...]) -> list[Saved]:
    found = [(path, match) for path in paths if (match := name.fullmatch(path.name))]
    every = [Saved(path, match[1], int(match[2]), match[3]) for path, match in found]
    return sorted((s for s in every if not kinds or s.kind in kinds), key=lambda s: (-s.step, s.kind))


def prune(folder: Path, pending: Mapping[str, int]) -> None:
    """Remove the checkpoints that no cell needs. The caller holds the trunk's claim."""
    for one in needless(folder, pending):
        discard(one.path)


def size(path: Path) -> int:
    """Bytes of a file, or of all in a folder, links left out; 0 if it is gone."""
    files = path.rglob("*") if path.is_dir() and not path.is_symlink() else [path]
    return sum(file.lstat().st_size for file in files if file.is_file() and not file.is_symlink())


def discard(path: Path) -> int:
    """Remove a file, a link (never what it points to) or a folder, if it is still there; returns the bytes freed."""
    freed = size(path)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    return freed


def checksum(path: Path) -> str:
    """The first 16 hexadecimal digits of a file's SHA-256. Raises JsonError for a pipe or a folder."""
    require_regular(path)
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


class State(TypedDict):
    """What a checkpoint holds: everything that the next step of a learner depends on."""

    optimizer: "dict[str, Tensor]"  # `Optimizer.state`: weights, moments, count of steps
    step: int  # steps taken; batches are a function of it
    seconds: float  # of training so far
    loss_sum: "Tensor"  # of the training losses since the last row, nats/token, float64
    noise: "NotRequired[Tensor]"  # sums of `noise_scale`
    measurements: list[dict]  # the rows so far, the fields of `rows.Measurement`
    engines: NotRequired[list[str]]  # that took the steps so far; older checkpoints do not say


class _Plain(TypedDict):
    """Of it, what is checked before it is used."""

    step: int
    loss_sum: Any


class Checkpoints:
    """The checkpoints in a trunk's `folder`; with `folder=None` nothing is written and nothing is found."""

    def __init__(self, folder: Path | None, every_seconds: float) -> None:
        self.folder, self.every_seconds = folder, every_seconds
        self._saved_at = time.monotonic()
        if folder is not None:
            self._prepare(folder)

    def trunk(self, up_to: int, *, beyond: int = -1) -> State | None:
        """The furthest state of the trunk that has taken at most `up_to` steps, and more than `beyond`."""
        return self._first_whole([one for one in self._saved(TRUNK, BRANCH) if beyond < one.step <= up_to])

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
            if one.whole and (state := _read(one.path)):
                _remove_damaged(damaged, f"step {one.step} ({one.path.name})")
                return state
            damaged.append(one)
        _remove_damaged(damaged, "the start")
        return None


def _read(path: Path) -> State | None:
    """The state in a file, None where it holds none."""
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        check_shape(state, _Plain, source=str(path), nan=True)
    except Exception as error:  # a damaged archive can raise anything
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        log.warning("checkpoint %s holds no state (%s)", path, str(error).partition("\n")[0])
        return None
    return state if isinstance(state["loss_sum"], torch.Tensor) else None


def _write(path: Path, state: State) -> None:
    """Save a state. Raises OSError naming the file if the disk refuses it, which torch hides behind its own error."""
    import torch

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
