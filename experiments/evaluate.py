"""The held-out loss of a model on fixed windows."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from torch import Tensor, nn

from models.step import logits

_TOKENS_AT_ONCE = 2048  # activations of the widest default model stay in the cache


@dataclass(frozen=True)
class Evaluation:
    loss: float  # nats/token
    loss_se: float  # standard error over windows
    accuracy: float  # share of next tokens that are the most likely one


@torch.no_grad()
def evaluate(model: nn.Module, windows: Tensor) -> Evaluation:
    """Mean over all targets of `windows` (W, T + 1) int64, every window weighing the same."""
    losses, correct = [], 0
    for logits_BTV, targets, nats in _predictions(model, windows):
        losses.append(nats.mean(1))
        correct += (logits_BTV.argmax(-1) == targets).sum()
    by_window = torch.cat(losses).double()
    error = by_window.std() / len(by_window) ** 0.5 if len(by_window) > 1 else torch.tensor(math.nan)
    return Evaluation(by_window.mean().item(), error.item(), int(correct) / windows[:, 1:].numel())


@torch.no_grad()
def loss_by_position(model: nn.Module, windows: Tensor) -> Tensor:
    """Mean loss at each of the T positions, float64: its mean is the loss that `evaluate` gives."""
    total = sum(nats.double().sum(0) for _, _, nats in _predictions(model, windows))
    return total / len(windows)


def _predictions(model: nn.Module, windows: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Logits (B, T, V), targets (B, T) and nats (B, T) of a few windows at a time."""
    for part in windows.split(max(1, _TOKENS_AT_ONCE // (windows.shape[1] - 1))):
        logits_BTV, targets = logits(model, part[:, :-1]), part[:, 1:]
        nats = F.cross_entropy(logits_BTV.flatten(0, 1), targets.flatten(), reduction="none")
        yield logits_BTV, targets, nats.view_as(targets)
