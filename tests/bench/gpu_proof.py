"""What the GPU path is held to, on the card that is here: one table, in under ten minutes on a large one.

`python -m tests.bench.gpu_proof [--dry] [tests|quick|cell|plan|bench ...]`: all of the parts, or those named. A part
prints its rows as it ends. `--dry` does each on a CPU with what takes seconds, so that the script itself is known to
work. On a machine without a package index Hydra comes as wheels: `--wheels FOLDER` installs them for this run alone.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from isoflop.scaling.table.runs import final_rows, read_runs
from tests.support.root import ROOT
from tests.support.training.cuda_contenders import cell_of, pace


class Row(NamedTuple):
    """One line of the table."""

    check: str
    measured: str
    bar: str
    holds: bool

    def __str__(self) -> str:
        return f"{self.check:58} {self.measured:>34}   {self.bar:12} {'yes' if self.holds else 'NO'}"


class Place(NamedTuple):
    """Where the parts run, and with what."""

    dry: bool
    folder: Path

    @property
    def device(self) -> str:
        """The device of every part."""
        return "cpu" if self.dry else "cuda"

    def isoflop(self, *words: str) -> float:
        """Seconds of one command, which must succeed."""
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "isoflop", *words], check=True, cwd=self.folder, stderr=subprocess.DEVNULL
        )
        return time.perf_counter() - began


def gpu_tests(place: Place) -> Iterator[Row]:
    """The tests that need a card."""
    files = ["tests/experiments/parallel", "tests/experiments/training", "tests/models"]
    command = [sys.executable, "-m", "pytest", "-n0", "-q", "-m", "gpu", *(files[:1] if place.dry else files)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    last = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else "nothing"
    if done.returncode not in (0, 5):
        print(done.stdout[-4000:])
    yield Row("tests that need a card", last.strip("= ")[:34], "none failed", done.returncode == 0)


def quick(place: Place) -> Iterator[Row]:
    """The quick study, as long as it takes where kernels and corpus are there already, and the losses of its smallest
    budget beside those that the CPU of this machine comes to."""
    study = ["experiment=smoke"] if place.dry else ["experiment=quick"]
    runs = place.folder / "quick"
    told = place.isoflop("run", *study, f"where.device={place.device}", f"runs={place.folder / 'first'}")
    seconds = place.isoflop("run", *study, f"where.device={place.device}", f"runs={runs}")
    yield Row(f"isoflop run {study[0]}, corpus and kernels to be made", f"{told:.1f} s", "told", True)
    yield Row(f"isoflop run {study[0]}, again", f"{seconds:.1f} s", "<= 12 s", seconds <= 12)
    smallest = [] if place.dry else ["study.budgets=[3e10]", "study.replicates=[]", "study.hold_out=[]"]
    place.isoflop("run", *study, *smallest, f"runs={place.folder / 'on_cpu'}")
    here, there = (
        final_rows(read_runs(place.folder / name)).set_index("run_id")["loss"] for name in ("quick", "on_cpu")
    )
    ratio = np.log(here.reindex(there.index) / there)
    error = ratio.std() / len(ratio) ** 0.5
    told = f"{len(ratio)} cells: mean {ratio.mean():+.2%}, sd {ratio.std():.2%}"
    yield Row("losses against the CPU's, same corpus", told, "2 se of 0", abs(ratio.mean()) <= 2 * error + 1e-9)


def whole_cell(place: Place) -> Iterator[Row]:
    """One large cell from its first to its last step, over its own steady pace: what starting costs."""
    size, flops, cell = ("d16", "2e10", None) if place.dry else ("g512", "2e15", ("g512", 64, 512, "bfloat16"))
    words = [f"model={size}", f"budget.flops={flops}", f"where.device={place.device}", f"runs={place.folder / 'cell'}"]
    if cell:
        words += [
            "data.context_length=512",
            "optim.batch_size=64",
            "where.precision=bfloat16",
            "optim.learning_rate=0.01",
        ]
    place.isoflop("run", *words)
    last = final_rows(read_runs(place.folder / "cell")).iloc[0]
    speed = last["tokens"] / last["wall_seconds"]
    steady = pace("ours", cell_of(*cell), place.device).tokens_per_second if cell else speed
    yield Row(
        f"{size}, a whole cell of {flops} FLOPs, over its steady pace",
        f"{speed / steady:.0%}",
        ">= 60%",
        speed >= 0.6 * steady,
    )


def plan(place: Place) -> Iterator[Row]:
    """Seconds of a small study as planned, over those that it takes; `gpu_quarter` has the same of large ones."""
    import isoflop

    name = "smoke" if place.dry else "quick"
    planned = 60 * isoflop.plan(name, [f"where.device={place.device}"])["studies"][0]["minutes"]["1"]
    measured = place.isoflop(
        "run", f"experiment={name}", f"where.device={place.device}", f"runs={place.folder / 'planned'}"
    )
    told = f"{planned:.1f} / {measured:.1f} s = {planned / measured:.2f}"
    yield Row(
        f"seconds of experiment={name}, planned over measured", told, ".8 to 1.25", 0.8 <= planned / measured <= 1.25
    )


BARS = (  # size, sequences, tokens, precision, contender, at least so many times its pace
    ("g128", 64, 512, "float32", "plain", 1.1),
    ("g512", 64, 512, "bfloat16", "compiled", 1.1),
    ("g256", 64, 512, "bfloat16", "compiled", 1.25),
    ("g128", 64, 512, "bfloat16", "compiled", 1.5),
)


def bench(place: Place) -> Iterator[Row]:
    """Tokens a second against the plain loop and the same through torch.compile."""
    for size, batch, length, precision, peer, bar in BARS[:1] if place.dry else BARS:
        cell = cell_of(size, *((2, 16) if place.dry else (batch, length)), precision)
        seconds = 0.1 if place.dry else 1.5
        ours, theirs = (pace(name, cell, place.device, seconds).tokens_per_second for name in ("ours", peer))
        check = f"{size} {batch} x {length} {precision}, over the {peer} loop"
        told = f"{ours:,.0f} / {theirs:,.0f} = {ours / theirs:.2f}"
        yield Row(check, told, f">= {bar}", ours >= bar * theirs)
        if not place.dry:
            torch.cuda.empty_cache()


PARTS: dict[str, Callable[[Place], Iterator[Row]]] = {
    "tests": gpu_tests, "quick": quick, "plan": plan, "cell": whole_cell, "bench": bench,
}  # fmt: skip


def main() -> None:
    """Print the rows of the parts that were named, or of all; ends with 1 where one does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="all if none is named")
    parser.add_argument("--dry", action="store_true", help="on a CPU, in seconds")
    parser.add_argument("--wheels", type=Path, help="a folder of wheels to install for this run alone")
    given = parser.parse_args()
    if given.wheels:
        _with_wheels(given.wheels)
    if not (given.dry or torch.cuda.is_available()):
        print("no CUDA device; --dry shows that the script itself works")
        raise SystemExit(1)
    name = "CPU" if given.dry else torch.cuda.get_device_name()
    print(f"{name}, torch {torch.__version__}, {os.cpu_count()} processors", flush=True)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for part in given.parts or PARTS:
            for row in PARTS[part](Place(given.dry, Path(folder))):
                print(row, flush=True)
                rows.append(row)
    raise SystemExit(0 if given.dry or all(row.holds for row in rows) else 1)


def _with_wheels(folder: Path) -> None:
    """Install wheels where this process and those that it starts find them, and begin anew."""
    if "ISOFLOP_WHEELS" in os.environ:
        return
    site = tempfile.mkdtemp()
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--target", site]
    subprocess.run([*pip, *map(str, sorted(folder.glob("*.whl")))], check=True)
    path = os.pathsep.join([str(ROOT), site, *filter(None, [os.environ.get("PYTHONPATH")])])
    os.execve(sys.executable, [sys.executable, "-m", "tests.bench.gpu_proof", *sys.argv[1:]],
              os.environ | {"PYTHONPATH": path, "ISOFLOP_WHEELS": site})  # fmt: skip


if __name__ == "__main__":
    main()
