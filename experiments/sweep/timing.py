"""A process that times training steps and evaluations of a few cells, next to others that do the same.

    python -m isoflop.experiments.sweep.timing < pickled (cells, where), then lines    says `ready`, answers every line

A line is JSON, [seconds, first cell, end]; so is the answer, [[seconds a step, seconds an evaluated token], ...]. Of an
empty range, whose end is the first cell, the answer is how many times as many steps a GPU takes that is filled with it.

Processor time is taken on CPU: what else runs on the machine then counts as little as possible, while the company of
the sweep's other workers, whose place its siblings take, does count.
"""

import json
import pickle
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import numpy as np
import torch

from isoflop.experiments.config import WhereSpec
from isoflop.experiments.cost.packs import most
from isoflop.experiments.data.batches import Corpus
from isoflop.experiments.study.cell import Cell
from isoflop.experiments.study.engine import decide
from isoflop.experiments.training.learner import Learner
from isoflop.experiments.training.process import configure_process

PASSES = 2
FOREVER = 10**9  # steps of a run without an end
CHUNK = 16  # steps between looks at the clock
EVALUATED = 8192  # tokens
_TOKENS = 400_000


def time_cells(cells: Sequence[Cell], seconds: float, where: WhereSpec) -> list[tuple[float, float]]:
    """(seconds of a step, seconds of an evaluated token) of each cell, all within about `seconds`.

    The lesser of two passes apart in time: a neighbour that comes and goes slows one of them. On CUDA one, since a step
    is captured or compiled for it.
    """
    passes = PASSES if where.device == "cpu" else 1
    measured = [[_time(cell, seconds / passes / len(cells), where) for cell in cells] for _ in range(passes)]
    return [tuple(map(min, zip(*rates, strict=True))) for rates in zip(*measured, strict=True)]


def _time(cell: Cell, seconds: float, where: WhereSpec) -> tuple[float, float]:
    """Medians over short runs of steps and over evaluations; a warm-up is left out."""
    began, device = time.perf_counter(), where.device
    learner = _on_noise(cell, where)
    if device != "cpu":
        learner.advance(1, cell.steps)  # captures or compiles the step
        learner.measure(cell.steps)
    first = _seconds(lambda: learner.advance(learner.step + 1, cell.steps), device)
    chunk = max(1, min(CHUNK, int(seconds / 8 / max(first, 1e-6))))
    steps: list[float] = []
    while len(steps) < 3 or time.perf_counter() - began < 0.8 * seconds:
        if steps and time.perf_counter() - began > 2 * seconds:
            break  # a large model: what there is must do
        steps.append(_seconds(lambda: learner.advance(learner.step + chunk, cell.steps), device) / chunk)
    tokens: list[float] = []
    while not tokens or time.perf_counter() - began < seconds:
        taken = _seconds(lambda: learner.measure(cell.steps, windows=learner.windows), device)
        tokens.append(taken / (learner.windows.numel() - len(learner.windows)))
    return float(np.median(steps)), float(np.median(tokens))


def _on_noise(cell: Cell, where: WhereSpec) -> Learner:
    """A learner of the cell on random tokens, of which there is one kind, whatever it mixes."""
    cell = replace(cell, data=replace(cell.data, mixture={}))
    return Learner(cell, cast(Corpus, noise(cell)), where.device, engine=decide(cell, where))


def side_by_side(cell: Cell, seconds: float, where: WhereSpec) -> float:
    """Steps a second of as many trunks as fill the device, each on a stream, over those of one."""
    rates = []
    for count in (1, most(where)):
        streams = [torch.cuda.Stream(where.device) for _ in range(count)]
        learners = []
        for stream in streams:
            with torch.cuda.stream(stream):
                learners.append(_on_noise(cell, where))
                learners[-1].advance(2 * learners[-1].together[0], FOREVER)
        began, rounds = time.perf_counter(), 0
        while (taken := time.perf_counter() - began) < seconds / 2:
            for learner, stream in zip(learners, streams, strict=True):
                with torch.cuda.stream(stream):
                    learner.take_steps(learner.step + learner.together[0], FOREVER)
            rounds += 1
            if rounds % 4 == 0:
                torch.cuda.synchronize()
        rates.append(rounds * count / taken)
    return rates[1] / rates[0]


def _seconds(work: Callable[[], object], device: str) -> float:
    if device == "cpu":
        began = time.thread_time()
        work()
        return time.thread_time() - began
    torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - began


def noise(cell: Cell) -> SimpleNamespace:
    """A corpus of random tokens with the cell's vocabulary."""
    window = cell.model.context_length + 1
    random = np.random.default_rng(0).integers(
        0, cell.model.vocab_size, max(_TOKENS, 2 * cell.optim.batch_size * window)
    )
    count = max(1, min(EVALUATED, cell.data.eval_tokens) // cell.model.context_length)
    held_out = random[: count * window].reshape(count, window)
    return SimpleNamespace(train=random.astype(np.int32), eval_windows=held_out, corpus_id=cell.corpus_id)


def main() -> None:
    """Read cells from standard input, then answer every line with their times, until there is no more."""
    cells, where = pickle.load(sys.stdin.buffer)  # from the process that started this one
    configure_process(where.threads)
    print("ready", flush=True)
    for line in sys.stdin.buffer:
        seconds, first, end = json.loads(line)
        answer = (
            time_cells(cells[first:end], seconds, where) if end > first else side_by_side(cells[first], seconds, where)
        )
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
