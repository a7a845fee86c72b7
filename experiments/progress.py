"""One live line about a sweep, read from the store: cells done, FLOPs done, minutes left."""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pandas as pd
from rich.console import Console
from rich.live import Live

from experiments.cell import Cell, group_by_trunk
from experiments.cost import Speed, trunk_seconds
from experiments.sample import sample_file
from scaling.store import SETTLED, Store

REFRESH_SECONDS = 1.0
PLAIN_SECONDS = 20.0  # between lines where nothing can be redrawn


@dataclass(frozen=True)
class Snapshot:
    """How far a sweep is. `share` is the part of the predicted time that is behind it."""

    cells: int
    done: int
    running: int
    wrong: int
    flops: float
    share: float

    def line(self, seconds: float, share_before: float) -> str:
        parts = [f"{self.done}/{self.cells} cells done", f"{self.running} running"]
        if self.wrong:
            parts.append(f"{self.wrong} failed, diverged or lost")
        parts.append(f"{self.flops:.3g} FLOPs done")
        gained = self.share - share_before
        if gained > 0.01 and seconds > 5:
            parts.append(f"{seconds * (1 - self.share) / gained / 60:.1f} min left")
        return ", ".join(parts)


def snapshot(store: Store, cells: Sequence[Cell], speed: Speed) -> Snapshot:
    """The state of these cells now."""
    states = store.states([cell.run_id for cell in cells])
    ended = states["state"].isin([*SETTLED, "failed"])
    flops = (states["flops"] * (states["step"] / states["steps"].clip(lower=1)).clip(upper=1)).sum()
    return Snapshot(
        cells=len(cells),
        done=int((states["state"] == "done").sum()),
        running=int((states["state"] == "running").sum()),
        wrong=int(states["state"].isin(["failed", "diverged", "lost"]).sum()),
        flops=float(flops),
        share=_share(states.assign(ended=ended), cells, speed),
    )


def _share(states: pd.DataFrame, cells: Sequence[Cell], speed: Speed) -> float:
    """Predicted seconds behind us over predicted seconds in all; a running trunk counts its steps."""
    by_id = states.set_index("run_id")
    total = behind = 0.0
    for group in group_by_trunk(cells).values():
        seconds = trunk_seconds(group, speed)
        rows = by_id.loc[[cell.run_id for cell in group]]
        steps = sum(cell.steps for cell in group)
        reached = sum(cell.steps if rows["ended"][cell.run_id] else rows["step"][cell.run_id] for cell in group)
        total += seconds
        behind += seconds * min(1.0, reached / steps)
    return behind / total if total else 1.0


@contextmanager
def live_line(store: Store, cells: Sequence[Cell], speed: Speed) -> Any:
    """Show the line while the body runs: redrawn on a terminal, a plain line now and then elsewhere."""
    console = Console(stderr=True, highlight=False)
    began, first = time.monotonic(), snapshot(store, cells, speed)

    def text() -> str:
        return snapshot(store, cells, speed).line(time.monotonic() - began, first.share)

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
    """States by number, then every cell that is not done with the place and reason."""
    states = store.states([cell.run_id for cell in cells])
    counts = states["state"].value_counts()
    lines = [f"{len(cells)} cells: " + ", ".join(f"{n} {state}" for state, n in counts.items()) + f" ({seconds:.0f} s)"]
    for row in states[states["state"] != "done"].itertuples():
        reason = row.error.strip().splitlines()[-1] if row.error else ""
        lines.append(f"  {row.state:8} {row.run_id}  {row.label}  step {row.step}/{row.steps}  {reason}".rstrip())
    return "\n".join([*lines, *_sample_of_one(store, cells), f"runs in {store.root}"])


def _sample_of_one(store: Store, cells: Sequence[Cell]) -> list[str]:
    """What the model says, where one cell was asked for and is done."""
    path = sample_file(store, cells[0].run_id)
    return [f"{path}:", path.read_text(encoding="utf-8")] if len(cells) == 1 and path.exists() else []
