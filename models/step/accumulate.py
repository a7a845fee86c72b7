"""Gradient accumulation: a batch in pieces that fit, with the loss and the gradients of the whole."""

import torch
from torch import Tensor

from isoflop.models.step.training_step import Step


def accumulate(step: Step, gradients: Tensor, inputs_BT: Tensor, targets_BT: Tensor, at_once: int) -> Tensor:
    """Mean cross-entropy in nats/token of a batch, by a step that takes `at_once` sequences at a time.

    `gradients` is the buffer that every parameter's `grad` is a part of; it ends as for the whole batch, to rounding.
    """
    if at_once >= len(inputs_BT):
        return step(inputs_BT, targets_BT)
    total, loss = torch.zeros_like(gradients), torch.zeros((), device=gradients.device)
    for inputs, targets in zip(inputs_BT.split(at_once), targets_BT.split(at_once), strict=True):
        share = len(inputs) / len(inputs_BT)
        loss += share * step(inputs, targets)
        total.add_(gradients, alpha=share)
    gradients.copy_(total)
    return loss
