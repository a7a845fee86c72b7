"""SIGKILL at random moments over sweeps, and the check that they lose nothing and train nothing twice."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from isoflop.experiments.store.store import Store, StoreError, open_store
from isoflop.scaling.table.formats.run_columns import VOLATILE
from isoflop.scaling.table.runs import read_runs, same_runs
from tests.support.forked import Commands
from tests.support.sweep.process import Started, workers_of

SWEEP = (
    "study.name=kills", "study.sizes=[d6,d8,d10,d12]", "study.budgets=[4e10,1.2e11,2.4e11]", "study.window.min_steps=1",
    "schedule.warmup_steps=5", "data=text", "data.eval_tokens=2048", "data.max_epochs=1e4",
    "where.checkpoint_seconds=0.1", "where.workers=2",
)  # fmt: skip
N_CELLS = 12
DEADLINE = 600.0  # seconds without an end: something hangs


@dataclass
class Toll:
    """What was killed, and what it took to finish all the same."""

    parents: int = 0
    workers: int = 0
    launches: int = 0
    sweeps: int = 0
    attempts: int = 0
    seconds: float = 0.0
    states: dict[str, int] = field(default_factory=dict)  # of the cells, when somebody was killed

    @property
    def kills(self) -> int:
        """Processes killed."""
        return self.parents + self.workers


def undisturbed(folder: Path, *more: str) -> tuple[pd.DataFrame, float]:
    """The table of the sweep left in peace, and the seconds that it took; `more` are overrides, as in `torture`."""
    began = time.monotonic()
    assert _launch(folder, "undisturbed", more).wait(DEADLINE) == 0, _log(folder).read_text()
    return read_runs(folder / "undisturbed"), time.monotonic() - began


def torture(
    folder: Path,
    kills: int,
    *more: str,
    seed: int,
    whole: pd.DataFrame,
    pause: float,
    commands: Commands | None = None,
) -> Toll:
    """Sweeps until so many were killed; pauses between kills are drawn up to `pause` seconds.

    Raises AssertionError if a finished sweep differs from `whole`, or a finished cell was trained again.
    """
    chance, toll, began = random.Random(seed), Toll(), time.monotonic()
    while toll.kills < kills:
        _one_sweep(folder, f"sweep-{toll.sweeps}", more, kills, chance, toll, whole, pause, commands)
        toll.sweeps += 1
    _no_orphan(folder)
    toll.seconds = time.monotonic() - began
    return toll


def _one_sweep(
    folder: Path,
    runs: str,
    more: Sequence[str],
    kills: int,
    chance: random.Random,
    toll: Toll,
    whole: pd.DataFrame,
    pause: float,
    commands: Commands | None,
) -> None:
    finished: dict[str, tuple] = {}
    code = None
    while code != 0:  # 1: a trunk died too often in one launch
        process = _launch(folder, runs, more, commands)
        toll.launches += 1
        while process.poll() is None and toll.kills < kills:
            time.sleep(chance.uniform(0, pause) * chance.choice((0.2, 1.0)))  # some in quick succession
            _kill_one(process, folder / runs, chance, toll, whole["run_id"].nunique())
            _look(folder / runs, finished)
        code = process.wait(DEADLINE)
        assert code in (0, 1, -signal.SIGKILL), f"exit code {code}: {_log(folder).read_text()}"
    _look(folder / runs, finished)
    assert not list((folder / runs).glob("trunks/*/curve.json")), "of a cell that has ended"
    _check(open_store(folder / runs), whole, finished, toll)


def _launch(folder: Path, runs: str, more: Sequence[str], commands: Commands | None = None) -> Started:
    """The command, its words in a file: a pipe would be held open by workers that outlive it for a second."""
    words = ["run", *SWEEP, f"data.files=[{folder}/text/*.txt]", f"runs={runs}", *more]
    with open(_log(folder), "w") as log:
        if commands is not None:
            return commands.start(words, cwd=folder, log=log)
        return subprocess.Popen([sys.executable, "-m", "isoflop", *words], cwd=folder, stdout=log, stderr=log)


def _log(folder: Path) -> Path:
    return folder / "log.txt"


def _kill_one(process: Started, runs: Path, chance: random.Random, toll: Toll, n_cells: int) -> None:
    workers = workers_of(process.pid)
    victim = chance.choice([process.pid, *workers])
    if process.poll() is not None:
        return
    for state, count in _counts(runs, n_cells).items():
        toll.states[state] = toll.states.get(state, 0) + count
    try:
        os.kill(victim, signal.SIGKILL)
    except ProcessLookupError:
        return
    if victim == process.pid:
        toll.parents += 1
    else:
        toll.workers += 1


def _no_orphan(folder: Path) -> None:
    """Every worker of a killed parent has ended, those too that had no job yet."""
    deadline = time.monotonic() + DEADLINE
    while left := [p for p in map(int, filter(str.isdigit, os.listdir("/proc"))) if _in(folder, p)]:
        assert time.monotonic() < deadline, f"processes {left} outlived their parent"
        time.sleep(0.2)


def _in(folder: Path, pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/cwd").resolve(strict=True) == folder.resolve() and pid != os.getpid()
    except OSError:
        return False


def _counts(runs: Path, n_cells: int) -> dict[str, int]:
    try:
        return open_store(runs).states()["state"].value_counts().to_dict()
    except StoreError:
        return {"no store yet": n_cells}


def _look(runs: Path, finished: dict[str, tuple]) -> None:
    """Remember the result file of every cell when it is first seen done."""
    try:
        store = open_store(runs)
    except StoreError:
        return
    states = store.states()
    for run_id in states.loc[states["state"] == "done", "run_id"]:
        finished.setdefault(run_id, _identity(store, run_id))


def _identity(store: Store, run_id: str) -> tuple:
    found = store.run_file(run_id).stat()
    return found.st_ino, found.st_mtime_ns


def _check(store: Store, whole: pd.DataFrame, finished: dict[str, tuple], toll: Toll) -> None:
    table, states = read_runs(store.root), store.states()
    assert set(states["state"]) == {"done"}, states
    assert len(states) == table["run_id"].nunique() == len(finished) == whole["run_id"].nunique()
    assert not table.duplicated(["run_id", "step"]).any(), "a row twice"
    assert same_runs(table, whole), f"differs from the undisturbed table:\n{_difference(table, whole)}"
    for run_id, before in finished.items():
        assert _identity(store, run_id) == before, f"run {run_id} was done and was trained again"
    toll.attempts += int(states["attempts"].sum())


def _difference(table: pd.DataFrame, whole: pd.DataFrame) -> str:
    a, b = (t.drop(columns=list(VOLATILE)).set_index(["run_id", "step"]).sort_index() for t in (table, whole))
    if not a.index.equals(b.index):
        return str(a.index.symmetric_difference(b.index).tolist())
    return str(a.compare(b))
