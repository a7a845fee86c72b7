"""Tokens per second of a cell of about a million parameters on a CUDA device: a plain loop, ours, ours packed.

`python -m tests.bench.cuda [seconds]`. The plain loop is nanoGPT's written plainly (`plain_loop`) as it runs on
CUDA: eager, fused AdamW, pinned copies. Ours once eager, with all else that it does, and once as it runs by itself.
A row per batch and precision; all contenders train the same architecture on the same number of tokens a step and cell.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch

from isoflop.experiments.config import DataSpec, OptimSpec, ScheduleSpec, WhereSpec
from isoflop.experiments.data.batches import remember_orders
from isoflop.experiments.parallel.pack_step import PackedStep
from isoflop.experiments.study.cell import Cell
from isoflop.experiments.study.engine import decide
from isoflop.experiments.training.learner import Learner
from isoflop.experiments.training.trainer import configure_process
from isoflop.models.config import ModelConfig, n_total
from isoflop.models.step.precision import lower_products
from tests.support.plain_loop import PlainLoop

SIZE = {"n_layer": 5, "d_model": 128, "n_head": 4}  # conf/model/g128.yaml
BATCHES = ((8, 64), (16, 256), (64, 512))  # sequences x tokens: where launches decide, to where products do
PRECISIONS = ("float32", "bfloat16")
SECONDS = 3.0  # of every measurement
TOKENS = np.random.default_rng(0).integers(0, 256, 4_000_000).astype(np.uint16)
FOREVER = 10**9
PACKED = 8  # seeds in one step, in float32: bfloat16 is not packed

Advance = Callable[[int], None]  # trains so many steps, and returns when they are done


class CudaLoop(PlainLoop):
    """The plain loop on a device."""

    def __init__(self, cell: Cell, device: str) -> None:
        super().__init__(cell.model, TOKENS, batch_size=cell.optim.batch_size)
        self.device = device
        self.model.to(device)
        if cell.precision == "bfloat16":
            lower_products(self.model)
        for group in self.optimizer.param_groups:
            group.update(fused=True, foreach=False)

    def _batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        x, y = super()._batch()
        if self.device == "cpu":
            return x, y
        return tuple(z.pin_memory().to(self.device, non_blocking=True) for z in (x, y))

    def advance(self, steps: int) -> None:
        for _ in range(steps):
            self.step(1e-3)
        if self.device != "cpu":
            torch.cuda.synchronize()


def plain(cell: Cell, device: str) -> Advance:
    return CudaLoop(cell, device).advance


def learner_of(cell: Cell, device: str, **how: bool) -> Learner:
    corpus = SimpleNamespace(train=TOKENS, eval_windows=TOKENS[: cell.model.context_length + 1][None])
    return Learner(cell, corpus, device, engine=decide(cell, WhereSpec(device=device, **how)))


def ours(cell: Cell, device: str, **how: bool) -> Advance:
    learner = learner_of(cell, device, **how)
    return lambda steps: learner.advance(learner.step + steps, FOREVER)


def eager(cell: Cell, device: str) -> Advance:
    return ours(cell, device, graph=False, compile=False)


def packed(cell: Cell, device: str) -> Advance:
    remember_orders(2 * PACKED)
    learners = [learner_of(replace(cell, seed=seed), device) for seed in range(PACKED)]
    step = PackedStep(learners)

    def advance(steps: int) -> None:
        step.advance(learners, learners[0].step + steps, FOREVER)
        if device != "cpu":
            torch.cuda.synchronize()

    return advance


# name: (what makes it ready, cells that it trains at once)
CONTENDERS: dict[str, tuple[Callable[[Cell, str], Advance], int]] = {
    "plain": (plain, 1),
    "ours, eager": (eager, 1),
    "ours": (ours, 1),
    "ours, packed": (packed, PACKED),
}


def tokens_per_second(name: str, cell: Cell, device: str, seconds: float = SECONDS) -> float:
    """Of all cells together, in chunks of steps as a run has them, after a warm-up."""
    make, cells = CONTENDERS[name]
    if make is packed and cell.precision != "float32":
        return float("nan")
    advance = make(cell, device)
    advance(10)
    began, steps = time.perf_counter(), 0
    while (taken := time.perf_counter() - began) < seconds:
        advance(64 if device != "cpu" else 1)
        steps += 64 if device != "cpu" else 1
    return cells * steps * cell.batch_tokens / taken


def cell_of(batch: int, length: int, precision: str) -> Cell:
    model = ModelConfig("transformer", 256, length, **SIZE)
    optim, data = OptimSpec(batch_size=batch), DataSpec(context_length=length)
    return Cell(model, "g128", data, optim, ScheduleSpec(), "noise", 0, "", FOREVER, float("nan"), precision=precision)


def measure(device: str, seconds: float) -> pd.DataFrame:
    """Tokens per second, a row per batch and precision, a column per contender."""
    rows = {}
    for batch, length in BATCHES:
        for precision in PRECISIONS:
            cell = cell_of(batch, length, precision)
            speeds = {name: tokens_per_second(name, cell, device, seconds) for name in CONTENDERS}
            rows[f"{batch} x {length} {precision}"] = speeds
    return pd.DataFrame(rows).T


def main() -> None:
    if not torch.cuda.is_available():
        print("no CUDA device")
        raise SystemExit(1)
    configure_process(1)
    table = measure("cuda", float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS)
    parameters = n_total(cell_of(*BATCHES[0], PRECISIONS[0]).model)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}: {parameters:,} parameters, tokens per second")
    print(table.map("{:,.0f}".format).to_string())
    print("against the plain loop")
    print(table.div(table["plain"], axis=0).map("{:.2f}x".format).to_string())


if __name__ == "__main__":
    main()
