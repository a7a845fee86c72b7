"""Norms before a sublayer: their output, or at once the linear map behind them, and the gradients of both.

Shape suffixes: D width, N tokens, E any output width.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from isoflop.models.step.torch_ops import Ops

# From the gradient of an output, and one to add to it or None, to the gradient of the input.
NormBackward = Callable[[Tensor, Tensor | None], Tensor]


@dataclass(frozen=True)
class Norm(ABC):
    """A norm over the features of each token, (D, N) to (D, N)."""

    ops: Ops
    gain_D: nn.Parameter

    @abstractmethod
    def apply(self, x_DN: Tensor) -> tuple[Tensor, NormBackward]:
        """The normed x; its backward writes the gradients of gain and bias."""

    def linear(
        self, x_DN: Tensor, weight_ED: nn.Parameter, out: Tensor | None = None
    ) -> tuple[Tensor, Tensor, NormBackward]:
        """(y, (E, N); scale, (N)): y times scale is the linear map of the normed x. The backward takes dy."""
        h_DN, backward = self.apply(x_DN)

        def linear_backward(dy_EN: Tensor, residual_DN: Tensor | None) -> Tensor:
            self.ops.product(dy_EN, h_DN.t(), out=gradient(weight_ED))
            return backward(self.ops.product(weight_ED.t(), dy_EN), residual_DN)

        return self.ops.product(weight_ED, h_DN, out=out), ones(x_DN.shape[1], x_DN.dtype), linear_backward


@dataclass(frozen=True)
class RMSNorm(Norm):
    """x / rms(x) times gain.

    Before a single matrix the gain is folded into it, and the scale moves behind the product:
    W (g * x * s) = ((W g) x) * s.
    """

    def apply(self, x_DN: Tensor) -> tuple[Tensor, NormBackward]:
        """The normed x."""
        h_DN, backward = self.ops.norm(x_DN, self.gain_D, None)
        return h_DN, lambda dh_DN, residual_DN: backward(dh_DN, residual_DN, gradient(self.gain_D), None)

    def linear(
        self, x_DN: Tensor, weight_ED: nn.Parameter, out: Tensor | None = None
    ) -> tuple[Tensor, Tensor, NormBackward]:
        """(weight gain x, (E, N); 1 / rms(x), (N))."""
        ops, gain_D = self.ops, self.gain_D
        scale_N = ops.norm_scale(x_DN)
        folded_ED = weight_ED * gain_D

        def backward(dy_EN: Tensor, residual_DN: Tensor | None) -> Tensor:
            gradient_ED = ops.product(dy_EN, x_DN.t(), out=gradient(weight_ED))
            ops.fold_backward(gradient_ED, weight_ED, gain_D, gradient(gain_D))
            return ops.norm_backward(ops.product(folded_ED.t(), dy_EN), x_DN, scale_N, residual_DN)

        return ops.product(folded_ED, x_DN, out=out), scale_N, backward


@dataclass(frozen=True)
class LayerNorm(Norm):
    """(x - mean) / sd times gain, plus bias."""

    bias_D: nn.Parameter

    def apply(self, x_DN: Tensor) -> tuple[Tensor, NormBackward]:
        """The normed x."""
        h_DN, backward = self.ops.norm(x_DN, self.gain_D, self.bias_D)
        gain_D, bias_D = self.gain_D, self.bias_D
        return h_DN, lambda dh_DN, residual_DN: backward(dh_DN, residual_DN, gradient(gain_D), gradient(bias_D))


def gradient(parameter: nn.Parameter) -> Tensor:
    """The room of its gradient, which an optimiser or a test has made."""
    assert parameter.grad is not None
    return parameter.grad


@lru_cache(maxsize=8)
def ones(count: int, dtype: torch.dtype) -> Tensor:
    """The scale of what needs none, (N)."""
    return torch.ones(count, dtype=dtype)
