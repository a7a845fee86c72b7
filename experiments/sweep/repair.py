"""A store put in order: cells to train again with the arguments that launched them, files that nobody needs removed.

What ended without a result, or diverged, can be retried. Old checkpoints, claims of dead processes and half-written
files can be removed; results (rows, weights, tokenizers) never are.
"""

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from isoflop.experiments.compose.overrides import typed
from isoflop.experiments.compose.trust import check_kept
from isoflop.experiments.files import CLAIM_FILE, check_name, holder
from isoflop.experiments.store.running import curve_files
from isoflop.experiments.store.store import SETTLED, Store, StoreError
from isoflop.experiments.training.checkpoint import SHARDED, discard, needless, size

RETRIED = ("failed", "lost", "diverged")
LOOK_SECONDS = 0.5
ABANDONED_SECONDS = 600.0  # a file is written in less; an older temporary one has no writer any more


@dataclass(frozen=True)
class Relaunch:
    """Cells of one launch: what was typed, where, and which of its runs are wanted."""

    arguments: tuple[str, ...]
    folder: str
    run_ids: tuple[str, ...]

    def overrides(self, store: Store) -> list[str]:
        """The arguments of `isoflop run` that train these cells and no other."""
        return [*self.arguments, f"runs={typed(str(store.root))}", f"where.only={typed(list(self.run_ids))}"]


def choose(store: Store, states: Sequence[str], run_id: str | None) -> pd.DataFrame:
    """The cells in one of these states, or the one that an id or its beginning names.

    Raises StoreError for another state than those in RETRIED, for an id that names none or several, and for a cell
    in none of the states.
    """
    for state in states:
        if state not in RETRIED:
            raise StoreError(f"--state {state}: what can be retried is {', '.join(RETRIED)}")
    cells = store.states()
    if run_id is not None:
        cells = cells[cells["run_id"].str.startswith(run_id)]
        if len(cells) != 1:
            found = ", ".join(cells["run_id"][:5]) or "none"
            raise StoreError(f"--run {run_id}: it must begin exactly one run of {store.root}; it begins {found}")
        if (now := cells["state"].iloc[0]) not in states:
            raise StoreError(f"run {cells['run_id'].iloc[0]} is {now}, not {' or '.join(states)}; see --state")
    return cells[cells["state"].isin(states)]


def relaunches(store: Store, cells: pd.DataFrame) -> list[Relaunch]:
    """These cells by the launch that requested them last.

    Raises StoreError naming a cell of which the store does not know how it was launched, and UsageError naming a
    launch that holds more than settings of a study.
    """
    found = []
    for launch_id, group in cells.groupby("launch", sort=False):
        launch = store.read_launch(str(launch_id))
        if launch is None:
            raise StoreError(
                f"run {group['run_id'].iloc[0]} ({group['label'].iloc[0]}): the store does not say how it was "
                "launched; `isoflop retry --mark` marks it as planned, then type its `isoflop run` again"
            )
        arguments, folder = launch
        source = str(store.launch_file(str(launch_id)))
        if not (isinstance(arguments, list) and isinstance(folder, str) and all(isinstance(a, str) for a in arguments)):
            raise StoreError(f"{source}: not a launch (arguments, a list of texts, and folder); delete it")
        check_kept(arguments, source)
        for run_id in group["run_id"]:
            check_name(run_id, f"{source}: run_id")
        found.append(Relaunch(tuple(arguments), folder, tuple(group["run_id"])))
    return found


@contextmanager
def entered(launch: Relaunch, store: Store) -> Iterator[None]:
    """Be in the folder that a launch was typed in. Raises StoreError where that is not here."""
    before = Path.cwd()
    try:
        os.chdir(launch.folder)
    except OSError as error:
        raise StoreError(
            f"{store.root}: its runs were launched in {launch.folder}, which cannot be entered "
            f"({(error.strerror or str(error)).lower()}); nothing was changed. If the folder was moved: `isoflop retry "
            "--mark` marks the runs as planned, then type their `isoflop run` again there"
        ) from error
    try:
        yield
    finally:
        os.chdir(before)


def mark(store: Store, cells: pd.DataFrame) -> None:
    """Record cells as planned: a launch of their study trains them again, diverged ones too."""
    for run_id in cells["run_id"]:
        store.record(run_id, "planned", error="")


