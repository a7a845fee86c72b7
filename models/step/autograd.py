"""Loss and gradients by autograd: for every model and device that `hand_written` has no hand-written step for."""

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from torch import Tensor, nn


def loss_of(model: nn.Module, inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
    """Mean cross-entropy in nats/token, to be differentiated."""
    return F.cross_entropy(model(inputs_BT).flatten(0, 1), targets_BT.flatten())


def loss_and_gradients(
    model: nn.Module, inputs_BT: Tensor, targets_BT: Tensor, *, loss_of: Callable[..., Tensor] = loss_of
) -> Tensor:
    """Mean cross-entropy in nats/token; overwrites the `grad` of every parameter, which must be allocated.

    `loss_of` may be a compiled form of the function of that name.
    """
    torch._foreach_zero_([parameter.grad for parameter in model.parameters()])
    loss = loss_of(model, inputs_BT, targets_BT)
    loss.backward()
    return loss.detach()


@torch.no_grad()
def logits(model: nn.Module, inputs_BT: Tensor) -> Tensor:
    return model(inputs_BT)


@torch.no_grad()
def score(model: nn.Module, inputs_BT: Tensor, targets_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Nats of every target, and whether it is the most likely token, both (B, T)."""
    logits_BTV = model(inputs_BT)
    nats_N = F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten(), reduction="none")
    return nats_N.view_as(targets_BT), logits_BTV.argmax(-1) == targets_BT
