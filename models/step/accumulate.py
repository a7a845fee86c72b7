"""Gradient accumulation: a batch in pieces that fit, with the loss and the gradients of the whole."""

from collections.abc import Sequence

import torch
from torch import Tensor

from isoflop.models.step.training_step import Step


def accumulate(step: Step, gradients: Sequence[Tensor], inputs_BT: Tensor, targets_BT: Tensor, at_once: int) -> Tensor:
    """Mean cross-entropy in nats/token of a batch, by a step that takes `at_once` sequences at a time.

    `gradients` are the tensors that hold every parameter's `grad`; they end as for the whole batch, to rounding.
    """
    if at_once >= len(inputs_BT):
        return step(inputs_BT, targets_BT)
    total, loss = [torch.zeros_like(part) for part in gradients], torch.zeros((), device=inputs_BT.device)
    for inputs, targets in zip(inputs_BT.split(at_once), targets_BT.split(at_once), strict=True):
        share = len(inputs) / len(inputs_BT)
        loss += share * step(inputs, targets)
        for whole, part in zip(total, gradients, strict=True):
            whole.add_(part, alpha=share)
    for part, whole in zip(gradients, total, strict=True):
        part.copy_(whole)
    return loss
