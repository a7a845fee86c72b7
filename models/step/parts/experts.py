"""The sublayer of experts: norm, router, each expert's MLP over the tokens that it gets, their weighed sum, residual.

Pairs of token and expert are sorted by expert, so that an expert's products read one range of columns.

Shape suffixes: D width, N tokens, E experts, k experts per token, M = k N pairs, F width of an expert's MLP.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from isoflop.models.moe import BALANCE
from isoflop.models.step.parts.norm import Norm, gradient, ones
from isoflop.models.step.torch_ops import Backward, Ops


@dataclass(frozen=True)
class Experts:
    """x + sum over the experts of a token of weight times down (activation of up (the normed x))."""

    ops: Ops
    norm: Norm
    router_ED: nn.Parameter
    up: nn.Parameter  # (E x F, D), or (E x 2 F, D) of stacked gate and up
    down: nn.Parameter  # (E x D, F)
    chosen: int
    gated: bool

    def __call__(self, x_DN: Tensor, shape: torch.Size, *, keep: bool) -> tuple[Tensor, Backward]:
        """The residual stream after it. The backward adds the gradient of the balance loss."""
        del shape
        ops, router_ED, experts = self.ops, self.router_ED, len(self.router_ED)
        h_DN, norm_backward = self.norm.apply(x_DN)
        routes, route_backward = ops.route(ops.product(router_ED, h_DN), self.chosen)
        picked_DM = ops.spread(h_DN, routes, weighed=False)
        up_M = self._grouped(self.up, picked_DM, routes.first)
        scale_M = ones(up_M.shape[1], up_M.dtype)
        hidden_FM, activation_backward = (ops.swiglu if self.gated else ops.gelu)(up_M, scale_M, keep=keep)
        made_DM = self._grouped(self.down, hidden_FM, routes.first)

        def backward(dy_DN: Tensor) -> Tensor:
            dmade_DM = ops.spread(dy_DN, routes, weighed=True)
            dhidden_FM = self._grouped_backward(self.down, hidden_FM, dmade_DM, routes.first)
            dpicked_DM = self._grouped_backward(self.up, picked_DM, activation_backward(dhidden_FM), routes.first)
            counts = [end - start for start, end in _ranges(routes.first)]
            pull_E = [BALANCE * experts * count / made_DM.shape[1] / dy_DN.shape[1] for count in counts]
            dlogits_EN = route_backward(ops.collect_weights(dy_DN, made_DM, routes), dy_DN.new_tensor(pull_E))
            ops.product(dlogits_EN, h_DN.t(), out=gradient(router_ED))
            from_router_DN = ops.product(router_ED.t(), dlogits_EN)
            return norm_backward(ops.collect(dpicked_DM, routes, from_router_DN, weighed=False), dy_DN)

        return ops.collect(made_DM, routes, x_DN, weighed=True), backward

    def _grouped(self, weight: nn.Parameter, x: Tensor, first: Sequence[int]) -> Tensor:
        """Each expert's rows of the weight times its columns of x."""
        parts = weight.chunk(len(first) - 1)
        y = x.new_empty(len(parts[0]), x.shape[1])
        for part, (start, end) in zip(parts, _ranges(first), strict=True):
            if start < end:
                self.ops.product(part, x[:, start:end], out=y[:, start:end])
        return y

    def _grouped_backward(self, weight: nn.Parameter, x: Tensor, dy: Tensor, first: Sequence[int]) -> Tensor:
        """The gradient of x; writes that of the weight."""
        dx, parts = torch.empty_like(x), weight.chunk(len(first) - 1)
        gradients = gradient(weight).chunk(len(first) - 1)
        for part, dpart, (start, end) in zip(parts, gradients, _ranges(first), strict=True):
            if start == end:
                dpart.zero_()
                continue
            self.ops.product(dy[:, start:end], x[:, start:end].t(), out=dpart)
            self.ops.product(part.t(), dy[:, start:end], out=dx[:, start:end])
        return dx


def _ranges(first: Sequence[int]) -> list[tuple[int, int]]:
    """The columns of each expert."""
    return list(pairwise(first))
