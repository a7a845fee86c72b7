"""Configurations and cells that need no corpus on disk."""

import math
from dataclasses import dataclass, replace

from isoflop.experiments.config import (
    BudgetSpec,
    DataSpec,
    ExperimentConfig,
    ModelSpec,
    OptimSpec,
    ScheduleSpec,
)
from isoflop.experiments.study.cell import Cell
from isoflop.experiments.study.check import checked_study
from isoflop.models.config import ModelConfig


@dataclass
class FakeCorpus:
    """What `expand` reads of a corpus."""

    corpus_id: str = "c0"
    vocab_size: int = 256
    train_tokens: int = 10_000_000
    domains: tuple = ()
    warnings: tuple = ()

    def __call__(self, data):
        """Stands in for all corpora: returns itself for any data, a mixture's in equal domains, tokens of bpe under an
        id of their own."""
        corpus_id = f"{self.corpus_id}-{data.vocab_size}" if data.tokenizer == "bpe" else self.corpus_id
        windows = self.train_tokens // (data.context_length + 1) // max(1, len(data.mixture))
        domains = tuple({"name": name, "windows": windows} for name in sorted(data.mixture))
        return replace(self, corpus_id=corpus_id, domains=domains)


CORPUS = FakeCorpus()


def single(**budget: float) -> ExperimentConfig:
    """The configuration of one small cell with this budget: `flops`, `tokens` or `tokens_per_param`."""
    model = ModelSpec(n_layer=2, d_model=16, n_head=2)
    return ExperimentConfig(model=model, budget=BudgetSpec(**budget), schedule=ScheduleSpec(warmup_steps=5))


def only(config: ExperimentConfig) -> Cell:
    """The one cell that a configuration expands to."""
    (cell,) = checked_study(config, CORPUS).cells
    return cell


def cell_of_width(width: int, *, batch: int = 8, name: str = "adamw", seed: int = 0, **options: object) -> Cell:
    """A transformer of two layers and heads of width 8 in a cell of nine steps; `options` are of the model."""
    model = ModelConfig("transformer", 256, 64, 2, width, width // 8, **options)
    return Cell(
        model, f"d{width}", DataSpec(), OptimSpec(name, batch_size=batch), ScheduleSpec(), "c", seed, "", 9, math.nan
    )
