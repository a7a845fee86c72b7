"""Seconds before anything is trained. No torch.

A worker's time on a trunk is its steps and its evaluations. What a step and an evaluated token cost is measured for
each shape of a study (`sweep.calibrate`) and kept. A shape that was not measured costs a L + b F + c L tokens d a
step (layers L, longer by their experts, width d, exact FLOPs F), with rates fitted to those that were; before any was,
rates between those of two named processors stand in. What a plan prints says which. What rounds its products to few
bits, or multiplies in bfloat16, is another kind of step, with rates of its own.
"""

import heapq
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from isoflop.experiments.cost.shape_key import shape_key
from isoflop.experiments.study.cell import ROW_SHARE, Cell, curve_stride, row_steps, trunk_steps

START_SECONDS = 4.0  # a worker's imports, where they were not measured
SMALL_STEP = 1e10  # FLOPs of a step that leaves most of a GPU idle
JOB_SECONDS = 0.7  # composing the configuration of a job, opening its corpus, building its model
ROUTER, EXPERT = 0.4, 0.15  # what a router, and each expert of it, adds to the calls of a layer; measured, d8 to d48
ROUNDED = "rounded"  # the kind of a step whose products are rounded to few bits


@dataclass(frozen=True)
class Rate:
    """Seconds of one optimiser step and of one evaluated token, for one shape."""

    step: float
    token: float


@dataclass(frozen=True)
class Speed:
    """Seconds per layer and step, per FLOP, and per layer x token x width, for shapes that `rates` does not have.

    All with every core at work, as in a sweep; `alone` is the share of that time which a worker without company takes.
    `formulas` holds the three by kind of step, where they differ. On a GPU rates are of one trunk without company, and
    `side_by_side` is how many times as many small steps a second are taken where trunks fill it.
    """

    per_layer: float
    per_flop: float
    per_activation: float
    source: str
    rates: Mapping[str, Rate] = field(default_factory=dict)
    start: float = START_SECONDS
    alone: float = 1.0
    threads: int = 1
    formulas: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    side_by_side: float = 1.0

    def step(self, cell: Cell) -> float:
        """Predicted seconds of one optimiser step."""
        if known := self.rates.get(shape_key(cell)):
            return known.step
        return sum(rate * amount for rate, amount in zip(self.formula(kind(cell)), work(cell), strict=True))

    def formula(self, kind: str) -> tuple[float, float, float]:
        """Seconds per layer, per FLOP and per activation of one kind of step."""
        return self.formulas.get(kind, (self.per_layer, self.per_flop, self.per_activation))

    def token(self, cell: Cell) -> float:
        """Predicted seconds of evaluating one token."""
        if known := self.rates.get(shape_key(cell)):
            return known.token
        return ROW_SHARE * self.step(cell) / cell.batch_tokens

    def with_company(self, workers: int, cores: int) -> "Speed":
        """The rates of each of so many workers, one a core: between alone and every core at work."""
        busy = 1.0 if cores < 2 else (min(workers, cores) - 1) / (cores - 1)
        factor = self.alone + (1 - self.alone) * busy
        return replace(
            self,
            per_layer=self.per_layer * factor,
            per_flop=self.per_flop * factor,
            per_activation=self.per_activation * factor,
            rates={key: Rate(rate.step * factor, rate.token * factor) for key, rate in self.rates.items()},
            formulas={key: (a * factor, b * factor, c * factor) for key, (a, b, c) in self.formulas.items()},
            alone=1.0,
        )


REFERENCE = Speed(
    3.4e-4,
    1.6e-11,
    0.0,
    "rates between those of a Zen 3 and a Zen 5 core, not of this machine",
    formulas={ROUNDED: (1.9e-3, 4e-11, 0.0)},  # by autograd
)


def kind(cell: Cell) -> str:
    """What a step is by how it multiplies: float32, bfloat16, or ROUNDED. Each has rates of its own."""
    return ROUNDED if cell.model.quantised else cell.precision


def work(cell: Cell) -> tuple[float, float, float]:
    """What a step's time is made of: layers, longer by the calls of their experts; FLOPs; layers x tokens x width."""
    shape = cell.model
    calls = 1.0 + (ROUTER + EXPERT * shape.experts if shape.experts else 0.0)
    flops = cell.training_flops / cell.steps
    return shape.n_layer * calls, flops, float(shape.n_layer * cell.batch_tokens * shape.d_model)


def curve_tokens(cells: Sequence[Cell]) -> int:
    """Held-out tokens of the rows on the way of a trunk and its branches."""
    rows = len(row_steps(max(cell.branch_step for cell in cells)))
    for cell in cells:
        branch, end = cell.branch_step, cell.steps
        rows += sum(branch < step < end for step in row_steps(end))
    tokens = cells[0].data.eval_tokens
    return rows * tokens // curve_stride(tokens)


def run_seconds(cell: Cell, speed: Speed) -> float:
    """Predicted `wall_seconds` of a run at its last row: had it been alone, and without the evaluation of that row."""
    return cell.steps * speed.step(cell) + curve_tokens([cell]) * speed.token(cell)


def trunk_seconds(cells: Sequence[Cell], speed: Speed) -> float:
    """Predicted seconds of one worker on a trunk and its branches, with all their evaluations."""
    evaluated = curve_tokens(cells) + len(cells) * cells[0].data.eval_tokens
    return JOB_SECONDS + trunk_steps(cells) * speed.step(cells[0]) + evaluated * speed.token(cells[0])


def makespan(seconds: Iterable[float], workers: int, *, start: float = START_SECONDS) -> float:
    """When the last worker ends if each takes the longest job left."""
    ends = [start] * workers
    heapq.heapify(ends)
    for job in sorted(seconds, reverse=True):
        heapq.heapreplace(ends, ends[0] + job)
    return max(ends)


def trunks_seconds(trunks: Sequence[Sequence[Cell]], workers: int, speed: Speed) -> float:
    """Predicted seconds of so many workers, a core or a GPU each, on these trunks; 0 if there are none."""
    if not trunks:
        return 0.0
    each = speed.with_company(workers, cores())
    seconds = [trunk_seconds(cells, each) for cells in trunks]
    if speed.side_by_side == 1:
        return makespan(seconds, workers, start=speed.start)
    on_device = [
        taken / (speed.side_by_side if cells[0].step_flops < SMALL_STEP else 1.0)
        for cells, taken in zip(trunks, seconds, strict=True)
    ]
    return speed.start + max(sum(on_device) / workers, max(seconds))  # the longest has no company at its end


def cores() -> int:
    """Cores that this process may use: in a task of SLURM, those that it was given."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(here, int(os.environ.get("SLURM_CPUS_ON_NODE", here)))
