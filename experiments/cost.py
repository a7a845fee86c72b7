"""Seconds before anything is trained: a step costs a L + b F + c L tokens d (layers L, width d, exact FLOPs F).

The three rates are measured once on a machine (`experiments.calibrate`, about ten seconds) and kept; until then those
of a named machine stand in, and what a plan prints says which.
"""

import heapq
import json
import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from experiments.cell import Cell, trunk_steps

EVAL_SHARE = 0.35  # of a training step's time: a forward pass alone, on as many tokens
START_SECONDS = 4.0  # a worker's imports
JOB_SECONDS = 0.7  # composing the configuration of a job


@dataclass(frozen=True)
class Speed:
    """Seconds per layer and step, per FLOP, and per layer x token x width."""

    per_layer: float
    per_flop: float
    per_activation: float
    source: str

    def step(self, cell: Cell) -> float:
        """Predicted seconds of one optimiser step."""
        layers, flops, activations = work(cell)
        return self.per_layer * layers + self.per_flop * flops + self.per_activation * activations


def work(cell: Cell) -> tuple[float, float, float]:
    """What a step's time is made of: layers, FLOPs, layers x tokens x width."""
    shape = cell.model
    flops = cell.training_flops / cell.steps
    return float(shape.n_layer), flops, float(shape.n_layer * cell.batch_tokens * shape.d_model)


REFERENCE = Speed(1.1e-3, 1.3e-11, 7.0e-8, "rates of a 2.45 GHz Zen 3 core; isoflop plan --calibrate measures this one")


def known_speed() -> Speed:
    """What was measured on this machine, else the reference."""
    try:
        return Speed(**json.loads(_file().read_text()))
    except (OSError, ValueError, TypeError):
        return REFERENCE


def keep(speed: Speed) -> None:
    _file().parent.mkdir(parents=True, exist_ok=True)
    _file().write_text(json.dumps(asdict(speed)))


def trunk_seconds(cells: Sequence[Cell], speed: Speed) -> float:
    """Predicted seconds of one worker on a trunk, its branches and their final evaluations."""
    evaluation = sum(cell.data.eval_tokens / cell.batch_tokens for cell in cells) * EVAL_SHARE
    return JOB_SECONDS + (trunk_steps(cells) + evaluation) * speed.step(cells[0])


def makespan(seconds: Iterable[float], workers: int) -> float:
    """When the last worker ends if each takes the longest job left."""
    ends = [START_SECONDS] * workers
    heapq.heapify(ends)
    for job in sorted(seconds, reverse=True):
        heapq.heapreplace(ends, ends[0] + job)
    return max(ends)


def _file() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "isoflop" / f"speed-{platform.node()}.json"
