"""What a store keeps and nobody needs: old checkpoints, claims of dead processes, half-written files.

Results are never among it: rows, weights and tokenizers stay, whatever is asked for.
"""

import time
from dataclasses import dataclass
from pathlib import Path

from isoflop.experiments.store.claims import CLAIM_FILE, holder
from isoflop.experiments.store.store import SETTLED, Store
from isoflop.experiments.training.checkpoint_files import SHARDED, discard, needless, size

ABANDONED_SECONDS = 600.0  # a file is written in less; an older temporary one has no writer any more


@dataclass(frozen=True)
class Litter:
    """Files that can go, by kind, and how many trunks were left alone because a process is at work on them."""

    checkpoints: list[Path]
    claims: list[Path]
    temporary: list[Path]
    at_work: int

    @property
    def files(self) -> list[Path]:
        return [*self.checkpoints, *self.claims, *self.temporary]

    @property
    def n_bytes(self) -> int:
        return sum(map(size, self.files))


def find_litter(store: Store, *, trunks: bool = False) -> Litter:
    """Look through the store. With `trunks`, also the furthest state of each trunk that has no cell left to train."""
    pending = _pending(store)
    folders = [path for path in sorted(store.root.glob("trunks/*")) if path.is_dir()]
    idle = [folder for folder in folders if holder(folder) is None]
    checkpoints = []
    for folder in idle:
        left = pending.get(folder.name, {})
        checkpoints += [one.path for one in needless(folder, left, keep_furthest=bool(left) or not trunks)]
    claims = [folder / CLAIM_FILE for folder in idle if (folder / CLAIM_FILE).exists()]
    return Litter(checkpoints, claims, _abandoned(store.root), len(folders) - len(idle))


def remove(store: Store, litter: Litter) -> int:
    """Remove litter, except in trunks that somebody began to train since; returns the bytes freed."""
    freed = 0
    for folder in {_trunk(path) for path in [*litter.checkpoints, *litter.claims]}:
        claim = store.claim(folder.name)  # takes the place of a dead one, and keeps a launch out meanwhile
        if claim is None:
            continue
        freed += sum(discard(path) for path in litter.checkpoints if _trunk(path) == folder)
        claim.release()
    return freed + sum(map(discard, litter.temporary))


def litter_text(litter: Litter) -> str:
    counts = {"checkpoints": litter.checkpoints, "claims": litter.claims, "temporary files": litter.temporary}
    told = ", ".join(f"{len(files)} {kind}" for kind, files in counts.items())
    return f"{told} ({litter.at_work} trunks at work left alone)" if litter.at_work else told


def _pending(store: Store) -> dict[str, dict[str, int]]:
    """By trunk, the branch step of every cell that has no result."""
    pending: dict[str, dict[str, int]] = {}
    states = store.states()
    for cell in states[~states["state"].isin(SETTLED)].itertuples():
        pending.setdefault(cell.trunk_id, {})[cell.run_id] = cell.branch_step
    return pending


def _abandoned(root: Path) -> list[Path]:
    now = time.time()
    return [path for path in sorted(root.rglob("*.tmp")) if now - path.stat().st_mtime > ABANDONED_SECONDS]


def _trunk(path: Path) -> Path:
    """The folder of the trunk that a checkpoint or a claim belongs to."""
    return path.parent.parent if path.parent.name == SHARDED else path.parent