@dataclass(frozen=True)
class Litter:
    """Files that can go, by kind, and how many trunks were left alone because a process is at work on them."""

    checkpoints: list[Path]
    claims: list[Path]
    temporary: list[Path]
    states: list[Path]  # cut short
    at_work: int

    @property
    def files(self) -> list[Path]:
        return [*self.checkpoints, *self.claims, *self.temporary, *self.states]

    @property
    def n_bytes(self) -> int:
        return sum(map(size, self.files))


def find_litter(store: Store, *, trunks: bool = False) -> Litter:
    """Look through the store. With `trunks`, also the furthest state of each trunk that has no cell left to train.

    Takes a few seconds where a claim cannot be read: whoever holds it, if anybody does, writes it again meanwhile.
    """
    pending = _pending(store)
    folders = [path for path in sorted(store.root.glob("trunks/*")) if path.is_dir() and _inside(store.root, path)]
    while any((claim := holder(folder)) is not None and not claim["host"] for folder in folders):
        time.sleep(LOOK_SECONDS)
    idle = [folder for folder in folders if holder(folder) is None]
    checkpoints = []
    for folder in idle:
        left = pending.get(folder.name, {})
        found = needless(folder, left, keep_furthest=bool(left) or not trunks)
        checkpoints += [one.path for one in found if _inside(store.root, one.path.parent)]
    claims = [folder / CLAIM_FILE for folder in idle if (folder / CLAIM_FILE).exists()]
    states = [store.state_file(run_id) for run_id in store.cut_short()]
    states = [path for path in states if _inside(store.root, path.parent)]
    temporary = [*_abandoned(store.root), *curve_files(idle)]
    return Litter(checkpoints, claims, temporary, states, len(folders) - len(idle))


def remove(store: Store, litter: Litter) -> tuple[int, list[str]]:
    """Remove litter, except in trunks that somebody began to train since.

    Returns the bytes freed, and a line for each file that could not be removed.
    """
    freed, failed = 0, []

    def discard_all(paths: Iterable[Path]) -> None:
        nonlocal freed
        for path in paths:
            try:
                freed += discard(path)
            except OSError as error:
                failed.append(f"{path}: not removed ({error.strerror or error})")

    for folder in {_trunk(path) for path in [*litter.checkpoints, *litter.claims]}:
        claim = store.claim(folder.name)  # takes the place of a dead one, and keeps a launch out meanwhile
        if claim is None:
            continue
        discard_all(path for path in litter.checkpoints if _trunk(path) == folder)
        claim.release()
    discard_all(litter.temporary)
    for path in litter.states:
        run_id = path.parent.name
        if (state := store.states([run_id])["state"].iloc[0]) in SETTLED:
            store.record(run_id, state)  # as its rows say
        else:
            discard_all([path])
    return freed, failed


def _inside(root: Path, folder: Path) -> bool:
    """Whether a folder is in the store without any link on the way to it; `root` is resolved."""
    return folder.resolve() == folder and folder.is_relative_to(root)


def litter_text(litter: Litter) -> str:
    counts = {"checkpoints": litter.checkpoints, "claims": litter.claims, "temporary files": litter.temporary}
    if litter.states:
        counts["states that were cut short"] = litter.states
    found = ", ".join(f"{len(files)} {kind}" for kind, files in counts.items())
    return f"{found} ({litter.at_work} trunks at work left alone)" if litter.at_work else found


def _pending(store: Store) -> dict[str, dict[str, int]]:
    """By trunk, the branch step of every cell that has no result."""
    pending: dict[str, dict[str, int]] = {}
    states = store.states()
    for cell in states[~states["state"].isin(SETTLED)].itertuples():
        pending.setdefault(cell.trunk_id, {})[cell.run_id] = cell.branch_step
    return pending


def _abandoned(root: Path) -> list[Path]:
    now = time.time()
    found = [path for path in sorted(root.rglob("*.tmp")) if _inside(root, path.parent)]
    return [path for path in found if now - path.lstat().st_mtime > ABANDONED_SECONDS]


def _trunk(path: Path) -> Path:
    """The folder of the trunk that a checkpoint or a claim belongs to."""
    return path.parent.parent if path.parent.name == SHARDED else path.parent
