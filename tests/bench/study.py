"""A whole study against a shell loop of one run per cell: `python -m tests.bench.study`, about six minutes.

The same cells twice, by the clock on the wall. The loop starts a process per cell, one after the other, each the plain
loop of `plain_loop` with a cosine to its own horizon and torch's default threads; `isoflop run` has two workers
of one thread, shared trunks and our step. Both read the same prepared corpus; imports are part of either time. Equal
final loss means: the mean of ln(loss / loss) over the cells is within what seeds would make of it, or better.
"""

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from tests.support.root import ROOT

STUDY = (
    "experiment=quick",
    "study.name=bench",
    "study.sizes=[d16,d20,d24,d32,d40]",
    "study.budgets=[3e10,1e11,3e11]",
    "study.replicates=[]",
    "study.hold_out=[]",
)
SEED_NOISE = 0.026  # sd of ln loss between seeds, pooled over the quick study's replicates
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def expanded(arguments: list[str], corpora: Path) -> tuple:
    """The study's cells and their corpus."""
    from isoflop.experiments.compose.compose import compose_all
    from isoflop.experiments.data.corpus import Corpora
    from isoflop.experiments.study.study import expand

    open_corpora = Corpora(corpora)
    (spec,) = compose_all(arguments)
    cells = expand(spec, open_corpora).cells
    return cells, open_corpora(cells[0].data)


def one_cell(arguments: list[str], corpora: Path, run_id: str) -> float:
    """Final held-out loss of one cell by the plain loop."""
    import torch

    from tests.support.training.plain_loop import PlainLoop

    cells, corpus = expanded(arguments, corpora)
    cell = next(c for c in cells if c.run_id == run_id)
    loop = PlainLoop(cell.model, np.asarray(corpus.train), batch_size=cell.optim.batch_size, seed=cell.seed)
    loop.train(cell.steps, peak=cell.optim.learning_rate, warmup=cell.schedule.warmup_steps)
    return loop.loss(torch.from_numpy(corpus.eval_windows.astype("int64")))


def shell_loop(arguments: list[str], corpora: Path, run_ids: list[str]) -> tuple[float, dict[str, float]]:
    """Seconds, and each cell's loss."""
    began, losses = time.perf_counter(), {}
    for run_id in run_ids:
        printed = _python("-m", "tests.bench.study", "--cell", run_id, str(corpora), *arguments)
        losses[run_id] = json.loads(printed)
    return time.perf_counter() - began, losses


def isoflop_run(arguments: list[str], corpora: Path, runs: Path) -> tuple[float, dict[str, float]]:
    """Seconds, and each cell's loss."""
    began = time.perf_counter()
    _python("-m", "isoflop", "run", *arguments, f"runs={runs}", f"where.corpora={corpora}", "where.workers=2")
    seconds = time.perf_counter() - began
    from isoflop.scaling.table.runs import read_runs

    table = read_runs(runs)
    final = table[table["final"]]
    return seconds, dict(zip(final["run_id"], final["loss"], strict=True))


def _python(*arguments: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in THREADS}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout


def main() -> None:
    """Run the study both ways and print seconds and losses; with `--cell`, train one cell."""
    if "--cell" in sys.argv:
        _, _, run_id, corpora, *arguments = sys.argv
        print(json.dumps(one_cell(arguments, Path(corpora), run_id)))
        return
    arguments = [*STUDY, *sys.argv[1:]]
    with tempfile.TemporaryDirectory() as folder:
        corpora = Path(folder) / "corpora"
        cells, _ = expanded(arguments, corpora)
        sizes = f"{len(cells)} cells, {sum(cell.steps for cell in cells):,} steps one by one"
        print(f"{sizes}; load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", flush=True)
        ours, our_losses = isoflop_run(arguments, corpora, Path(folder) / "runs")
        print(f"isoflop run, 2 workers: {ours:.1f} s", flush=True)
        loop, losses = shell_loop(arguments, corpora, [cell.run_id for cell in cells])
        print(f"a process per cell:     {loop:.1f} s")
    gaps = np.array([math.log(our_losses[run_id] / losses[run_id]) for run_id in losses])
    noise = SEED_NOISE * math.sqrt(2 / len(gaps))
    print(f"{loop / ours:.2f}x less time; load average {os.getloadavg()[0]:.1f}")
    print(
        f"ln(loss / loss of the loop): mean {gaps.mean():+.4f}, from {gaps.min():+.4f} to {gaps.max():+.4f}; "
        f"seeds alone would scatter the mean by {noise:.4f}"
    )


if __name__ == "__main__":
    main()
