"""The store: a folder of runs with the state of every cell (planned, running, stopped, done, diverged, failed, lost).

    STORE.json                  marks the folder
    studies/<name>.json         the cells of a study at its last launch
    launches/<id>.json          what was typed, and where: `isoflop retry` types it again
    cells/<run_id>/state.json   one cell's state, how often it was tried, how far it came, its traceback
    cells/<run_id>/run.parquet  its rows, once it is done, has diverged or was stopped
    cells.shard                 the rows of many cells in one file: a cache (`scaling.table.cells`)
    trunks/<trunk_id>/          checkpoints, the claim of the process at work, what jobs are to do there, and the
                                curve so far of the cell in training (`store.running`)

Every file is replaced as a whole, so a reader may look at any time and a process may die at any time.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

import pandas as pd

from isoflop.experiments.files import SINGLE, Claim, check_name, holder, read_kept, take, write_json
from isoflop.read_json import JsonError, read_bytes
from isoflop.scaling.table.runs import RUN_FILE, is_run_table, read_runs

STORE_FILE = "STORE.json"
STORE_VERSION = 1
STATES = ("planned", "running", "stopped", "done", "diverged", "failed", "lost")
SETTLED = ("done", "diverged")  # results: never run again by themselves
STOPPED = "stopped"  # before its end, and whole up to there: a launch that wants more of it goes on from there
_EMPTY: dict[str, Any] = {
    "run_id": "", "trunk_id": "", "state": "planned", "label": "", "step": 0, "steps": 0, "branch_step": 0, "flops": 0,
    "attempts": 0, "seconds": float("nan"), "heartbeat": float("nan"), "pid": 0, "launch": "", "error": "",
    "engine": "",
}  # fmt: skip
COLUMNS = tuple(_EMPTY)


class Marker(TypedDict):
    """What STORE.json holds."""

    version: int


class CellFields(TypedDict):
    """What is known of a cell; the columns of a listing and of a state."""

    run_id: str
    trunk_id: NotRequired[str]
    label: NotRequired[str]
    arm: NotRequired[str]
    step: NotRequired[int]
    steps: NotRequired[int]
    branch_step: NotRequired[int]
    flops: NotRequired[float]
    attempts: NotRequired[int]
    seconds: NotRequired[float]
    pid: NotRequired[int]
    launch: NotRequired[str]
    error: NotRequired[str]


class StateFile(CellFields):
    """What the state.json of a cell holds."""

    state: Literal["planned", "running", "stopped", "done", "diverged", "failed", "lost"]


class StudyFile(TypedDict):
    """What a study's last launch listed."""

    cells: list[CellFields]
    hold_out: NotRequired[list[float]]


class LaunchFile(TypedDict):
    """What was typed to launch cells, and in which folder."""

    arguments: list[str]
    folder: str


class StoreError(ValueError):
    """A folder is not a store, or something in it cannot be used."""


