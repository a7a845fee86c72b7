"""The curves of a store's cells in training, with the bands that its finished runs predict: `Watching`."""

import time
from typing import Any

import pandas as pd

from isoflop.experiments.store.running import running_rows
from isoflop.experiments.store.store import Store
from isoflop.scaling.prediction.curves.watch import Watch, watch_curves
from isoflop.scaling.table.runs import RunTableError, read_runs

SHARE = 0.05  # of a core that looking on takes, at most
NONE_YET = "no cell in training has a row of its curve yet"


def with_running(table: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """A run table of a store with the rows so far of its cells in training, as `running_rows` gives them."""
    rows = rows[~rows["run_id"].isin(set(table["run_id"]))] if len(rows) else rows
    if not len(rows):
        return table
    joined = pd.concat([table, rows[[name for name in rows if name in table]]], ignore_index=True)
    joined.attrs = dict(table.attrs)
    return joined


class Watching:
    """Looks again and again at the cells in training of one store.

    The law is fitted anew only where a run has ended or a cell has a new row, and as seldom as keeps it below SHARE of
    a core, so that looking on does not slow the training.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._seen: Watch | None = None
        self._why = NONE_YET
        self._key: object = None
        self._next = 0.0

    def look(self) -> tuple[Watch | None, str]:
        """The cells in training with their bands; where there are none yet, a line that says why."""
        states = self._store.states()
        rows = running_rows(self._store, states)
        steps = {} if rows.empty else rows.groupby("run_id")["step"].max().to_dict()
        key = (steps, int(states["state"].isin(["done", "diverged"]).sum()))
        now = time.monotonic()
        if key != self._key and now >= self._next:
            began, self._key = time.process_time(), key
            self._seen, self._why = self._watch(rows)
            self._next = now + (time.process_time() - began) / SHARE
        return self._seen, self._why

    def _watch(self, rows: pd.DataFrame) -> tuple[Watch | None, str]:
        if rows.empty:
            return None, NONE_YET
        try:
            done = read_runs(self._store.root)
        except RunTableError:  # none has ended
            done = rows.iloc[:0]
        try:
            return watch_curves(with_running(done, rows) if len(done) else rows), ""
        except ValueError as error:
            return None, f"no bands yet: {error}"

    def shown(self) -> tuple[dict[str, Any], str]:
        """What a look saw, as keys of an answer and as text."""
        seen, why = self.look()
        if seen is None:
            return {"curves": [], "left_band": [], "findings": [], "notes": [why]}, why
        return seen.to_dict(), str(seen)
