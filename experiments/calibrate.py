"""Measure this machine: a few training steps at a few shapes, and the rates of `experiments.cost` fitted to them."""

import time
from types import SimpleNamespace

import numpy as np
from scipy.optimize import nnls

from experiments.cell import Cell
from experiments.config import DataSpec, OptimSpec, ScheduleSpec
from experiments.cost import Speed, work
from experiments.learner import Learner
from experiments.names import load_size
from experiments.trainer import configure_process
from models.config import ModelConfig

SIZES = ("d8", "d16", "d32", "d64", "d128")
SECONDS_PER_SIZE = 1.5
VOCABULARY = 256


def measure(data: DataSpec, optim: OptimSpec) -> Speed:
    """Rates of one worker here, for this context length and batch size. Takes about ten seconds."""
    configure_process(1)
    shapes, seconds = [], []
    for size in SIZES:
        cell = _cell(size, data, optim)
        shapes.append(work(cell))
        seconds.append(_step_seconds(Learner(cell, _noise(data.context_length), "cpu")))
    target = np.asarray(seconds)
    relative = np.asarray(shapes) / target[:, None]  # least squares of the relative error: small shapes count as much
    rates, _ = nnls(relative, np.ones(len(target)))
    error = float(np.median(np.abs(relative @ rates - 1)))
    told = f"measured here on {time.strftime('%Y-%m-%d %H:%M')}, median error {error:.0%}"
    return Speed(*map(float, rates), told)


def _step_seconds(learner: Learner) -> float:
    """Median over short runs of steps, the first run left out; processor time, which other processes do not inflate."""
    taken, began = [], time.perf_counter()
    while len(taken) < 4 or time.perf_counter() - began < SECONDS_PER_SIZE:
        start = time.process_time()
        learner.advance(learner.step + 4, 1_000_000)
        taken.append((time.process_time() - start) / 4)
    return float(np.median(taken[1:]))


def _cell(size: str, data: DataSpec, optim: OptimSpec) -> Cell:
    shape = load_size(size)
    model = ModelConfig("transformer", VOCABULARY, data.context_length, shape.n_layer, shape.d_model, shape.n_head)
    return Cell(model, size, data, optim, ScheduleSpec(), "noise", 0, "", 1_000_000, float("nan"))


def _noise(context_length: int) -> SimpleNamespace:
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, 200_000).astype(np.uint16)
    windows = tokens[: (context_length + 1) * 8].reshape(8, -1)
    return SimpleNamespace(train=tokens, eval_windows=windows, corpus_id="noise")
