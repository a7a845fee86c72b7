"""The sublayer of causal attention: norm, q k v, attention, output, residual.

Shape suffixes: D width, N tokens, E = 3 D.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from isoflop.models.step.parts.norm import Norm, gradient
from isoflop.models.step.torch_ops import Backward, Ops


@dataclass(frozen=True)
class Attention:
    """x + output (attention of the normed x)."""

    ops: Ops
    norm: Norm
    qkv: nn.Parameter
    output: nn.Parameter
    n_head: int
    rotary: bool

    def __call__(self, x_DN: Tensor, shape: torch.Size, *, keep: bool) -> tuple[Tensor, Backward]:
        """The residual stream after it; `shape` is (B, T)."""
        ops, output = self.ops, self.output
        qkv_EN, scale_N, linear_backward = self.norm.linear(x_DN, self.qkv)
        y_DN, attend_backward = ops.attend(qkv_EN, scale_N, self.n_head, shape, rotary=self.rotary, keep=keep)

        def backward(dy_DN: Tensor) -> Tensor:
            ops.product(dy_DN, y_DN.t(), out=gradient(output))
            return linear_backward(attend_backward(ops.product(output.t(), dy_DN)), dy_DN)

        return ops.product(output, y_DN, plus=x_DN), backward
