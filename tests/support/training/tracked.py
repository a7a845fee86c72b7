"""Two cells with made-up curves, sent to trackers without any training."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

from isoflop.experiments.study.cell import Cell
from isoflop.experiments.trackers.sinks import Trackers
from isoflop.experiments.training.rows import Measurement, run_rows
from tests.support.sweep.studies import only, single

CORPUS = SimpleNamespace(
    tokenizer_id="bytes", eval_id="e", loss_floor=float("nan"), bytes_per_token=1.0, train_tokens=10_000_000,
    corpus_id="c0",
)  # fmt: skip
FIRST, SECOND = only(single(flops=3e9)), only(replace(single(flops=6e9), arm="b"))


def measurement(step: int) -> Measurement:
    """A made-up measurement at a step."""
    return Measurement(step, 0.02, "constant", 3.0 - step / 1000, 0.01, 0.3, 3.1 - step / 1000, step / 10)


def curve(cell: Cell, points: int = 4) -> list[Measurement]:
    """Measurements at even steps up to the end of a cell."""
    return [measurement(cell.steps * k // points) for k in range(1, points + 1)]


def track(folder: Path, names: list[str], cell: Cell, until: int | None = None, **options) -> list[dict]:
    """Send to trackers the curve of `cell` up to its measurement `until` (all: to its end); returns its rows."""
    points = curve(cell)[:until]
    with Trackers(names, folder, "study", CORPUS, "cpu") as sinks:
        for k in range(1, len(points) + 1):
            sinks.follow(cell, points[:k])
        rows = run_rows(cell, CORPUS, points, state=options.get("state", "done"), device="cpu")
        if until is None:
            sinks.finish(cell, rows)
    return rows
