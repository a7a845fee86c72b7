"""How far do seeds move a loss of the embedded study, under which settings? python -m tests.proofs.noise VARIANT ...

Six cells of the study, six seeds each, trained for every named variant; `today` are the defaults of before. Every run
is added to a CSV file ($NOISE or noise.csv) as it ends, and one that is there is not trained again. Then a table: mean
ln loss against the first variant, paired by cell and seed, and the sd of ln loss between seeds, pooled over cells.
Weights averaged over the last steps are measured on the way, on a quarter of the held-out windows. $CELLS names cells.
"""

import csv
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from torch import Tensor

from isoflop.experiments.compose.compose import compose_all
from isoflop.experiments.config import WhereSpec
from isoflop.experiments.data.batches import Corpus
from isoflop.experiments.data.corpus import Corpora
from isoflop.experiments.study.cell import Cell
from isoflop.experiments.study.study import expand
from isoflop.experiments.training.evaluate import Evaluation, evaluate
from isoflop.experiments.training.learner import Learner
from isoflop.experiments.training.trainer import train_trunk

CELLS = {"d16": 3e10, "d20": 1e11, "d24": 1e11, "d32": 1e11, "d40": 3e11, "d64": 1e12}
SHORT = {"s24": 3e10, "s28": 3e10, "s48": 1e11}  # the study's shortest runs: 423, 320, 311 steps of d24, d28, d48
SEEDS = range(6)
TAILS = (0.05, 0.1, 0.2, 0.4)  # of the steps, over whose end weights are averaged
AVERAGED = ("today", "to-10%", "constant")  # variants whose averages are measured
FIELDS = ("variant", "cell", "seed", "steps", "loss", "seconds", "quarter", *(f"average_{tail:g}" for tail in TAILS))
BEFORE = "schedule.warmup_steps=25 optim.beta2=0.99"  # the defaults that the trials began from
VARIANTS = {  # what each sets beside BEFORE, in the grammar of the command line
    "today": "",
    "rate-.01": "optim.learning_rate=0.01",
    "rate-.014": "optim.learning_rate=0.014",
    "warmup-100": "schedule.warmup_steps=100",
    "warmup-50": "schedule.warmup_steps=50",
    "warmup-200": "schedule.warmup_steps=200",
    "warmup-100 rate-.03": "schedule.warmup_steps=100 optim.learning_rate=0.03",
    "warmup-100 rate-.014": "schedule.warmup_steps=100 optim.learning_rate=0.014",
    "warmup-100 beta2-.98": "schedule.warmup_steps=100 optim.beta2=0.98",
    "warmup-100 beta2-.95": "schedule.warmup_steps=100 optim.beta2=0.95",
    "warmup-50 beta2-.98": "schedule.warmup_steps=50 optim.beta2=0.98",
    "warmup-50 beta2-.95": "schedule.warmup_steps=50 optim.beta2=0.95",
    "warmup-100 beta2-.95 batch-4": "schedule.warmup_steps=100 optim.beta2=0.95 optim.batch_size=4",
    "warmup-100 beta2-.95 rate-.014": "schedule.warmup_steps=100 optim.beta2=0.95 optim.learning_rate=0.014",
    "warmup-100 clip-.25": "schedule.warmup_steps=100 optim.clip_norm=0.25",
    "warmup-100 decay-.1": "schedule.warmup_steps=100 optim.weight_decay=0.1",
    "warmup-100 batch-4": "schedule.warmup_steps=100 optim.batch_size=4",
    "warmup-100 linear": "schedule.warmup_steps=100 schedule.cooldown_shape=linear",
    "warmup-100 cooldown-.1": "schedule.warmup_steps=100 schedule.cooldown_fraction=0.1",
    "clip-.25": "optim.clip_norm=0.25",
    "beta2-.95": "optim.beta2=0.95",
    "beta2-.98": "optim.beta2=0.98",
    "beta2-.995": "optim.beta2=0.995",
    "beta1-.8": "optim.beta1=0.8",
    "beta1-.95": "optim.beta1=0.95",
    "cooldown-.4": "schedule.cooldown_fraction=0.4",
    "cooldown-.6": "schedule.cooldown_fraction=0.6",
    "linear-.4": "schedule.cooldown_fraction=0.4 schedule.cooldown_shape=linear",
    "to-10%": "schedule.final_fraction=0.1",
    "constant": "schedule.name=constant",
    "cosine": "schedule.name=cosine",
    "batch-4": "optim.batch_size=4",
    "batch-16": "optim.batch_size=16",
    "decay-.1": "optim.weight_decay=0.1",
    "rate-.014 cooldown-.4": "optim.learning_rate=0.014 schedule.cooldown_fraction=0.4",
    "rate-.014 linear-.4": "optim.learning_rate=0.014 schedule.cooldown_fraction=0.4 schedule.cooldown_shape=linear",
    "rate-.01 beta2-.98": "optim.learning_rate=0.01 optim.beta2=0.98",
    "rate-.01 cooldown-.4": "optim.learning_rate=0.01 schedule.cooldown_fraction=0.4",
}


