"""What the blocks read: the rows of the tokens, with learned positions added.

Shape suffixes: B batch, T position, N = B x T, D width, V vocabulary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from isoflop.models.step.parts.norm import gradient
from isoflop.models.step.torch_ops import Ops


@dataclass(frozen=True)
class Embedding:
    """The rows of the tokens, plus those of their positions if these are learned."""

    ops: Ops
    weight_VD: nn.Parameter
    position_TD: nn.Parameter | None
    tied: bool  # whether the head is the same matrix: then its gradient lies there already

    def forward(self, tokens_N: Tensor, shape: torch.Size) -> Tensor:
        """(D, N); `shape` is (B, T)."""
        x_DN = self.ops.embed(self.weight_VD, tokens_N)
        if self.position_TD is not None:
            x_DN.unflatten(1, shape).add_(self.position_TD[: shape[1]].t()[:, None])
        return x_DN

    def backward(self, tokens_N: Tensor, shape: torch.Size, dx_DN: Tensor) -> None:
        """Write the gradients of the rows and the positions."""
        if self.position_TD is not None:
            gradient_TD = gradient(self.position_TD)
            gradient_TD[shape[1] :].zero_()
            gradient_TD[: shape[1]] = dx_DN.unflatten(1, shape).sum(1).t()
        gradient_VD = gradient(self.weight_VD)
        if not self.tied:
            gradient_VD.zero_()
        self.ops.embed_backward(tokens_N, dx_DN, gradient_VD)
