"""One training step against nanoGPT's loop written plainly, and against what its own products allow.

`make bench`, or `python -m tests.bench.step [rounds]`. Same architecture, batch and tokens, one thread, processor time;
each round starts a process per contender, in turn, since an allocator is a matter of the whole process. The peer is
eager, gathers its batch row by row, zeroes, clips and updates with torch's AdamW; once with glibc's thresholds as they
are and once with ours. The ceiling is the rate of the step's linear products alone, same shapes, layouts and buffers,
by torch's library or by that of `blas`, whichever is faster here; all of the step's exact FLOPs are held to it,
those of attention too.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import pandas as pd

from tests.support.root import ROOT

SHAPES = {"d16": (2, 16, 2), "d32": (2, 32, 4), "d64": (4, 64, 8), "d128": (8, 128, 16)}  # as in conf/model
VOCABULARY, LENGTH, BATCH = 256, 64, 8
CEILINGS = ("torch's products", "our products")
CONTENDERS = ("peer", "peer+malloc", "ours", *CEILINGS)
SECONDS = 0.7  # of every measurement
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
TOKENS = np.random.default_rng(0).integers(0, VOCABULARY, 1_000_000).astype(np.uint16)


def peer(shape: tuple[int, int, int]) -> Callable[[], object]:
    """A step of nanoGPT's loop, on our architecture."""
    from tests.support.training.plain_loop import PlainLoop

    loop = PlainLoop(_config(shape), TOKENS, batch_size=BATCH)
    return lambda: loop.step(1e-3)


def ours(shape: tuple[int, int, int]) -> Callable[[], object]:
    """A step of the learner, batch, schedule and bookkeeping included."""
    from types import SimpleNamespace

    from isoflop.experiments.config import DataSpec, OptimSpec, ScheduleSpec
    from isoflop.experiments.study.cell import Cell
    from isoflop.experiments.training.learner import Learner

    optim = OptimSpec(batch_size=BATCH)
    data = DataSpec(context_length=LENGTH)
    cell = Cell(_config(shape), "", data, optim, ScheduleSpec(), "noise", 0, "", 1_000_000, float("nan"))
    corpus = SimpleNamespace(train=TOKENS, eval_windows=TOKENS[: LENGTH + 1][None], corpus_id="noise")
    learner = Learner(cell, corpus, "cpu")
    return lambda: learner.advance(learner.step + 1, 1_000_000)


def products(shape: tuple[int, int, int], multiply: Callable) -> Callable[[], object]:
    """The linear products of a step: forward, gradient of the input, gradient of the weight, in the step's order."""
    import torch

    layers, width, _ = shape
    hidden, n = _config(shape).d_ff, BATCH * LENGTH
    sizes = [(3 * width, width), (width, width), (2 * hidden, width), (width, hidden)] * layers + [(VOCABULARY, width)]
    buffers = []
    for rows, columns in sizes:
        weight, x, y = torch.randn(rows, columns), torch.randn(columns, n), torch.empty(rows, n)
        if rows == VOCABULARY:
            y = torch.empty(n, rows).t()
        buffers.append((weight, x, y, torch.empty_like(weight), torch.empty_like(x)))

    def step() -> None:
        for weight, x, y, _, _ in buffers:
            multiply(weight, x, out=y)
        for weight, x, y, d_weight, dx in reversed(buffers):
            multiply(y, x.t(), out=d_weight)
            multiply(weight.t(), y, out=dx)

    return step


def flops(shape: tuple[int, int, int], contender: str) -> int:
    """Exact training FLOPs of a step; of the linear products alone for a ceiling."""
    from isoflop.models.config import n_matrices, training_flops_per_token

    per_token = 6 * n_matrices(_config(shape)) if contender in CEILINGS else training_flops_per_token(_config(shape))
    return per_token * BATCH * LENGTH


def one(contender: str) -> dict[str, tuple[float, float]]:
    """Milliseconds per step of every shape, minimum and median, in this process."""
    import torch

    from isoflop.experiments.training.process import configure_process
    from isoflop.models.step import blas

    if contender == "peer":
        torch.set_num_threads(1)
    else:
        configure_process(1)
    make = {
        "ours": ours,
        "torch's products": lambda shape: products(shape, torch.mm),
        "our products": lambda shape: products(shape, blas.product),
    }.get(contender, peer)
    return {name: _timed(make(shape)) for name, shape in SHAPES.items()}


def _timed(step: Callable[[], object]) -> tuple[float, float]:
    for _ in range(5):
        step()
    taken = []
    while len(taken) < 5 or sum(taken) < SECONDS:
        began = time.thread_time()
        step()
        taken.append(time.thread_time() - began)
    return 1e3 * min(taken), 1e3 * float(np.median(taken))


def measure(rounds: int) -> pd.DataFrame:
    """A row per shape and contender: the least minimum and the median of medians over the rounds."""
    rows = []
    for _ in range(rounds):
        for contender in CONTENDERS:
            command = [sys.executable, "-m", "tests.bench.step", "--one", contender]
            done = subprocess.run(command, env=os.environ | ONE_THREAD, cwd=ROOT, check=True, stdout=subprocess.PIPE)
            for shape, (least, median) in json.loads(done.stdout).items():
                rows.append({"shape": shape, "contender": contender, "min": least, "median": median})
    grouped = pd.DataFrame(rows).groupby(["contender", "shape"], sort=False)
    return grouped.agg({"min": "min", "median": "median"})


def _config(shape: tuple[int, int, int]) -> "ModelConfig":  # noqa: F821
    from isoflop.models.config import ModelConfig

    layers, width, heads = shape
    return ModelConfig("transformer", VOCABULARY, LENGTH, layers, width, heads)


def main() -> None:
    """Print milliseconds per step, ratios to the peer, and the share of the ceiling."""
    if "--one" in sys.argv:
        print(json.dumps(one(sys.argv[-1])))
        return
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    print(f"processor ms per step of {BATCH} x {LENGTH} tokens, one thread, {rounds} rounds in turn; min (median)")
    table = measure(rounds)
    for name, shape in SHAPES.items():
        at = {contender: table.loc[(contender, name)] for contender in CONTENDERS}
        times = "  ".join(f"{contender} {row['min']:.2f} ({row['median']:.2f})" for contender, row in at.items())
        print(f"{name:5s} {times}")
        for statistic in ("min", "median"):
            against = [at[contender][statistic] / at["ours"][statistic] for contender in ("peer", "peer+malloc")]
            rate = {c: flops(shape, c) / at[c][statistic] / 1e6 for c in ("ours", *CEILINGS)}
            ceiling = max(rate[c] for c in CEILINGS)
            print(
                f"      by {statistic}: {against[0]:.2f}x the peer, {against[1]:.2f}x with our malloc; "
                f"{rate['ours']:.1f} of {ceiling:.1f} GFLOP/s, {rate['ours'] / ceiling:.0%}"
            )


if __name__ == "__main__":
    main()
