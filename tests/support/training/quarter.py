"""The study at real scale, from tuning to a scored forecast, as commands each given once: `tests.bench.gpu_quarter`."""

import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from isoflop.experiments.cost.cost import JOB_SECONDS
from isoflop.scaling.table.runs import final_rows, read_runs
from tests.support.root import ROOT

CONF = ROOT / "conf"
STAGES = ("tuned", "trained", "scored")
DRY = [
    "data=python-source", "data.context_length=32", "data.eval_tokens=2048", "where.device=cpu",
    "where.precision=float32", "optim.batch_size=4", "schedule.warmup_steps=5",
]  # fmt: skip
DRY_CELLS = ",".join(
    f"{{size:{size},flops:{flops}}}" for size in ("d6", "d8", "d10") for flops in ("4e7", "8e7", "1.6e8")
)


@dataclass(frozen=True)
class Study:
    """The three studies: the words that name each, and what the tuned rate and the forecast are asked for."""

    rates: list[str]
    cells: list[str]
    holdout: list[str]
    tuned_at: tuple[str, str]  # parameters, tokens
    flops: str


REAL = Study(
    ["experiment=gpu_rates"], ["experiment=gpu_quarter"], ["experiment=gpu_quarter_holdout"],
    ("835584", "1.5e7"), "1e16",
)  # fmt: skip
IN_SECONDS = Study(
    ["experiment=gpu_rates", *DRY, "study.sizes=[d6,d8]", "study.window.min_steps=1",
     "study.vary={budget.tokens:[6e3,12e3],optim.learning_rate:[0.0004,0.002,0.01,0.05,0.25]}"],
    ["experiment=gpu_quarter", *DRY, f"study.cells=[{DRY_CELLS}]"],
    ["experiment=gpu_quarter_holdout", *DRY, "study.sizes=[d8,d10]", "study.budgets=[5e8]", "study.window.min_steps=1",
     "study.window.factor=1e9", "study.hold_out=[5e8]"],
    ("3712", "1.2e4"), "5e8",
)  # fmt: skip


class Quarter:
    """The commands, each given once: what one wrote is not written again."""

    def __init__(self, study: Study, out: Path, runs: Path) -> None:
        self.study, self.out, self.runs = study, out, runs
        self.optim = out / "conf" / "optim" / "fitted.yaml"
        self.table, self.holdout = out / "gpu_quarter.parquet", out / "gpu_quarter_holdout.parquet"
        self.forecast, self.plan, self.times = (
            out / f"gpu_quarter_{name}.json" for name in ("prediction", "plan", "seconds")
        )

    def until(self, stage: str) -> None:
        """Do what is left up to a stage."""
        self.optim.parent.mkdir(parents=True, exist_ok=True)
        self.tune()
        if stage == "tuned":
            return
        self.train("gpu_quarter", self.study.cells, self.table)
        if not self.forecast.exists():
            self.isoflop("predict", str(self.table), "--flops", self.study.flops, "--register", str(self.forecast))
        if stage == "scored":
            self.train("gpu_quarter_holdout", self.study.holdout, self.holdout)

    def tune(self) -> None:
        """The optim file of the tuned learning rate, and the plan."""
        if not self.optim.exists():
            self.isoflop("run", *self.study.rates, f"runs={self.runs}")
            size, tokens = self.study.tuned_at
            at = ["--at", f"n_params={size}", "--tokens", tokens]
            self.isoflop("tune", str(self.runs), "--study", "gpu_rates", *at, "--emit", str(self.optim), must=False)
            if not self.optim.exists():  # an optimum at an edge is refused
                print("the rates show no optimum: the study goes on at that of conf/optim/gpu.yaml")
                shutil.copy(CONF / "optim" / "gpu.yaml", self.optim)
        if not self.plan.exists():
            self.plan.write_text(self.isoflop("plan", *self.words(self.study.cells), "--json", quiet=True))

    def train(self, name: str, words: list[str], table: Path) -> None:
        """One of the studies into its table; the seconds of the command are added to those of earlier ones."""
        if table.exists():
            return
        began = time.perf_counter()
        self.isoflop("run", *self.words(words), f"runs={self.runs}")
        times = json.loads(self.times.read_text()) if self.times.exists() else {}
        times[name] = times.get(name, 0.0) + time.perf_counter() - began
        self.times.write_text(json.dumps(times))
        self.isoflop("compact", str(self.runs), "--study", name, "-o", str(table))

    def words(self, study: list[str]) -> list[str]:
        """The words of a study at the tuned rate."""
        return ["--config-dir", str(self.optim.parent.parent), *study, "optim=fitted"]

    def isoflop(self, *words: str, quiet: bool = False, must: bool = True) -> str:
        """Give one command, which must succeed unless said; what it prints is shown, or with `quiet` returned."""
        print("$ isoflop", *words, flush=True)
        command = [sys.executable, "-m", "isoflop", *words]
        return subprocess.run(command, check=must, text=True, stdout=subprocess.PIPE if quiet else None).stdout

    def report(self) -> list[str]:
        """Lines: minutes against the plan, the forecast against what was measured."""
        lines = []
        planned = json.loads(self.plan.read_text())["studies"][0]
        seconds = {cell["run_id"]: cell["seconds"] - JOB_SECONDS for cell in planned["cells"]}  # of its steps
        if self.table.exists():
            done = final_rows(read_runs(self.table))
            ratio = done["run_id"].map(seconds) / done["wall_seconds"]
            error = float(np.median(np.abs(ratio - 1)))
            lines.append(
                f"seconds of a run, planned over measured: median {ratio.median():.2f}, median error {error:.0%}"
            )
            taken = json.loads(self.times.read_text())["gpu_quarter"]
            lines.append(f"the whole study: planned {planned['minutes']['1']:.2f} min, measured {taken / 60:.2f} min")
            lines.append(f"noise of seeds, sd of the logarithm of the loss: {seed_sd(done):.3%}")
        if self.holdout.exists():
            scored = self.isoflop("predict", str(self.holdout), "--score", str(self.forecast), quiet=True)
            lines.append(f"forecast of {self.study.flops} FLOPs, registered before those runs:\n{scored}")
        return lines


def seed_sd(runs: pd.DataFrame) -> float:
    """The pooled standard deviation of the logarithm of the loss over the seeds of a cell; NaN without any."""
    groups = np.log(runs["loss"]).groupby(runs["tokens"])
    count, variance = groups.count(), groups.var()
    free = (count - 1)[count > 1]
    return float(np.sqrt((variance[count > 1] * free).sum() / free.sum())) if free.sum() else float("nan")
