"""Loss and gradients by autograd: for every model, device and precision that `hand_written` has no step for.

Shape suffixes: B batch, T position, V vocabulary, N = B x T.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from torch import Tensor

from isoflop.models.language_model import LanguageModel

Forward = Callable[[Tensor], Tensor]  # from token ids (B, T) to logits (B, T, V)


def forward_of(model: LanguageModel, *, bfloat16: bool) -> Forward:
    """The forward pass of `model`: itself, or itself with its matrix products in bfloat16.

    Autocast lowers the inputs of products alone: weights, residual stream, norms and the logits stay float32.
    """
    if not bfloat16:
        return model
    recurrent = any(isinstance(part, torch.nn.RNNBase) for part in model.modules())
    apart = recurrent and not torch.ops.mkldnn._is_mkldnn_bf16_supported()  # oneDNN refuses it on older CPUs

    def lowered(tokens_BT: Tensor) -> Tensor:
        without = _without_onednn() if apart and not tokens_BT.is_cuda else nullcontext()
        with torch.autocast(tokens_BT.device.type, torch.bfloat16), without:
            logits_BTV = model(tokens_BT)
        return logits_BTV.float()

    return lowered


@contextmanager
def _without_onednn() -> Iterator[None]:
    """As torch.backends.mkldnn.flags(enabled=False), which also sets what only some devices have, and warns."""
    was = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(was)


def loss_of(forward: Forward, inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
    """Mean cross-entropy in nats/token, to be differentiated."""
    return F.cross_entropy(forward(inputs_BT).flatten(0, 1), targets_BT.flatten())


def compiled_loss() -> Callable[[Forward, Tensor, Tensor], Tensor]:
    """`loss_of` through torch.compile.

    Forgets what was compiled before: torch compiles so many shapes of one function, then gives up silently.
    """
    torch.compiler.reset()
    return torch.compile(loss_of, fullgraph=True, dynamic=False)


def loss_and_gradients(
    model: LanguageModel,
    forward: Forward,
    loss_of: Callable[[Forward, Tensor, Tensor], Tensor],
    inputs_BT: Tensor,
    targets_BT: Tensor,
) -> Tensor:
    """Mean cross-entropy in nats/token; overwrites the `grad` of every parameter of `model`, which must be allocated.

    `loss_of` is the function of that name or its compiled form.
    """
    torch._foreach_zero_([grad for parameter in model.parameters() if (grad := parameter.grad) is not None])
    loss = loss_of(forward, inputs_BT, targets_BT)
    loss.backward()
    return loss.detach()


@torch.no_grad()
def logits(forward: Forward, inputs_BT: Tensor) -> Tensor:
    """Logits (B, T, V), without recording anything."""
    return forward(inputs_BT)


@torch.no_grad()
def score(forward: Forward, inputs_BT: Tensor, targets_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Nats of every target, and whether it is the most likely token, both (B, T)."""
    logits_BTV = forward(inputs_BT)
    nats_N = F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten(), reduction="none")
    return nats_N.view_as(targets_BT), logits_BTV.argmax(-1) == targets_BT
