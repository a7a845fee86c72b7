"""One training step of each architecture against nanoGPT's loop written plainly, and against its own products.

`make bench`, or `python -m tests.bench.step [rounds] [names]`. Same architecture, batch and tokens, one thread,
processor time; each round starts a process per contender, in turn, since an allocator is a matter of the whole process.
The peer is eager autograd through the same model, gathers its batch row by row, zeroes, clips and updates with torch's
AdamW; once with glibc's thresholds as they are and once with ours. Of the Transformer of default parts also a loop
through torch.compile, with fused AdamW, batches gathered at once and our thresholds; and the time of its linear
products alone, same shapes, layouts and buffers, by torch's library or by that of `blas`, whichever is faster here, as
a share of the step's.
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
GPT2 = {"norm": "layernorm", "activation": "gelu", "positions": "learned"}
EXPERTS = {"experts": 4, "experts_per_token": 2}
OTHERS: dict[str, tuple[tuple[int, int, int], dict]] = {
    "gpt2-d16": (SHAPES["d16"], GPT2),
    "gpt2-d64": (SHAPES["d64"], GPT2),
    "layernorm-d64": (SHAPES["d64"], {"norm": "layernorm"}),
    "lstm-d20": ((2, 20, 0), {"family": "lstm"}),
    "lstm-d64": ((2, 64, 0), {"family": "lstm"}),
    "experts-d16": (SHAPES["d16"], EXPERTS),
    "experts-d48": ((3, 48, 6), EXPERTS),
}
VOCABULARY, LENGTH, BATCH = 256, 64, 8
CEILINGS = ("torch's products", "our products")
CONTENDERS = ("peer", "peer+malloc", "compiled", "ours", *CEILINGS)
DEFAULT_ONLY = ("compiled", *CEILINGS)
SECONDS = 0.7  # of every measurement
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
TOKENS = np.random.default_rng(0).integers(0, VOCABULARY, 1_000_000).astype(np.uint16)


def peer(name: str) -> Callable[[], object]:
    """A step of nanoGPT's loop, on our architecture."""
    from tests.support.training.plain_loop import PlainLoop

    loop = PlainLoop(_config(name), TOKENS, batch_size=BATCH)
    return lambda: loop.step(1e-3)


def compiled(name: str) -> Callable[[], object]:
    """A step of the tuned loop, its compilation behind it."""
    from tests.support.training.plain_loop import CompiledLoop

    loop = CompiledLoop(_config(name), TOKENS, batch_size=BATCH)
    for _ in range(15):
        loop.step(1e-3)
    return lambda: loop.step(1e-3)


def ours(name: str) -> Callable[[], object]:
    """A step of the learner, batch, schedule and bookkeeping included."""
    from types import SimpleNamespace

    from isoflop.experiments.config import DataSpec, OptimSpec, ScheduleSpec
    from isoflop.experiments.study.cell import Cell
    from isoflop.experiments.training.learner import Learner

    optim = OptimSpec(batch_size=BATCH)
    data = DataSpec(context_length=LENGTH)
    cell = Cell(_config(name), "", data, optim, ScheduleSpec(), "noise", 0, "", 1_000_000, float("nan"))
    corpus = SimpleNamespace(train=TOKENS, eval_windows=TOKENS[: LENGTH + 1][None], corpus_id="noise")
    learner = Learner(cell, corpus, "cpu")
    return lambda: learner.advance(learner.step + 1, 1_000_000)


def products(name: str, multiply: Callable) -> Callable[[], object]:
    """The linear products of a step: forward, gradient of the input, gradient of the weight, in the step's order."""
    import torch

    layers, width, _ = SHAPES[name]
    hidden, n = _config(name).d_ff, BATCH * LENGTH
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


def one(contender: str, names: list[str]) -> dict[str, tuple[float, float]]:
    """Milliseconds per step of each of `names`, minimum and median, in this process."""
    import torch

    from isoflop.experiments.training.process import configure_process
    from isoflop.models.step import blas

    if contender == "peer":
        torch.set_num_threads(1)
    else:
        configure_process(1)
    make = {
        "ours": ours,
        "compiled": compiled,
        "torch's products": lambda name: products(name, torch.mm),
        "our products": lambda name: products(name, blas.product),
    }.get(contender, peer)
    return {name: _timed(make(name)) for name in names if name in SHAPES or contender not in DEFAULT_ONLY}


def _timed(step: Callable[[], object]) -> tuple[float, float]:
    for _ in range(5):
        step()
    taken = []
    while len(taken) < 5 or sum(taken) < SECONDS:
        began = time.thread_time()
        step()
        taken.append(time.thread_time() - began)
    return 1e3 * min(taken), 1e3 * float(np.median(taken))


def measure(rounds: int, names: list[str]) -> pd.DataFrame:
    """A row per shape, contender and round: its least and its median time."""
    rows = []
    for number in range(rounds):
        for contender in CONTENDERS:
            if contender in DEFAULT_ONLY and not {*names} & {*SHAPES}:
                continue
            command = [sys.executable, "-m", "tests.bench.step", "--one", contender, *names]
            done = subprocess.run(command, env=os.environ | ONE_THREAD, cwd=ROOT, check=True, stdout=subprocess.PIPE)
            for name, (least, median) in json.loads(done.stdout).items():
                rows.append([number, name, contender, least, median])
    return pd.DataFrame(rows, columns=["round", "name", "contender", "min", "median"])


def _config(name: str) -> "ModelConfig":  # noqa: F821
    from isoflop.models.config import ModelConfig

    (layers, width, heads), parts = OTHERS.get(name) or (SHAPES[name], {})
    return ModelConfig(**{"family": "transformer"} | parts, vocab_size=VOCABULARY, context_length=LENGTH,
                       n_layer=layers, d_model=width, n_head=heads)  # fmt: skip


def main() -> None:
    """Print milliseconds per step, ratios to the peer with their range, and the share of the products."""
    if "--one" in sys.argv:
        contender, *names = sys.argv[sys.argv.index("--one") + 1 :]
        print(json.dumps(one(contender, names)))
        return
    given = sys.argv[1:]
    rounds = int(given.pop(0)) if given and given[0].isdigit() else 5
    print(f"processor ms per step of {BATCH} x {LENGTH} tokens, one thread, {rounds} rounds in turn; min (median)")
    table = measure(rounds, given or [*SHAPES, *OTHERS])
    for name, rows in table.groupby("name", sort=False):
        medians = rows.pivot(index="round", columns="contender", values="median")
        least = rows.groupby("contender")["min"].min()
        listed = [contender for contender in CONTENDERS if contender in medians]
        print(f"{name:14s}", "  ".join(f"{c} {least[c]:.2f} ({medians[c].median():.2f})" for c in listed))
        for contender in [c for c in ("peer", "peer+malloc", "compiled") if c in medians]:
            ratios = medians[contender] / medians["ours"]
            print(f"{'':14s} {ratios.median():.2f}x the {contender} [{ratios.min():.2f}, {ratios.max():.2f}]")
        if name in SHAPES:
            share = medians[list(CEILINGS)].min(axis=1).median() / medians["ours"].median()
            print(f"{'':14s} {share:.0%} of the step are its products")


if __name__ == "__main__":
    main()
