"""The held-out loss of a model on fixed windows."""

import math
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from isoflop.experiments.cost.memory import EVALUATED_AT_ONCE
from isoflop.experiments.data.batches import Corpus, spread_starts
from isoflop.models.step.training_step import Step
from isoflop.scaling.table.evaluations.evaluation import NAMES


@dataclass(frozen=True)
class Evaluation:
    """The held-out loss of a model on W windows of T targets."""

    loss: float  # nats/token
    loss_se: float  # standard error over windows
    accuracy: float  # share of next tokens that are the most likely one
    domains: list[float]  # nats/token of each domain of a mixture; none of any other corpus
    nats: Tensor = field(repr=False, compare=False)  # (W, T), of every target
    correct: Tensor = field(repr=False, compare=False)  # (W, T), whether it was the most likely one


@torch.no_grad()
def evaluate(step: Step, windows: Tensor, domains: int = 1) -> Evaluation:
    """Score a model by its step: mean over all targets of `windows` (W, T + 1) int64, each window weighing the same.

    Those of several `domains` follow each other, as many of each; the standard error is then that within them.
    """
    at_once = EVALUATED_AT_ONCE["cuda" if windows.is_cuda else "cpu"]
    parts = windows.split(max(1, at_once // (windows.shape[1] - 1)))
    nats_WT, correct_WT = map(torch.cat, zip(*(step.score(part[:, :-1], part[:, 1:]) for part in parts), strict=True))
    by_window = nats_WT.mean(1).double()
    each = by_window.view(domains, -1)
    error = each.var(1).mean().sqrt() / len(by_window) ** 0.5 if each.shape[1] > 1 else torch.tensor(math.nan)
    means = each.mean(1).tolist() if domains > 1 else []
    accuracy = int(correct_WT.sum()) / correct_WT.numel()
    return Evaluation(by_window.mean().item(), error.item(), accuracy, means, nats_WT.cpu(), correct_WT.cpu())


def detail(run_id: str, evaluation: Evaluation, corpus: Corpus) -> pd.DataFrame:
    """The rows of `scaling.table.evaluations.evaluation` for one run: loss by position in the window, and by document.

    Kaplan et al. 2020, figure 7, has the first; the second is what two runs are paired by. A corpus that does not know
    its documents (tokens that came without) is taken window by window.
    """
    windows, length = evaluation.nats.shape
    starts = spread_starts(corpus.held_out_tokens, context_length=length, n_tokens=windows * length)
    measure, unit = "window", np.repeat(np.arange(windows), length)
    if (ends := corpus.document_ends) is not None:
        targets = starts[:, None] + 1 + np.arange(length)
        measure, unit = "document", np.searchsorted(ends, targets.ravel(), side="right")
    position = np.tile(np.arange(1, length + 1), windows)
    each = pd.DataFrame({"loss": evaluation.nats.double().flatten(), "accuracy": evaluation.correct.flatten()})
    parts = [_means(each, "position", position), _means(each, measure, unit)]
    return pd.concat(parts, ignore_index=True).assign(run_id=run_id)[list(NAMES)]


def _means(each: pd.DataFrame, measure: str, number: np.ndarray) -> pd.DataFrame:
    groups = each.groupby(number)
    means = groups.mean().assign(targets=groups.size(), measure=measure)
    return means.rename_axis("number").reset_index()
