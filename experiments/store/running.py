"""The curves of cells in training: the rows so far of each, beside the claim of its trunk, for whoever looks on.

    trunks/<trunk_id>/curve.json    the rows of the cell in training, as its run table will hold them

No result and no state: nothing is resumed from it, and it goes when the cell has ended. It is replaced as a whole, at
most once in EVERY_SECONDS and only when there is a new row, and nobody waits for the disk.
"""

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypedDict

import pandas as pd

from isoflop.experiments.files import Claim, ClaimLostError, read_kept, write_passing
from isoflop.experiments.store.store import Store

CURVE_FILE = "curve.json"
EVERY_SECONDS = 2.0

Rows = Callable[[], list[dict[str, Any]]]


class CurveFile(TypedDict):
    """What is kept of a cell in training."""

    run_id: str
    rows: list[dict[str, Any]]


class RunningCurve:
    """The file of one trunk, written by the process that trains it."""

    def __init__(self, claim: Claim) -> None:
        self._claim = claim
        self._path = claim.folder / CURVE_FILE
        self._written: tuple[str, int] = ("", 0)
        self._at = -math.inf

    def follow(self, run_id: str, count: int, rows: Rows) -> None:
        """Keep the `count` rows that a cell has, made by `rows`. A full disk is no fault of the cell's."""
        now = time.monotonic()
        if (run_id, count) == self._written or now - self._at < EVERY_SECONDS:
            return
        self._written, self._at = (run_id, count), now
        with contextlib.suppress(OSError):
            write_passing(self._path, {"run_id": run_id, "rows": rows()})

    def end(self) -> None:
        """Remove the file, unless the trunk is another process' by now."""
        with contextlib.suppress(ClaimLostError, OSError):
            self._claim.check()
            self._path.unlink(missing_ok=True)
        self._written, self._at = ("", 0), -math.inf


def running_rows(store: Store, states: pd.DataFrame | None = None) -> pd.DataFrame:
    """The rows so far of every cell in training, a run table; empty where none has a row yet.

    `states` are those of the store, where they are known already.
    """
    states = store.states() if states is None else states
    running = states[states["state"] == "running"]
    rows: list[dict[str, Any]] = []
    for trunk, cells in running.groupby("trunk_id", sort=False):
        kept = read_kept(store.trunk_folder(str(trunk)) / CURVE_FILE, CurveFile, "delete it: it is written again")
        if kept is not None and kept["run_id"] in set(cells["run_id"]):
            rows += kept["rows"]
    return pd.DataFrame(rows)


def curve_files(folders: Sequence[Path]) -> list[Path]:
    """The files that processes which were killed left in these folders of trunks."""
    return [folder / CURVE_FILE for folder in folders if (folder / CURVE_FILE).exists()]
