"""Batches are a function of (seed, size, step)."""

import numpy as np
import pytest

from isoflop.experiments.data.batches import batch, batches, count_windows, window_numbers

TOKENS = np.arange(1000, dtype=np.uint16)
SIZE = (2, 16)  # layers and width
ARGS = {"size": SIZE, "batch_size": 3, "context_length": 9}


def test_a_batch_is_a_function_of_seed_and_step():
    first = batch(TOKENS, seed=1, step=5, **ARGS)
    batch(TOKENS, seed=2, step=0, **ARGS)
    assert first.shape == (3, 10)
    assert first.dtype == np.int64
    assert (first == batch(TOKENS, seed=1, step=5, **ARGS)).all()
    assert (first != batch(TOKENS, seed=2, step=5, **ARGS)).any()
    assert (first != batch(TOKENS, seed=1, step=6, **ARGS)).any()


def test_sizes_share_no_order_and_each_has_its_own_in_every_epoch():
    sizes = [(2, 16), (2, 24), (4, 16), (16, 2)]
    orders = [window_numbers(500, seed=0, size=size, step=0, count=1000, batch_size=1)[:, 0] for size in sizes]
    halves = [half for order in orders for half in np.split(order, 2)]
    for i, one in enumerate(halves):
        assert sorted(one) == list(range(500))
        for other in halves[:i]:
            assert (one == other).mean() < 0.02
            assert abs(np.corrcoef(one, other)[0, 1]) < 0.2


def test_many_steps_at_once_equal_one_by_one_across_epochs():
    at_once = batches(TOKENS, seed=4, step=20, count=50, **ARGS)
    assert (at_once == np.stack([batch(TOKENS, seed=4, step=20 + i, **ARGS) for i in range(50)])).all()


def test_an_epoch_reads_every_window_once_and_the_next_in_another_order():
    windows = batches(TOKENS, seed=0, step=0, count=200, **(ARGS | {"batch_size": 1}))[:, 0]
    first, second = windows[:100, 0], windows[100:, 0]
    assert sorted(first) == sorted(second) == list(range(0, 1000, 10))
    assert (first != second).any()
    assert (np.diff(windows) == 1).all()


def test_the_order_does_not_depend_on_the_batch_size():
    by_two = batches(TOKENS, seed=0, step=0, count=30, **(ARGS | {"batch_size": 2})).reshape(-1, 10)
    by_five = batches(TOKENS, seed=0, step=0, count=12, **(ARGS | {"batch_size": 5})).reshape(-1, 10)
    assert (by_two == by_five).all()


def test_a_corpus_below_one_window_is_refused():
    assert count_windows(10, 9) == 1
    with pytest.raises(ValueError, match="9 tokens are fewer than one window of context_length=9"):
        batch(TOKENS[:9], seed=0, step=0, **ARGS)
