"""The training step and the forward pass of any model, each by the fastest way there is for it."""

from collections.abc import Callable
from functools import partial
from types import ModuleType

import torch
from torch import Tensor, nn

from isoflop.models.step import autograd
from isoflop.models.step import c_ops as kernels
from isoflop.models.step import hand_written as gradient
from isoflop.models.step.recompute import recomputes
from isoflop.models.transformer import Transformer

Step = Callable[[Tensor, Tensor], Tensor]


def training_step(model: nn.Module, *, by_hand: bool = True, compiled: bool = False) -> Step:
    """From inputs and targets (B, T) to what `loss_and_gradients` does and returns, in the way that is asked for.

    `compiled` forgets what was compiled before: torch compiles so many shapes of one function, then gives up silently.
    """
    if compiled:
        torch.compiler.reset()
        loss_of = torch.compile(autograd.loss_of, fullgraph=True, dynamic=False)
        return partial(autograd.loss_and_gradients, model, loss_of=loss_of)
    return partial(loss_and_gradients if by_hand else autograd.loss_and_gradients, model)


def loss_and_gradients(model: nn.Module, inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
    """Mean cross-entropy in nats/token; overwrites the `grad` of every parameter, which must be allocated."""
    return _way(model).loss_and_gradients(model, inputs_BT, targets_BT)


def logits(model: nn.Module, inputs_BT: Tensor) -> Tensor:
    """What the model itself returns, (B, T, V), without recording anything."""
    return _way(model).logits(model, inputs_BT)


def score(model: nn.Module, inputs_BT: Tensor, targets_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Nats of every target, and whether it is the most likely token, both (B, T); records nothing."""
    return _way(model).score(model, inputs_BT, targets_BT)


def kernels_build(model: nn.Module) -> str:
    """Which kernels and library of products take this model's steps; "" where torch alone does."""
    return kernels.build_id() if _way(model) is gradient and kernels.usable(model.embedding) else ""


def _way(model: nn.Module) -> ModuleType:
    return gradient if type(model) is Transformer and not recomputes(model) else autograd
