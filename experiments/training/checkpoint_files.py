"""The names of a trunk's checkpoints, which of them are still needed, and removal of the others. No torch.

    trunk-<step>-<checksum>.pt               the trunk between branch points, the last two
    branch-<step>-<checksum>.pt              where a cell leaves the trunk
    cooldown-<run_id>-<step>-<checksum>.pt   a cell after it has left the trunk, the last two
    sharded/<kind>-<step>/                   the same with where.distributed=fsdp2 (`parallel.sharded_checkpoint`)

The checksum is part of a file's name: the file is whole exactly if its content still has it.
"""

import hashlib
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

TRUNK, BRANCH = "trunk", "branch"
KEPT = 2  # of a kind: the latest, and the one before in case the latest is damaged
SHARDED = "sharded"
_NAME = re.compile(r"(trunk|branch|cooldown-[^-]+)-(\d+)-([0-9a-f]{16})\.pt")
_SHARDED_NAME = re.compile(r"(trunk|branch|cooldown-[^-]+)-(\d+)()")


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
        return checksum(self.path) == self.checksum


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
    """The first 16 hexadecimal digits of a file's SHA-256."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
