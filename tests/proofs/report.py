"""Prove the report on a large study: 10,000 runs x 200 rows, under 60 s and 4 GB. Run: python -m tests.proofs.report

The study is simulated and compacted into one parquet in a first process; a second one does what `isoflop report` does.
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from isoflop.scaling.design.simulate import simulate_study
from isoflop.scaling.laws.chinchilla import Chinchilla
from isoflop.scaling.table.runs import write_table

RUNS, ROWS = 10_000, 200
SECONDS, GIGABYTES = 60.0, 4.0
LAW = Chinchilla(E=0.9, A=33.0, B=332.0, alpha=0.45, beta=0.5)
SIZES = tuple(range(8, 104, 8))
BUDGETS = tuple(np.geomspace(3e10, 3e12, 9))


def study(runs: int, rows: int) -> pd.DataFrame:
    """A run table of `runs` runs, each with `rows` evaluations on a geometric grid of tokens up to its horizon."""
    each = len(simulate_study(LAW, sizes=SIZES, budgets=BUDGETS, curves=False))
    table = simulate_study(LAW, sizes=SIZES, budgets=BUDGETS, noise=0.005, curves=False, seeds=range(-(-runs // each)))
    final = table.iloc[:runs].assign(wall_seconds=1.0)
    long = final.loc[final.index.repeat(rows)].reset_index(drop=True)
    share = np.tile(np.geomspace(0.01, 1.0, rows), len(final))
    last = share == 1.0
    long["tokens"] = np.where(last, long["horizon_tokens"], (share * long["tokens"]).astype(np.int64))
    long["flops"] = long["flops"] * share
    long["step"] = np.maximum(long["tokens"] // long["batch_tokens"], 1)
    size = long["n_params_attention"] + long["n_params_mlp"] + long["n_params_unembedding"]
    long["loss"] = np.where(last, long["loss"], 1.01 * LAW(size.to_numpy(float), long["tokens"].to_numpy(float)))
    return long.assign(final=last, phase=np.where(share > 0.8, "cooldown", "constant"))


def report(path: str, out: str) -> None:
    """What `isoflop report` does, with its time and the peak of its memory."""
    from isoflop.analysis.report import write_report
    from isoflop.experiments.training.process import keep_freed_memory
    from isoflop.scaling.table.read import read_table

    keep_freed_memory()
    began = time.perf_counter()
    written = write_report(read_table(path), out, n_draws=1000)
    seconds = time.perf_counter() - began
    cpu = resource.getrusage(resource.RUSAGE_SELF)
    gigabytes = cpu.ru_maxrss / 1024**2
    megabytes = (Path(out) / "report.html").stat().st_size / 1e6
    print(f"{seconds:.1f} s ({cpu.ru_utime + cpu.ru_stime:.1f} s of CPU), {gigabytes:.2f} GB, page {megabytes:.2f} MB")
    print(f"not drawn: {written.missing}")
    if seconds > SECONDS or gigabytes > GIGABYTES:
        raise SystemExit(f"over {SECONDS:g} s or {GIGABYTES:g} GB")


def main() -> None:
    """Simulate the study in one process and report on it in another; exits with the code of the second."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else RUNS
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/runs.parquet"
        again = [sys.executable, "-m", "tests.proofs.report"]
        subprocess.run([*again, "make", str(runs), path], check=True)
        raise SystemExit(subprocess.run([*again, "report", path, f"{folder}/report"], check=False).returncode)


if __name__ == "__main__":
    if sys.argv[1:2] == ["make"]:
        write_table(study(int(sys.argv[2]), ROWS), sys.argv[3])
    elif sys.argv[1:2] == ["report"]:
        report(*sys.argv[2:4])
    else:
        main()
