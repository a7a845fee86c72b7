"""Matrix products in bfloat16: autocast around a model's forward pass, its weights and logits staying float32.

The residual stream, norms and the loss stay float32 too, since autocast lowers the inputs of products alone.
"""

from functools import cache

import torch
from torch import Tensor, nn


def lower_products(model: nn.Module) -> None:
    """Have `model` multiply in bfloat16, in training and in evaluation."""
    model.__class__ = _lowered(type(model))


@cache
def _lowered(family: type[nn.Module]) -> type[nn.Module]:
    class Lowered(family):
        def forward(self, tokens_BT: Tensor) -> Tensor:
            with torch.autocast(tokens_BT.device.type, torch.bfloat16):
                logits_BTV = super().forward(tokens_BT)
            return logits_BTV.float()

    return Lowered
