"""The training step and the forward pass of any model, each by the fastest way there is for it."""

from types import ModuleType

from torch import Tensor, nn

from models import autograd, gradient, kernels, native
from models.recompute import recomputes
from models.transformer import Transformer


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
    """Which build of the kernels in C takes this model's steps; "" where torch alone does."""
    return native.build_id() if _way(model) is gradient and kernels.usable(model.embedding) else ""


def _way(model: nn.Module) -> ModuleType:
    return gradient if type(model) is Transformer and not recomputes(model) else autograd