@dataclass(frozen=True)
class Store:
    """The runs under `root`. Make one with `open_store` or `create_store`."""

    root: Path

    def run_file(self, run_id: str) -> Path:
        """Where the rows of a run are, once it has ended."""
        return self.root / "cells" / check_name(run_id, "run_id") / RUN_FILE

    def trunk_folder(self, trunk_id: str) -> Path:
        """The folder of a trunk's claim and checkpoints."""
        return self.root / "trunks" / check_name(trunk_id, "trunk_id")

    def check_there(self) -> None:
        """Raise StoreError if the folder is no store any more: nobody makes parts of it again."""
        if not (self.root / STORE_FILE).exists():
            raise StoreError(
                f"{self.root}: no runs folder any more (its {STORE_FILE} is gone): it was deleted or moved while a "
                "launch was at work; isoflop run makes a new one"
            )

    def work_file(self, trunk_id: str, key: str) -> Path:
        """Where a launch states what the job of a trunk is to do; `key` is of the whole study (`sweep.train_job`)."""
        return self.trunk_folder(trunk_id) / f"cells-{check_name(key, 'where.cells')}.json"

    def claim(self, trunk_id: str) -> Claim | None:
        """Claim a trunk to train it; None while a living process has it."""
        self.check_there()
        return take(self.trunk_folder(trunk_id))

    def claimed(self, trunk_id: str) -> bool:
        """Whether a living process trains a trunk."""
        return self.holder(trunk_id) is not None

    def holder(self, trunk_id: str) -> dict | None:
        """The claim of the living process that trains a trunk, None if there is none."""
        return holder(self.trunk_folder(trunk_id))

    def record(self, run_id: str, state: str, **fields: object) -> None:
        """Set a cell's state and the given fields; other fields keep their value."""
        assert state in STATES, state
        self.check_there()
        about = {"run_id": run_id, "state": state, "at": time.time()}
        write_json(self.state_file(run_id), self._kept(run_id) | fields | about)

    def start(self, cell: Mapping) -> None:
        """Record a cell as running, one attempt more."""
        before = self._kept(cell["run_id"])
        fields = {"attempts": before.get("attempts", 0) + 1, "pid": os.getpid(), "step": 0, "error": ""}
        self.record(**{**cell, **fields, "state": "running"})

    def write_study(
        self, name: str, cells: Iterable[Mapping], *, hold_out: Iterable[float] = (), whole: bool = True
    ) -> None:
        """List the cells of a study and the budgets that it holds out.

        Cells launched without a study are added to those launched before; so are those of a part of one (not `whole`),
        of which cells that are listed keep what the listing says.
        """
        path = self.root / "studies" / f"{check_name(name or SINGLE, 'study.name')}.json"
        before = None if name and whole else read_kept(path, StudyFile)
        old = {cell["run_id"]: cell for cell in before["cells"]} if before else {}
        new = {cell["run_id"]: dict(cell) for cell in cells}
        listed = old | new if whole else old | new | old
        held = {*hold_out, *(before.get("hold_out", ()) if before else ())}
        write_json(path, {"name": name, "cells": list(listed.values()), "hold_out": sorted(held)})

    def write_launch(self, arguments: Sequence[str], folder: str) -> str:
        """Keep what was typed to launch cells, and where; returns the id that their listings name."""
        launch_id = hashlib.sha256(json.dumps([list(arguments), folder]).encode()).hexdigest()[:12]
        write_json(self.launch_file(launch_id), {"arguments": list(arguments), "folder": folder})
        return launch_id

    def read_launch(self, launch_id: str) -> tuple[list[str], str] | None:
        """Arguments and folder of a launch, None if it was not kept."""
        launch = read_kept(self.launch_file(launch_id), LaunchFile) if launch_id else None
        return (launch["arguments"], launch["folder"]) if launch else None

    def studies(self) -> dict[str, dict]:
        """The cells and settings of each study at its last launch, by file name."""
        return {path.stem: read_kept(path, StudyFile) or {} for path in sorted(self.root.glob("studies/*.json"))}

    def states(self, run_ids: Iterable[str] | None = None) -> pd.DataFrame:
        """One row per cell with the columns of `COLUMNS`; all known cells when no ids are given.

        A cell that is recorded as running while no living process holds its trunk is lost.
        """
        listed = {cell["run_id"]: cell for study in self.studies().values() for cell in study["cells"]}
        if run_ids is None:
            folders = sorted(path.parent.name for path in self.root.glob("cells/*/state.json"))
            run_ids = [*listed, *(run_id for run_id in folders if run_id not in listed)]
        holders: dict[str, dict | None] = {}
        rows = [self._row(run_id, listed.get(run_id, {}), holders) for run_id in run_ids]
        return pd.DataFrame(rows, columns=list(COLUMNS))

    def check(self, run_ids: Iterable[str]) -> None:
        """Raise StoreError naming the first of these finished runs whose file cannot be read."""
        for run_id in run_ids:
            path = self.run_file(run_id)
            if not is_run_table(path):
                raise StoreError(
                    f"{path}: missing, truncated or not a run table; delete {path.parent} and run the study again "
                    "to train this cell anew"
                )

    def state_file(self, run_id: str) -> Path:
        """Where the state of a run is."""
        return self.root / "cells" / check_name(run_id, "run_id") / "state.json"

    def cut_short(self) -> list[str]:
        """The runs whose state cannot be read as JSON: a machine went down while it was written."""
        return [path.parent.name for path in sorted(self.root.glob("cells/*/state.json")) if not _is_json(path)]

    def _kept(self, run_id: str) -> dict[str, Any]:
        """What the state file of a run says; of one that was cut short, what the run's rows say, or that it is lost."""
        path = self.state_file(run_id)
        try:
            return read_kept(path, StateFile) or {}
        except JsonError:
            if _is_json(path):
                raise
            return self._recovered(run_id)

    def _recovered(self, run_id: str) -> dict[str, Any]:
        if is_run_table(self.run_file(run_id)):
            last = read_runs(self.run_file(run_id)).iloc[-1]
            seconds, step = float(last["wall_seconds"]), int(last["step"])
            return {"state": str(last["state"]), "step": step, "seconds": seconds, "trunk_id": str(last["trunk_id"])}
        return {"state": "lost", "error": f"{self.state_file(run_id)} was cut short: the cell is trained again"}

    def launch_file(self, launch_id: str) -> Path:
        """Where the arguments of a launch are kept."""
        return self.root / "launches" / f"{check_name(launch_id, 'launch')}.json"

    def _row(self, run_id: str, listed: Mapping, holders: dict) -> dict:
        path = self.state_file(run_id)
        row = {**_EMPTY, "run_id": run_id, **listed, **self._kept(run_id)}
        if row["run_id"] != run_id:
            raise StoreError(f"{path}: it names another run, {str(row['run_id'])[:120]!r}; delete {path.parent}")
        for key in ("trunk_id", "launch"):
            if row[key] != "":
                check_name(row[key], f"{path}: {key}")
        if row["state"] == "running":
            trunk = row["trunk_id"]
            if trunk not in holders:
                holders[trunk] = holder(self.trunk_folder(trunk)) if trunk else None
            live = holders[trunk]
            row["state"] = "running" if live else "lost"
            row |= {"heartbeat": live["heartbeat"], "step": min(live.get("step", 0), row["steps"])} if live else {}
        return {name: row[name] for name in COLUMNS}


