"""The layers of an LSTM: the products of the whole sequence at once, then the cells position by position.

Shape suffixes: B batch, T position, N = T x B (by position, then by text), D width, G = 4 D gates: torch's order.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from isoflop.models.step.parts.norm import gradient
from isoflop.models.step.torch_ops import Backward, Ops


@dataclass(frozen=True)
class Weights:
    """The parameters of one layer."""

    input_GD: nn.Parameter
    state_GD: nn.Parameter
    input_bias_G: nn.Parameter
    state_bias_G: nn.Parameter


@dataclass(frozen=True)
class Recurrent:
    """The stack of layers."""

    ops: Ops
    layers: Sequence[Weights]

    def __call__(self, x_DN: Tensor, shape: torch.Size, *, keep: bool) -> tuple[Tensor, Backward]:
        """The states of the last layer, (D, B x T); `shape` is (B, T)."""
        del keep
        h_ND = _by_position(x_DN, shape)
        undo: list[Backward] = []
        for weights in self.layers:
            h_ND, layer_backward = self._layer(weights, h_ND, shape[0])
            undo.append(layer_backward)

        def backward(dy_DN: Tensor) -> Tensor:
            dh_ND = _by_position(dy_DN, shape)
            for layer_backward in reversed(undo):
                dh_ND = layer_backward(dh_ND)
            return _by_feature(dh_ND, shape)

        return _by_feature(h_ND, shape), backward

    def _layer(self, weights: Weights, x_ND: Tensor, batch: int) -> tuple[Tensor, Backward]:
        ops, input_GD, state_GD = self.ops, weights.input_GD, weights.state_GD
        gates_NG = x_ND.new_empty(len(x_ND), len(input_GD))
        ops.product(input_GD, x_ND.t(), out=gates_NG.t())
        h_ND, recur_backward = ops.recur(gates_NG, state_GD, weights.input_bias_G + weights.state_bias_G, batch)

        def backward(dh_ND: Tensor) -> Tensor:
            dgates_NG = recur_backward(dh_ND, gradient(weights.input_bias_G))
            ops.product(dgates_NG.t(), x_ND, out=gradient(input_GD))
            if len(x_ND) > batch:
                ops.product(dgates_NG[batch:].t(), h_ND[:-batch], out=gradient(state_GD))
            else:  # a single position reads no state
                gradient(state_GD).zero_()
            gradient(weights.state_bias_G).copy_(gradient(weights.input_bias_G))
            return ops.product(dgates_NG, input_GD)

        return h_ND, backward


def _by_position(x_DN: Tensor, shape: torch.Size) -> Tensor:
    """(D, B x T) to (T x B, D)."""
    return x_DN.unflatten(1, shape).permute(2, 1, 0).reshape(-1, len(x_DN)).contiguous()  # of one text a view else


def _by_feature(x_ND: Tensor, shape: torch.Size) -> Tensor:
    """(T x B, D) to (D, B x T)."""
    batch, length = shape
    return x_ND.view(length, batch, -1).permute(2, 1, 0).reshape(x_ND.shape[1], -1).contiguous()
