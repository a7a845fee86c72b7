"""The noise scale of the gradient, B = tr(Sigma) / |G|^2, logged on request (McCandlish et al. 2018, eq. 2.8).

Every few steps the gradients of the two halves of the batch are taken beside the step, which stays what it is to the
bit. Of gradients g and h of b sequences each, g . h has the mean |G|^2, and b |g - h|^2 / 2 the mean tr(Sigma) of one
sequence. Both are summed, and their ratio at a row of the run table is that row's; then the sums are halved, so that a
row close after another rests on more than the steps between them.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

EVERY = 16  # steps: each costs one more, so that a run takes a sixteenth longer
FORGET = 0.5  # what the sums keep after a row

Sums = Tensor  # (2,) float64: of |G|^2 and of tr(Sigma) of one sequence


def from_halves(gradients: Callable[[Tensor], object], buffers: Sequence[Tensor], tokens: Tensor) -> Sums:
    """The two estimates from one batch of tokens (B, T + 1), B of 2 or more; of an odd number the last is left out.

    `gradients` leaves those of the sequences that it is given in `buffers`.
    """
    half = len(tokens) // 2
    gradients(tokens[:half])
    first = [buffer.double() for buffer in buffers]
    gradients(tokens[half : 2 * half])
    second = [buffer.double() for buffer in buffers]
    signal = sum((torch.sum(g * h) for g, h in zip(first, second, strict=True)), torch.zeros(()))
    noise = sum((torch.sum((g - h) ** 2) for g, h in zip(first, second, strict=True)), torch.zeros(()))
    return torch.stack([signal, 0.5 * half * noise])


def in_tokens(sums: Sums, length: int) -> float:
    """The noise scale in tokens, of sequences of `length`; NaN where nothing was summed or no signal stands out."""
    signal, noise = sums.tolist()
    return length * noise / signal if signal > 0 else math.nan
