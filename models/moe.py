"""Mixture of experts in place of the MLP: each token goes to the k experts that its router rates highest.

No token is dropped. The router's probabilities of the chosen experts, made to sum to one, weigh their outputs. That of
a single one does as it is (Fedus et al. 2101.03961, equation 2): made to sum to one it would be a constant, and the
router would learn nothing from the loss. The balance loss (equation 4 there) pulls the router towards equal shares;
only its gradient enters, so that the loss that a run reports is the cross-entropy alone.

Shape suffixes: N tokens, D width of the residual stream, E experts, k experts per token.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from torch import Tensor, nn

from isoflop.models.config import ModelConfig
from isoflop.models.language_model import Matrix
from isoflop.models.quantise import product_of

BALANCE = 0.01  # weight of the balance loss


class Experts(nn.Module):
    """`experts` SwiGLU or GELU MLPs, their matrices stacked, and the router."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.experts, self.chosen = config.experts, config.experts_per_token
        self.gated = config.activation == "swiglu"
        self.router = nn.Parameter(torch.empty(config.experts, config.d_model))
        self.up = nn.Parameter(torch.empty(config.experts * (1 + self.gated) * config.mlp_width, config.d_model))
        self.down = nn.Parameter(torch.empty(config.experts * config.d_model, config.mlp_width))
        self.product = product_of(config)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """(B, T, D) to (B, T, D), each token through the experts that its router rates highest."""
        x_ND = x_BTD.flatten(0, -2)
        p_NE = F.linear(x_ND, self.router).softmax(-1)
        weight_Nk, expert_Nk = p_NE.topk(self.chosen, -1)
        if self.chosen > 1:
            weight_Nk = weight_Nk / weight_Nk.sum(-1, keepdim=True)
        y_ND = torch.zeros_like(x_ND)
        for e, (up, down) in enumerate(zip(self.up.chunk(self.experts), self.down.chunk(self.experts), strict=True)):
            token, rank = (expert_Nk == e).nonzero(as_tuple=True)
            hidden = activate(self.product(x_ND.index_select(0, token), up), gated=self.gated)
            y_ND = y_ND.index_add(0, token, (weight_Nk[token, rank, None] * self.product(hidden, down)).to(y_ND.dtype))
        if not torch.is_grad_enabled():
            return y_ND.view_as(x_BTD)
        return _WithGradientOf.apply(y_ND, BALANCE * imbalance(p_NE, expert_Nk)).view_as(x_BTD)

    def hidden_matrices(self) -> Iterator[Matrix]:
        """The router's and every expert's matrices."""
        yield Matrix(self.router)
        yield Matrix(self.up, parts=self.experts * (1 + self.gated))
        yield Matrix(self.down, parts=self.experts, residual=True)


def imbalance(p_NE: Tensor, expert_Nk: Tensor) -> Tensor:
    """E times the sum over experts of share of tokens x mean probability: 1 when all shares are equal, at most E."""
    experts = p_NE.shape[1]
    share_E = torch.bincount(expert_Nk.flatten(), minlength=experts) / expert_Nk.numel()
    return experts * (share_E * p_NE.mean(0)).sum()


class _WithGradientOf(torch.autograd.Function):
    """The first argument, with the gradient of the second added to that of whatever loss it leads to."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, extra: Tensor) -> Tensor:
        ctx.like = extra
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        return gradient, torch.ones_like(ctx.like)


def activate(hidden: Tensor, *, gated: bool) -> Tensor:
    """silu(gate) * up of stacked (gate, up), or GELU in its tanh form."""
    if not gated:
        return F.gelu(hidden, approximate="tanh")
    gate, up = hidden.chunk(2, -1)
    return F.silu(gate) * up
