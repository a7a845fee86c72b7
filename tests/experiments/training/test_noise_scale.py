"""The noise scale of the gradient: unbiased where the answer is known, and of whole halves."""

import math

import pytest
import torch

from isoflop.experiments.training.noise_scale import from_halves, in_tokens

MEAN, SD, LENGTH = torch.tensor([3.0, -1.0, 0.5]), torch.tensor([1.0, 4.0, 2.0]), 64


def gradients_into(buffers, seen=None):
    """What leaves the mean gradient of sequences in `buffers`: a sequence stands for its own gradient."""

    def gradients(sequences):
        if seen is not None:
            seen.append(sequences)
        for buffer, part in zip(buffers, sequences.mean(0).split([2, 1]), strict=True):
            buffer.copy_(part)

    return gradients


@pytest.mark.slow
def test_signal_and_noise_are_those_of_the_distribution():
    generator, buffers, sums = (
        torch.Generator().manual_seed(0),
        [torch.zeros(2), torch.zeros(1)],
        torch.zeros(2, dtype=torch.float64),
    )
    for _ in range(3000):
        sums += from_halves(gradients_into(buffers), buffers, MEAN + SD * torch.randn(8, 3, generator=generator))
    signal, noise = float(MEAN @ MEAN), float(SD @ SD)
    assert (sums / 3000).tolist() == pytest.approx([signal, noise], rel=0.05)
    assert in_tokens(sums, LENGTH) == pytest.approx(LENGTH * noise / signal, rel=0.05)


def test_of_an_odd_batch_the_last_sequence_is_left_out():
    seen, buffers = [], [torch.zeros(2), torch.zeros(1)]
    batch = torch.arange(21.0).view(7, 3)
    from_halves(gradients_into(buffers, seen), buffers, batch)
    assert torch.equal(torch.cat(seen), batch[:6])
    assert [len(part) for part in seen] == [3, 3]


def test_nothing_summed_and_no_signal_are_no_number():
    assert math.isnan(in_tokens(torch.zeros(2, dtype=torch.float64), LENGTH))
    assert math.isnan(in_tokens(torch.tensor([-1.0, 2.0]), LENGTH))
