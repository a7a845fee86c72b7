"""Contenders of the CUDA benchmark: a plain loop, the same compiled, ours eager, ours; and their tokens per second.

The plain loop is nanoGPT's written plainly (`plain_loop`) as it runs on CUDA: eager, fused AdamW, pinned copies.
"""

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import torch

from isoflop.experiments.config import DataSpec, OptimSpec, ScheduleSpec, WhereSpec
from isoflop.experiments.study.cell import Cell
from isoflop.experiments.study.engine import decide
from isoflop.experiments.training.learner import Learner
from isoflop.models.config import ModelConfig
from isoflop.models.step.autograd import forward_of
from tests.support.training.plain_loop import PlainLoop

SIZES = {
    "g128": {"n_layer": 5, "d_model": 128, "n_head": 4},  # as conf/model has them
    "g256": {"n_layer": 8, "d_model": 256, "n_head": 8},
    "g512": {"n_layer": 12, "d_model": 512, "n_head": 16},
}
PRECISIONS = ("float32", "bfloat16")
SECONDS = 3.0  # of every measurement
TOKENS = np.random.default_rng(0).integers(0, 256, 4_000_000).astype(np.uint16)
FOREVER = 10**9
Advance = Callable[[int], None]  # trains so many steps, and returns when they are done


class CudaLoop(PlainLoop):
    """The plain loop on a device."""

    def __init__(self, cell: Cell, device: str) -> None:
        super().__init__(cell.model, TOKENS, batch_size=cell.optim.batch_size)
        self.device = device
        self.model.to(device)
        self.forward = forward_of(self.model, bfloat16=cell.precision == "bfloat16")
        for group in self.optimizer.param_groups:
            group.update(fused=True, foreach=False)

    def _batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        x, y = super()._batch()
        if self.device == "cpu":
            return x, y
        return tuple(z.pin_memory().to(self.device, non_blocking=True) for z in (x, y))

    def advance(self, steps: int) -> None:
        """Train so many steps, and wait for them."""
        for _ in range(steps):
            self.step(1e-3)
        if self.device != "cpu":
            torch.cuda.synchronize()


def plain(cell: Cell, device: str) -> Advance:
    """The plain loop."""
    return CudaLoop(cell, device).advance


def compiled(cell: Cell, device: str) -> Advance:
    """The plain loop, its forward pass and the backward of that through torch.compile."""
    loop = CudaLoop(cell, device)
    torch.compiler.reset()
    loop.forward = torch.compile(loop.forward, dynamic=False)
    return loop.advance


def learner_of(cell: Cell, device: str, **how: bool) -> Learner:
    """A learner on random tokens; `how` are fields of its WhereSpec."""
    corpus = SimpleNamespace(train=TOKENS, eval_windows=TOKENS[: cell.model.context_length + 1][None])
    return Learner(cell, corpus, device, engine=decide(cell, WhereSpec(device=device, **how)))


def ours(cell: Cell, device: str, **how: bool) -> Advance:
    """Our step with the engine that is chosen by itself, or as `how` says."""
    learner = learner_of(cell, device, **how)
    return lambda steps: learner.advance(learner.step + steps, FOREVER)


def eager(cell: Cell, device: str) -> Advance:
    """Our step without graph or compiler."""
    return ours(cell, device, graph=False, compile=False)


CONTENDERS: dict[str, Callable[[Cell, str], Advance]] = {
    "plain": plain,
    "compiled": compiled,
    "ours, eager": eager,
    "ours": ours,
}


class Pace(NamedTuple):
    """How fast a contender trains, and the seconds until it does."""

    tokens_per_second: float
    ready: float


def pace(name: str, cell: Cell, device: str, seconds: float = SECONDS) -> Pace:
    """In chunks of steps as a run has them, after a warm-up."""
    began = time.perf_counter()
    advance = CONTENDERS[name](cell, device)
    advance(10)
    ready = time.perf_counter() - began
    began, steps = time.perf_counter(), 0
    while (taken := time.perf_counter() - began) < seconds:
        advance(64 if device != "cpu" else 1)
        steps += 64 if device != "cpu" else 1
    return Pace(steps * cell.batch_tokens / taken, ready)


def cell_of(size: str, batch: int, length: int, precision: str) -> Cell:
    """The cell that every contender trains, without an end."""
    model = ModelConfig("transformer", 256, length, **SIZES[size])
    optim, data = OptimSpec(batch_size=batch), DataSpec(context_length=length)
    return Cell(model, size, data, optim, ScheduleSpec(), "noise", 0, "", FOREVER, float("nan"), precision=precision)
