"""The sublayer of an MLP: norm, into the hidden layer, activation, out of it, residual.

Shape suffixes: D width, N tokens, F hidden width, E = F or 2 F where gate and up are stacked.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from isoflop.models.step.parts.norm import Norm, gradient
from isoflop.models.step.torch_ops import Backward, Ops


@dataclass(frozen=True)
class MLP:
    """x + down (activation of up (the normed x))."""

    ops: Ops
    norm: Norm
    up: nn.Parameter
    down: nn.Parameter
    gated: bool

    def __call__(self, x_DN: Tensor, shape: torch.Size, *, keep: bool) -> tuple[Tensor, Backward]:
        """The residual stream after it."""
        del shape
        ops, down = self.ops, self.down
        up_EN, scale_N, linear_backward = self.norm.linear(x_DN, self.up)
        hidden_FN, activation_backward = (ops.swiglu if self.gated else ops.gelu)(up_EN, scale_N, keep=keep)

        def backward(dy_DN: Tensor) -> Tensor:
            ops.product(dy_DN, hidden_FN.t(), out=gradient(down))
            return linear_backward(activation_backward(ops.product(down.t(), dy_DN)), dy_DN)

        return ops.product(down, hidden_FN, plus=x_DN), backward
