"""Windows of domains are a function of the position alone, in exact counts, each domain in epochs of its own."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoflop.experiments.data.batches import Mixture, window_numbers
from isoflop.experiments.data.domains.interleave import BLOCK, counts

SIZE = (2, 16)
WINDOWS = (50, 7, 400)


def read(shares, steps, *, seed=0, step=0, batch_size=8):
    mixture = Mixture(shares, WINDOWS[: len(shares)])
    return window_numbers(0, seed=seed, size=SIZE, step=step, count=steps, batch_size=batch_size, mixture=mixture)


def domain_of(windows):
    return np.searchsorted(np.cumsum(WINDOWS), windows, side="right")


@pytest.mark.slow
@settings(max_examples=40)
@given(parts=st.lists(st.integers(0, 1000), min_size=2, max_size=3).filter(any), blocks=st.integers(1, 40))
def test_every_domain_has_its_share_of_whole_blocks_to_within_one(parts, blocks):
    shares = tuple(part / sum(parts) for part in parts)
    found = np.bincount(domain_of(read(shares, blocks * BLOCK // 8).ravel()), minlength=len(shares))
    assert found.tolist() == counts(shares, blocks * BLOCK)
    assert found.sum() == blocks * BLOCK
    assert np.abs(found - np.array(shares) * blocks * BLOCK).max() <= 1


def test_a_domain_is_read_in_epochs_that_visit_every_window_once():
    windows = read((0.25, 0.5, 0.25), 112).ravel()
    for number, (first, count) in enumerate(zip((0, 50, 57), WINDOWS, strict=True)):
        own = windows[domain_of(windows) == number] - first
        for epoch in range(len(own) // count):
            assert sorted(own[epoch * count : (epoch + 1) * count]) == list(range(count))
    own = windows[domain_of(windows) == 1]
    assert (own[:7] != own[7:14]).any()


def test_neither_the_batch_size_nor_the_length_of_a_run_moves_a_window():
    shares = (0.3, 0.3, 0.4)
    whole = read(shares, 100)
    assert (read(shares, 200)[:100] == whole).all()
    assert (read(shares, 160, batch_size=5).ravel() == whole.ravel()).all()
    assert (read(shares, 30, step=70) == whole[70:]).all()
    assert (read(shares, 100, seed=1) != whole).any()


def test_mixtures_of_one_seed_read_each_domain_in_the_same_order():
    one, other = (read(shares, 100).ravel() for shares in ((0.5, 0.25, 0.25), (0.2, 0.4, 0.4)))
    for number in range(3):
        first, second = (windows[domain_of(windows) == number] for windows in (one, other))
        shared = min(len(first), len(second))
        assert (first[:shared] == second[:shared]).all()


@pytest.mark.parametrize("share", [1e-3, 0.999])
def test_a_rare_domain_comes_as_often_as_its_share(share):
    assert counts((share, 1 - share), 10**9) == [round(share * 10**9), round((1 - share) * 10**9)]
    assert sum(counts((share, 1 - share), 10**15)) == 10**15
