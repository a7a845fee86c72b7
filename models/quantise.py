"""Matrix products as if their factors were integers of few bits: fake quantisation, with straight-through gradients.

A factor is rounded to the integers from -m to m, m = 2^(bits - 1) - 1, times a scale: the largest magnitude of its row
over m. Rows are output channels of a weight and tokens of an activation, so that a row is rounded by itself. What is
rounded stays float32, and so do the sums. Backwards a gradient passes the rounding as if it were not there (Bengio et
al. 1308.3432), while weights, moments and updates stay float32. Rounded are the factors of a block's matrices
(attention, MLP, experts); the embedding, the head, the router of experts, norms and attention itself are not.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from torch import Tensor

from isoflop.models.config import FULL_BITS, ModelConfig

SMALLEST = 1e-30  # scale of a row of zeros

Product = Callable[[Tensor, Tensor], Tensor]  # of activations (..., K) and a weight (M, K), to (..., M)


def product_of(config: ModelConfig) -> Product:
    """The product of activations and a weight in the blocks of a model: exact where nothing is rounded."""
    if not config.quantised:
        return F.linear
    return partial(quantised_product, weight_bits=config.weight_bits, activation_bits=config.activation_bits)


def quantised_product(x: Tensor, weight: Tensor, *, weight_bits: int, activation_bits: int) -> Tensor:
    """x (..., K) times weight (M, K), each rounded to so many bits; FULL_BITS leaves a factor as it is."""
    return F.linear(rounded(x, activation_bits), rounded(weight, weight_bits))


def rounded(x: Tensor, bits: int) -> Tensor:
    """The rows of x (..., K) at the nearest of their integers of so many bits, with the gradient of x itself."""
    if bits == FULL_BITS:
        return x
    most = 2 ** (bits - 1) - 1
    with torch.no_grad():
        scale = x.abs().amax(-1, keepdim=True).clamp_min(SMALLEST) / most
        nearest = torch.round(x / scale) * scale
    return _StraightThrough.apply(x, nearest) if torch.is_grad_enabled() else nearest


class _StraightThrough(torch.autograd.Function):
    """The second argument, with the gradient of the first."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, nearest: Tensor) -> Tensor:
        return nearest.view_as(nearest)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None