def is_over(state: str, step: int, until: int | None) -> bool:
    """Whether a cell needs no training: it has a result, or has stopped at a step that is all it was to take."""
    return state in SETTLED or (state == STOPPED and until is not None and step >= until)


def _is_json(path: Path) -> bool:
    """Whether the text of a file is JSON, whatever it says; other faults than that are named by who reads it."""
    try:
        json.loads(read_bytes(path))
    except (OSError, JsonError, RecursionError):
        return True
    except ValueError:
        return False
    return True


def _resolved(root: str | Path) -> Path:
    """The folder without links. Raises StoreError for links that go round."""
    try:
        return Path(root).resolve()
    except RuntimeError as error:  # of Python before 3.13
        raise StoreError(f"{root}: its links go round; name a runs folder that `isoflop run` has written") from error


def open_store(root: str | Path) -> Store:
    """The store at `root`. Raises StoreError if there is none."""
    root = _resolved(root)
    if not root.is_dir():
        raise StoreError(f"{root}: no such folder; name a runs folder that `isoflop run` has written")
    marker = read_kept(root / STORE_FILE, Marker, "name a folder that `isoflop run` has written")
    if marker is None:
        raise StoreError(
            f"{root}: not a runs folder (no {STORE_FILE} in it); name a folder that `isoflop run` has written"
        )
    if marker["version"] > STORE_VERSION:
        raise StoreError(
            f"{root}: store version {marker['version']}, this isoflop reads up to {STORE_VERSION}; upgrade"
        )
    return Store(root)


def create_store(root: str | Path) -> Store:
    """The store at `root`, made there if the folder is new or empty. Raises StoreError for anything else."""
    root = _resolved(root)
    if not is_store(root):
        write_json(root / STORE_FILE, {"version": STORE_VERSION, "what": "isoflop runs"})
    return open_store(root)


def is_store(root: str | Path) -> bool:
    """Whether there is a store at `root`. Raises StoreError where none can be made: a file, or a folder of others."""
    root = _resolved(root)
    if root.exists() and not root.is_dir():
        raise StoreError(f"runs={root} is a file; name a new folder, or one that `isoflop run` has written")
    if (root / STORE_FILE).exists():
        return True
    strangers = [path.name for path in root.iterdir() if not path.name.startswith(".")] if root.is_dir() else []
    if strangers and not (root / STORE_FILE).exists():  # another launch may have made the store since the first look
        raise StoreError(
            f"runs={root} is not a runs folder (it holds {strangers[0]!r} and no {STORE_FILE}); "
            "name a new or empty folder"
        )
    return bool(strangers)
