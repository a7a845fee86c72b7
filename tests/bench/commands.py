"""What a user waits for, as typed: `make bench`, or `python -m tests.bench.commands [--against FOLDER] [names]`.

A row is a command in a process of its own on one thread, imports included; its figure is the processor time of that
process and its children, the median of the rounds with the least and the greatest. With `--against FOLDER`, a checkout
of another commit, each round runs a command by both, in turn, and the ratio is the median of the rounds' ratios.
Commands of more than a quarter of a minute are run once. `--rounds 5`, `--large` for folders of 10,000 runs. Folders
are simulated, 20 rows a run; "first" is before anything is kept beside the cells, as for a reader that comes first.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from isoflop.scaling.table.cells import SHARD_FILE
from isoflop.scaling.table.formats.run_columns import PARAM_GROUPS
from isoflop.scaling.table.runs import read_runs, write_run
from tests.support.fits.hard_fits import SURFACE, isoflop
from tests.support.root import RESULTS, ROOT

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
LONG = 15.0  # seconds above which a command is run once
EVALUATIONS = 20  # rows of a simulated run


def rows(folder: Path, *, large: bool) -> Iterator[tuple[str, list[str], Path | None]]:
    """Name and arguments of each command, and a file to remove before it; what they read is made in `folder`."""
    quick = str(RESULTS / "quick.parquet")
    yield "fit, 44 runs", ["fit", quick], None
    yield "predict, 44 runs", ["predict", quick, "--flops", "3e12"], None
    yield "suggest, 44 runs", ["suggest", quick, "--budget", "1e12", "--target", "3e12"], None
    yield "report, 44 runs", ["report", quick, "--out", str(folder / "report")], None
    yield "compare, 44 runs", ["compare", quick], None
    public = Path(os.environ.get("ISOFLOP_PUBLIC_DATA", ROOT.parent / "shared" / "data"))
    if (chinchilla := public / "chinchilla_epoch" / "runs.csv").is_file():
        yield "compare, 245 rows", ["compare", str(chinchilla)], None
    simulated = folder / "simulated.csv"
    surface(400).to_csv(simulated, index=False)
    yield "compare, 400 rows", ["compare", str(simulated)], None
    for count in (1_000, 10_000) if large else (1_000,):
        runs = folder / f"runs-{count}"
        write_store(runs, count)
        out = str(folder / "all.parquet")
        yield f"compact, {count:,} runs, first", ["compact", str(runs), "-o", out], runs / SHARD_FILE
        read_runs(runs)  # keeps its rows: another checkout may have read the folder last
        yield f"compact, {count:,} runs", ["compact", str(runs), "-o", out], None
        yield f"fit, {count:,} runs", ["fit", str(runs)], None
        yield f"status, {count:,} runs", ["status", str(runs)], None


def surface(count: int) -> pd.DataFrame:
    """Simulated runs of three columns, with noise of 1%."""
    frame = isoflop(count)
    noise = np.exp(np.random.default_rng(0).normal(0, 0.01, len(frame)))
    return frame.assign(loss=SURFACE(frame["n_params"], frame["tokens"]) * noise)[["n_params", "tokens", "loss"]]


def write_store(folder: Path, count: int) -> None:
    """A runs folder of so many simulated runs, each as `isoflop run` leaves it."""
    last = read_runs(RESULTS / "quick.parquet").iloc[-1].to_dict()
    folder.mkdir()
    (folder / "STORE.json").write_text(json.dumps({"version": 1}))
    for number, (_, run) in enumerate(surface(count).iterrows()):
        run_id = f"{number:016x}"
        groups = dict.fromkeys((f"n_params_{g}" for g in PARAM_GROUPS), 0) | {"n_params_mlp": int(run["n_params"])}
        counts = groups | {"n_params_total": int(run["n_params"]), "n_params_active": int(run["n_params"])}
        about = last | counts | {"run_id": run_id, "trunk_id": run_id, "horizon_tokens": int(run["tokens"])}
        made = []
        for k in range(1, EVALUATIONS + 1):
            tokens, final = int(run["tokens"]) * k // EVALUATIONS, k == EVALUATIONS
            flops = 6.0 * run["n_params"] * tokens
            at = {"step": 10 * k, "tokens": tokens, "flops": flops, "flops_6nd": flops, "final": final}
            made.append(about | at | {"loss": float(run["loss"]) * (1 + 0.01 * (EVALUATIONS - k))})
        write_run(folder / "cells" / run_id / "run.parquet", made, {"study": "simulated"})
        state = {"run_id": run_id, "trunk_id": run_id, "state": "done", "step": 200, "steps": 200, "attempts": 1}
        (folder / "cells" / run_id / "state.json").write_text(json.dumps(state))


def seconds(arguments: list[str], checkout: Path) -> tuple[float, float]:
    """Processor seconds of a command by a checkout, children included, and the most memory of a process in GB."""
    environment = os.environ | ONE_THREAD | {"PYTHONPATH": str(checkout)}
    process = subprocess.Popen(
        [sys.executable, "-m", "isoflop", *arguments], cwd=checkout, env=environment, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    reported = process.stderr.read().decode(errors="replace")
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 1):
        raise SystemExit(f"isoflop {' '.join(arguments)} in {checkout} ended with {process.returncode}: {reported}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 2**20


def measure(arguments: list[str], fresh: Path | None, checkouts: list[Path], rounds: int) -> np.ndarray:
    """Seconds and GB of each checkout in each round, (rounds, checkouts, 2); one round where one takes long."""
    taken: list[list[tuple[float, float]]] = []
    while len(taken) < rounds:
        taken.append([])
        for checkout in checkouts:
            if fresh is not None:
                fresh.unlink(missing_ok=True)
            taken[-1].append(seconds(arguments, checkout))
        if max(second for second, _ in taken[-1]) > LONG:
            break
    return np.array(taken)


def line(name: str, taken: np.ndarray) -> str:
    """A row of the table: seconds, memory, and what the other checkout takes over it."""
    own = taken[:, 0, 0]
    text = f"{name:28s} {np.median(own):7.2f} s [{own.min():.2f}, {own.max():.2f}]  {taken[:, 0, 1].max():.2f} GB"
    if taken.shape[1] > 1:
        ratio, other = taken[:, 1, 0] / own, taken[:, 1]
        text += f"  against {np.median(other[:, 0]):.2f} s, {other[:, 1].max():.2f} GB: {np.median(ratio):.2f}x"
        text += f" [{ratio.min():.2f}, {ratio.max():.2f}]"
    return text if len(taken) > 1 else f"{text}  (1 run)"


def main() -> None:
    """Print a row per command."""
    parser = argparse.ArgumentParser(description="Processor seconds of commands as typed.")
    parser.add_argument("--against", type=Path, help="a checkout of another commit")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--large", action="store_true", help="folders of 10,000 runs too")
    parser.add_argument("names", nargs="*", help="only rows whose names begin so")
    given = parser.parse_args()
    checkouts = [ROOT, *([given.against.resolve()] if given.against else [])]
    print(f"processor seconds of a command, one thread; medians of {given.rounds} rounds, [least, greatest]")
    with tempfile.TemporaryDirectory() as folder:
        for name, arguments, fresh in rows(Path(folder), large=given.large):
            if not given.names or name.startswith(tuple(given.names)):
                print(line(name, measure(arguments, fresh, checkouts, given.rounds)), flush=True)


if __name__ == "__main__":
    main()
