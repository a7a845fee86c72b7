"""Cells that ended without a result, or with a diverged one, sent to be trained again as they were launched before."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from isoflop.experiments.store.store import Store, StoreError

RETRIED = ("failed", "lost", "diverged")


@dataclass(frozen=True)
class Relaunch:
    """Cells of one launch: what was typed, where, and which of its runs are wanted."""

    arguments: tuple[str, ...]
    folder: str
    run_ids: tuple[str, ...]

    def overrides(self, store: Store) -> list[str]:
        """The arguments of `isoflop run` that train these cells and no other."""
        ids = ",".join(f"'{run_id}'" for run_id in self.run_ids)
        return [*self.arguments, f"runs='{store.root}'", f"where.only=[{ids}]"]


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
            told = ", ".join(cells["run_id"][:5]) or "none"
            raise StoreError(f"--run {run_id}: it must begin exactly one run of {store.root}; it begins {told}")
        if (now := cells["state"].iloc[0]) not in states:
            raise StoreError(f"run {cells['run_id'].iloc[0]} is {now}, not {' or '.join(states)}; see --state")
    return cells[cells["state"].isin(states)]


def relaunches(store: Store, cells: pd.DataFrame) -> list[Relaunch]:
    """These cells by the launch that asked for them last.

    Raises StoreError naming a cell of which the store does not know how it was launched.
    """
    found = []
    for launch_id, group in cells.groupby("launch", sort=False):
        launch = store.read_launch(str(launch_id))
        if launch is None:
            raise StoreError(
                f"run {group['run_id'].iloc[0]} ({group['label'].iloc[0]}): the store does not say how it was "
                "launched; `isoflop retry --mark` marks it as planned, then type its `isoflop run` again"
            )
        found.append(Relaunch(tuple(launch[0]), launch[1], tuple(group["run_id"])))
    return found


def mark(store: Store, cells: pd.DataFrame) -> None:
    """Record cells as planned: a launch of their study trains them again, diverged ones too."""
    for run_id in cells["run_id"]:
        store.record(run_id, "planned", error="")
