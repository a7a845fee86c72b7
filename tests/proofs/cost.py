"""Predicted against measured seconds of every cell of a study.

    python -m tests.proofs.cost RUNS [experiment=quick ...]      against the runs of a folder or table
    python -m tests.proofs.cost --train 60 [experiment=quick ...]    train cells here, the cheapest first, for so long

The first is for a machine that was as quiet while the study ran as while `isoflop plan --calibrate` did: the seconds
of a run are by the clock. The second counts processor seconds on both sides, so that company costs only cache and
clock rate. Bar: median error at most 15%, worst at most 40%.
"""

import sys
import time
from pathlib import Path
from unittest.mock import patch

import numpy as np

from isoflop.experiments.compose.compose import compose_all
from isoflop.experiments.cost.cost import Speed, run_seconds
from isoflop.experiments.study.cell import Cell
from isoflop.experiments.sweep.launch import load
from isoflop.experiments.sweep.plan import speed_for
from isoflop.scaling.table.runs import read_runs


def compare(cells: list[Cell], measured: dict[str, float], speed: Speed) -> None:
    """Print predicted and measured seconds of every cell, and the errors of the prediction."""
    print(f"{'cell':38} {'steps':>6} {'predicted':>9} {'measured':>9} {'ratio':>6}")
    ratios = []
    for cell in sorted(cells, key=lambda cell: measured[cell.run_id]):
        predicted, seconds = run_seconds(cell, speed), measured[cell.run_id]
        ratios.append(seconds / predicted)
        print(f"{cell.label:38} {cell.steps:6} {predicted:9.2f} {seconds:9.2f} {ratios[-1]:6.3f}")
    error = np.abs(1 / np.asarray(ratios) - 1)
    common = float(np.median(ratios))
    apart = np.abs(common / np.asarray(ratios) - 1)
    print(f"{len(cells)} cells; {speed.source}")
    print(f"error of the prediction: median {np.median(error):.1%}, worst {error.max():.1%} (bars 15%, 40%)")
    print(f"measured / predicted: median {common:.3f}; errors apart from it: {np.median(apart):.1%}, {apart.max():.1%}")


def of_table(path: str, cells: list[Cell]) -> dict[str, float]:
    """Seconds by the clock of every cell that a runs folder or table holds, by run id."""
    table = read_runs(path)
    ended = table[table["final"]].set_index("run_id")["wall_seconds"]
    return {cell.run_id: float(ended[cell.run_id]) for cell in cells if cell.run_id in ended.index}


def of_training(seconds: float, cells: list[Cell], corpora, where, speed: Speed) -> dict[str, float]:
    """Processor seconds of cells trained here one by one, one of each size in turn, until the time is spent."""
    from isoflop.experiments.training.process import configure_process
    from isoflop.experiments.training.trainer import train_trunk

    configure_process(1)
    by_size: dict[str, list[Cell]] = {}
    for cell in sorted(cells, key=lambda cell: run_seconds(cell, speed)):
        by_size.setdefault(cell.size, []).append(cell)
    order = [group[i] for i in range(max(map(len, by_size.values()))) for group in by_size.values() if i < len(group)]
    measured, spent = {}, 0.0
    with patch("isoflop.experiments.training.learner.time.perf_counter", time.thread_time):
        for cell in order:
            if spent + run_seconds(cell, speed) > seconds:
                continue
            ((_, rows),) = train_trunk([cell], corpora(cell.data), folder=None, where=where)
            measured[cell.run_id] = rows[-1]["wall_seconds"]
            spent += measured[cell.run_id]
    return measured


def main(arguments: list[str]) -> None:
    """Compare with a table, or with cells trained now."""
    train = arguments[0] == "--train"
    first, *overrides = arguments[1:] if train else arguments
    (spec,) = compose_all(overrides or ["experiment=quick"])
    study, corpora = load(spec)
    cells = list(study.cells)
    speed = speed_for([spec], calibrate=True if train else None)
    if train:
        measured = of_training(float(first), cells, corpora, spec.where, speed)
    else:
        measured = of_table(str(Path(first)), cells)
    compare([cell for cell in cells if cell.run_id in measured], measured, speed)


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit(__doc__)
    main(sys.argv[1:])
