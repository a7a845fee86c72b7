"""Cells of a small synthetic corpus, and what training them returns."""

import math

import pandas as pd
import torch

from isoflop.experiments.config import DataSpec, OptimSpec, ScheduleSpec, SyntheticSpec, WhereSpec
from isoflop.experiments.study.cell import Cell
from isoflop.experiments.training.trainer import train_trunk
from isoflop.models.config import ModelConfig

DATA = DataSpec(
    name="synthetic",
    source="synthetic",
    tokenizer="none",
    context_length=16,
    eval_tokens=2048,
    synthetic=SyntheticSpec(vocab_size=16, tokens=60_000, chains=100),
)
WHERE = WhereSpec()


def make(corpus, steps, *, schedule=None, **optim) -> Cell:
    """A cell of the synthetic corpus; `optim` are fields of its OptimSpec."""
    return Cell(
        model=ModelConfig("transformer", 16, 16, 2, 8, 1),
        size="d8",
        data=DATA,
        optim=OptimSpec(batch_size=4, **optim),
        schedule=schedule or ScheduleSpec(warmup_steps=10),
        corpus_id=corpus.corpus_id,
        seed=0,
        arm="",
        steps=steps,
        budget_flops=math.nan,
    )


def train(cells, corpus, folder=None, where=WHERE, **kwargs) -> dict[int, list[dict]]:
    """Train the cells of one trunk; returns the rows of each by its number of steps."""
    return {cell.steps: rows for cell, rows in train_trunk(cells, corpus, folder=folder, where=where, **kwargs)}


def table(runs) -> pd.DataFrame:
    """The rows of all runs that `train` returned."""
    return pd.DataFrame([row for rows in runs.values() for row in rows])


class KilledError(Exception):
    """A process that dies."""


def kill_at(run_id, step):
    """An `on_progress` that raises KilledError when this run has reached this step."""

    def on_progress(progress):
        if progress["run_id"] == run_id and progress["step"] >= step:
            raise KilledError

    return on_progress


# Changes of a cell: the kinds that resume, and those whose captured and compiled steps are compared.
OTHERS = {
    "lstm": {"model": ModelConfig("lstm", 16, 16, 2, 8, 0)},
    "gpt2": {"model": ModelConfig("transformer", 16, 16, 2, 8, 1, None, False, "layernorm", "gelu", "learned")},
    "experts": {"model": ModelConfig("transformer", 16, 16, 2, 8, 1, 8, experts=3, experts_per_token=1)},
    "muon": {"optim": OptimSpec(name="muon", batch_size=4)},
    "completep": {"optim": OptimSpec(parametrization="completep", batch_size=4)},
    "linear": {"schedule": ScheduleSpec(name="linear", warmup_steps=10)},
    "constant": {"schedule": ScheduleSpec(name="constant", warmup_steps=10)},
}
CHANGES = {
    "plain": {},
    "tied": {"model": ModelConfig("transformer", 16, 16, 2, 8, 2, tied=True)},
    "gpt2": {"model": ModelConfig("transformer", 16, 16, 2, 8, 1, None, False, "layernorm", "gelu", "learned")},
    "decay": {"optim": OptimSpec(parametrization="completep", batch_size=4, weight_decay=0.1, clip_norm=0.1)},
    "muon": {"optim": OptimSpec(name="muon", batch_size=4, weight_decay=0.1)},
}


def losses(learner, steps, until=60):
    """Sum of the training losses after every few steps, each chunk of another length."""
    sums = []
    while learner.step < until:
        learner.advance(min(until, learner.step + 1 + len(sums)), steps)
        sums.append(learner.loss_sum.item())
    return sums


def same(plain, other) -> bool:
    """Whether two learners hold the same weights and moments, to the bit."""
    return all(torch.equal(a, other.optimizer.tensors()[name]) for name, a in plain.optimizer.tensors().items())
