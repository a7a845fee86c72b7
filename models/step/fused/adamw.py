"""Clipping and AdamW on a GPU in two kernels over flat vectors: one for the norm, one that reads and writes all once.

torch's own take a dozen launches where the parameters have several learning rates, and one pass more to clip.
"""

from collections.abc import Sequence

import torch
import triton
from torch import Tensor

from isoflop.models.step.fused import device as kernels

NUMBERS = 1024  # of a program at once
PROGRAMS = 512  # of the norm, at most: the update adds up what they give


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
        kernels.squares[(programs,)](gradients, sums, steps, len(gradients), rounds, N=NUMBERS)
        kernels.adamw[(triton.cdiv(self.count, NUMBERS),)](
            weights, gradients, means, squares, sums, programs, steps, rate, self.ends, self.multipliers, self.decays,
            self.count, len(self.ends), clip, beta1, beta2, eps, N=NUMBERS, P=triton.next_power_of_2(programs),
        )  # fmt: skip
