"""One live line about a sweep, read from the store: cells done, FLOPs done, minutes left."""

import math
import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pandas as pd
from rich.console import Console
from rich.live import Live

from isoflop.experiments.cost.cost import Speed, makespan, run_seconds, trunk_seconds
from isoflop.experiments.store.sample import sample_file
from isoflop.experiments.store.store import SETTLED, STOPPED, Store
from isoflop.experiments.study.cell import Cell, group_by_trunk

REFRESH_SECONDS = 1.0
PLAIN_SECONDS = 20.0  # between lines where nothing can be redrawn


@dataclass(frozen=True)
class Snapshot:
    """How far a sweep is.

    `share` is the part of the predicted time that is behind it; `ratio` measured over predicted seconds of the cells
    that finished since it began, NaN before the first; `left` predicted seconds of each trunk still to come.
    """

    cells: int
    done: int
    running: int
    wrong: int
    flops: float
    share: float
    ratio: float
    left: tuple[float, ...]

    def line(self, seconds: float, share_before: float, workers: int) -> str:
        """The line after so many seconds. The first finished cell corrects the prediction for all others."""
        parts = [f"{self.done}/{self.cells} cells done", f"{self.running} running"]
        if self.wrong:
            parts.append(f"{self.wrong} failed, diverged or lost")
        parts.append(f"{self.flops:.3g} FLOPs done")
        gained = self.share - share_before
        if self.ratio > 0:
            minutes = self.ratio * makespan(self.left, workers, start=0.0) / 60
            parts.append(f"{minutes:.1f} min left ({self.ratio:.2f} of the predicted time a cell)")
        elif gained > 0.01 and seconds > 5:
            parts.append(f"{seconds * (1 - self.share) / gained / 60:.1f} min left")
        return ", ".join(parts)


def snapshot(store: Store, cells: Sequence[Cell], speed: Speed, settled: Collection[str] = ()) -> Snapshot:
    """The state of these cells now; `settled` are the runs that the launch found finished."""
    states = store.states([cell.run_id for cell in cells])
    ended = states["state"].isin([*SETTLED, STOPPED, "failed"])
    flops = (states["flops"] * (states["step"] / states["steps"].clip(lower=1)).clip(upper=1)).sum()
    states = states.assign(ended=ended).set_index("run_id")
    trunks = _trunks(states, cells, speed)
    total = sum(seconds for seconds, _ in trunks)
    return Snapshot(
        cells=len(cells),
        done=int((states["state"] == "done").sum()),
        running=int((states["state"] == "running").sum()),
        wrong=int(states["state"].isin(["failed", "diverged", "lost"]).sum()),
        flops=float(flops),
        share=sum(seconds * share for seconds, share in trunks) / total if total else 1.0,
        ratio=_ratio(states, [cell for cell in cells if cell.run_id not in settled], speed),
        left=tuple(seconds * (1 - share) for seconds, share in trunks),
    )


def _trunks(states: pd.DataFrame, cells: Sequence[Cell], speed: Speed) -> list[tuple[float, float]]:
    """Predicted seconds of each trunk, and the share behind us: by steps in one that is running."""
    trunks = []
    for group in group_by_trunk(cells).values():
        rows = states.loc[[cell.run_id for cell in group]]
        steps = sum(cell.steps for cell in group)
        reached = sum(cell.steps if rows["ended"][cell.run_id] else rows["step"][cell.run_id] for cell in group)
        trunks.append((trunk_seconds(group, speed), min(1.0, reached / steps)))
    return trunks


def _ratio(states: pd.DataFrame, cells: Sequence[Cell], speed: Speed) -> float:
    done = [cell for cell in cells if states.loc[cell.run_id, "state"] == "done"]
    measured = sum(float(states.loc[cell.run_id, "seconds"]) for cell in done)
    return measured / sum(run_seconds(cell, speed) for cell in done) if done else math.nan


@contextmanager
def live_line(store: Store, cells: Sequence[Cell], speed: Speed, workers: int) -> Any:
    """Show the line while the body runs: redrawn on a terminal, a plain line now and then elsewhere."""
    console = Console(stderr=True, highlight=False)
    began, first = time.monotonic(), snapshot(store, cells, speed)
    states = store.states([cell.run_id for cell in cells])
    settled = set(states.loc[states["state"].isin(SETTLED), "run_id"])

    def text() -> str:
        return snapshot(store, cells, speed, settled).line(time.monotonic() - began, first.share, workers)

    stop = threading.Event()
    target = _redraw if console.is_terminal else _print
    thread = threading.Thread(target=target, args=(console, text, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _redraw(console: Console, text: Callable[[], str], stop: threading.Event) -> None:
    with Live(text(), console=console, auto_refresh=False, transient=True) as live:
        while not stop.wait(REFRESH_SECONDS):
            live.update(text(), refresh=True)


def _print(console: Console, text: Callable[[], str], stop: threading.Event) -> None:
    while not stop.wait(PLAIN_SECONDS):
        console.print(text(), soft_wrap=True)


def closing_table(store: Store, cells: Sequence[Cell], seconds: float) -> str:
    """States by number, then every cell that did not end as it was to, with the place and reason."""
    states = store.states([cell.run_id for cell in cells])
    counts = states["state"].value_counts()
    lines = [f"{len(cells)} cells: " + ", ".join(f"{n} {state}" for state, n in counts.items()) + f" ({seconds:.0f} s)"]
    for row in states[~states["state"].isin(["done", STOPPED])].itertuples():
        reason = row.error.strip().splitlines()[-1] if row.error else ""
        lines.append(f"  {row.state:8} {row.run_id}  {row.label}  step {row.step}/{row.steps}  {reason}".rstrip())
    engines = states.loc[states["engine"] != "", "engine"].value_counts()
    if len(engines) > 1:
        lines.append("engines: " + ", ".join(f"{count} by {name}" for name, count in engines.items()))
    return "\n".join([*lines, *_sample_of_one(store, cells), f"runs in {store.root}"])


def _sample_of_one(store: Store, cells: Sequence[Cell]) -> list[str]:
    """The model's sample of text, where the launch is of one cell and it is done."""
    path = sample_file(store, cells[0].run_id)
    return [f"{path}:", path.read_text(encoding="utf-8")] if len(cells) == 1 and path.exists() else []
