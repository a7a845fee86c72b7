"""Matrix products in bfloat16: autocast around a model's forward pass, its weights and logits staying float32.

The residual stream, norms and the loss stay float32 too, since autocast lowers the inputs of products alone.
"""

from functools import wraps

import torch
from torch import Tensor, nn


def lower_products(model: nn.Module) -> None:
    """Have `model` multiply in bfloat16, in training and in evaluation."""
    forward = model.forward

    @wraps(forward)
    def lowered(tokens_BT: Tensor) -> Tensor:
        with torch.autocast(tokens_BT.device.type, torch.bfloat16):
            logits_BTV = forward(tokens_BT)
        return logits_BTV.float()

    model.forward = lowered


def lowers(model: nn.Module) -> bool:
    return "forward" in vars(model)
