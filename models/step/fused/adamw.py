"""Clipping and AdamW on a GPU in two kernels over flat vectors: one for the norm, one that reads and writes all once.

torch's own take a dozen launches where the parameters have several learning rates, and one pass more to clip.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

NUMBERS = 1024  # of a program at once
PROGRAMS = 512  # of the norm, at most: the update adds up what they give


@triton.jit
def _squares(gradients, sums, steps, count, rounds, N: tl.constexpr):
    program, programs = tl.program_id(0), tl.num_programs(0)
    total = tl.zeros([N], tl.float32)
    for i in range(rounds):
        at = (i * programs + program).to(tl.int64) * N + tl.arange(0, N)
        gradient = tl.load(gradients + at, mask=at < count, other=0.0)
        total += gradient * gradient
    tl.store(sums + program, tl.sum(total, 0))
    if program == 0:
        tl.store(steps, tl.load(steps) + 1.0)


@triton.jit
def _update(
    weights, gradients, means, squares, sums, programs, steps, rate, ends, multipliers, decays, count, groups,
    clip, beta1, beta2, eps, N: tl.constexpr, P: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0).to(tl.int64) * N + tl.arange(0, N)
    inside = at < count
    factor = 1.0
    if clip > 0:
        p = tl.arange(0, P)
        norm = tl.sqrt(tl.sum(tl.load(sums + p, mask=p < programs, other=0.0), 0))
        factor = tl.minimum(clip / (norm + 1e-6), 1.0)
    step, base = tl.load(steps), tl.load(rate)
    multiplier, decay, begin = tl.zeros([N], tl.float32), tl.zeros([N], tl.float32), tl.zeros([N], tl.int64)
    for group in range(groups):
        end = tl.zeros([N], tl.int64) + tl.load(ends + group)
        mine = (at >= begin) & (at < end)
        multiplier = tl.where(mine, tl.load(multipliers + group), multiplier)
        decay = tl.where(mine, tl.load(decays + group), decay)
        begin = end
    learning_rate = base * multiplier
    gradient = tl.load(gradients + at, mask=inside, other=0.0) * factor
    weight = tl.load(weights + at, mask=inside, other=0.0)
    mean = tl.load(means + at, mask=inside, other=0.0)
    square = tl.load(squares + at, mask=inside, other=0.0)
    weight -= learning_rate * decay * weight
    mean += (1.0 - beta1) * (gradient - mean)
    square = beta2 * square + (1.0 - beta2) * gradient * gradient
    correct1, correct2 = 1.0 - tl.exp(step * tl.log(beta1)), 1.0 - tl.exp(step * tl.log(beta2))
    weight -= learning_rate / correct1 * mean / (tl.sqrt(square) / tl.sqrt(correct2) + eps)
    tl.store(weights + at, weight, mask=inside)
    tl.store(means + at, mean, mask=inside)
    tl.store(squares + at, square, mask=inside)


class FusedAdamW:
    """The update of one optimizer: its vectors are changed in place, the gradients are left as they were.

    Of `gradients`, all count for the norm; the others have as many numbers as `sizes` add up to, one size for each
    group of parameters, whose learning rate and weight decay are multiplied by `multipliers` and are `decays`.
    """

    def __init__(
        self, sizes: Sequence[int], multipliers: Sequence[float], decays: Sequence[float], device: torch.device
    ) -> None:
        self.ends = torch.tensor(sizes, device=device).cumsum(0)
        self.multipliers = torch.tensor(multipliers, dtype=torch.float32, device=device)
        self.decays = torch.tensor(decays, dtype=torch.float32, device=device)
        self.count = sum(sizes)

    @torch.no_grad()
    def step(
        self, weights: Tensor, gradients: Tensor, means: Tensor, squares: Tensor, steps: Tensor, rate: Tensor, *,
        clip: float, beta1: float, beta2: float, eps: float,
    ) -> None:  # fmt: skip
        """Clip to a norm of `clip`, or not for 0, and update; `steps` is one more afterwards."""
        programs = min(PROGRAMS, triton.cdiv(len(gradients), NUMBERS))
        sums = gradients.new_empty(programs)
        rounds = triton.cdiv(len(gradients), programs * NUMBERS)
        _squares[(programs,)](gradients, sums, steps, len(gradients), rounds, N=NUMBERS)
        _update[(triton.cdiv(self.count, NUMBERS),)](
            weights, gradients, means, squares, sums, programs, steps, rate, self.ends, self.multipliers, self.decays,
            self.count, len(self.ends), clip, beta1, beta2, eps, N=NUMBERS, P=triton.next_power_of_2(programs),
        )  # fmt: skip