class Averager(Learner):
    """A learner that also averages its weights over the last steps, and measures the averages at its end."""

    averages: dict[float, float]

    def take_steps(self, until: int, steps: int) -> None:
        """Take the steps, then note how many there will be."""
        self.total = steps
        super().take_steps(until, steps)

    def train_step(self, tokens: Tensor, rate: float | Tensor) -> None:
        """One step; its weights count to every average that has begun."""
        super().train_step(tokens, rate)
        weights = self.optimizer.tensors()["weights"]
        if not hasattr(self, "sums"):
            self.sums = {tail: (weights.double() * 0, 0) for tail in TAILS}
        for tail, (total, count) in self.sums.items():
            if self.step >= (1 - tail) * self.total:
                self.sums[tail] = total.add_(weights), count + 1

    def measure(self, steps: int, *, windows: Tensor | None = None, between: bool = False) -> Evaluation:
        """As it is measured, and at the end on a quarter of the windows with every average too."""
        found = super().measure(steps, windows=windows, between=between)
        if windows is not None:
            weights = self.optimizer.tensors()["weights"]
            last, few = weights.clone(), windows[::4]
            self.averages = {0.0: evaluate(self.model_step, few).loss}
            for tail, (total, count) in self.sums.items():
                weights.copy_(total / max(1, count))
                self.averages[tail] = evaluate(self.model_step, few).loss
            weights.copy_(last)
        return found


def cell_of(size: str, flops: float, settings: str, corpora: Corpora) -> tuple[Cell, Corpus]:
    """A cell of the quick study with these settings, and its corpus."""
    own = dict(part.split("=") for part in f"{BEFORE} {settings}".split())  # what stands last holds
    (config,) = compose_all([f"model={size}", f"budget.flops={flops}", *(f"{key}={own[key]}" for key in own)])
    (cell,) = expand(config, corpora).cells
    return cell, corpora(cell.data)


def train(cell: Cell, corpus: Corpus, averaged: bool) -> dict:
    """Train one cell; returns its losses and seconds."""
    made: list[Learner] = []

    def make(*args, **kwargs) -> Learner:
        made.append((Averager if averaged else Learner)(*args, **kwargs))
        return made[0]

    began = time.process_time()
    ((_, rows),) = train_trunk([cell], corpus, folder=None, where=WhereSpec(), make=make)
    averages = getattr(made[0], "averages", dict.fromkeys((0.0, *TAILS), math.nan))
    return {
        "steps": cell.steps,
        "loss": rows[-1]["loss"],
        "seconds": round(time.process_time() - began, 2),
        "quarter": averages[0.0],
    } | {f"average_{tail:g}": averages[tail] for tail in TAILS}


def run(variants: Sequence[str], file: Path, cells: Sequence[str]) -> None:
    """Train what the file lacks."""
    corpora = Corpora(Path(os.environ.get("CORPORA", "corpora")))
    done = set()
    if file.exists():
        table = pd.read_csv(file)
        done = set(zip(table["variant"], table["cell"], table["seed"], strict=True))
    else:
        file.write_text(",".join(FIELDS) + "\n")
    for variant in variants:
        for size in cells:
            flops = (CELLS | SHORT)[size]
            cell, corpus = cell_of(size.replace("s", "d"), flops, VARIANTS[variant], corpora)
            for seed in SEEDS:
                if (variant, size, seed) in done:
                    continue
                found = train(replace(cell, seed=seed), corpus, variant in AVERAGED)
                with file.open("a", newline="") as out:
                    csv.DictWriter(out, FIELDS).writerow({"variant": variant, "cell": size, "seed": seed} | found)


def pooled(ln_loss: pd.DataFrame) -> tuple[float, float]:
    """The sd between seeds, pooled over cells (rows cell, columns seed), and its relative standard error."""
    spread = ln_loss.var(axis=1, ddof=1)
    return float(np.sqrt(spread.mean())), float(1 / np.sqrt(2 * (ln_loss.notna().sum(axis=1) - 1).sum()))


def report(file: Path) -> None:
    """Print every variant against the first, over the cells that both have."""
    table = pd.read_csv(file)
    first = table[table["variant"] == table["variant"].iloc[0]]
    averages = ["quarter", *(f"average_{tail:g}" for tail in TAILS)]
    for variant, runs in table.groupby("variant", sort=False):
        for column in ["loss", *(averages if variant in AVERAGED else [])]:
            ln = np.log(runs.pivot(index="cell", columns="seed", values=column))
            base = np.log(first.pivot(index="cell", columns="seed", values="loss" if column == "loss" else "quarter"))
            base = base.reindex_like(ln)
            sd, error = pooled(ln)
            difference = (ln - base).mean(axis=1)
            standard = float((ln - base).stack().std() / np.sqrt((ln - base).count().sum()))
            own = ln.std(axis=1, ddof=1)
            cells = "  ".join(f"{cell} {100 * difference[cell]:+.1f} sd {100 * own[cell]:.1f}" for cell in ln.index)
            print(
                f"{variant if column == 'loss' else column:22} mean {100 * difference.mean():+.2f}% "
                f"+-{100 * standard:.2f} sd {100 * sd:.2f}% +-{100 * sd * error:.2f} "
                f"(first {100 * pooled(base)[0]:.2f}%)  {cells}"
            )


def main() -> None:
    """Train and report."""
    file = Path(os.environ.get("NOISE", "noise.csv"))
    cells = os.environ.get("CELLS", ",".join(CELLS)).split(",")
    run(sys.argv[1:], file, cells)
    report(file)


if __name__ == "__main__":
    main()
