"""Batches are a function of (seed, size, step), the same whether the host or the device gathers them."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from isoflop.experiments.data import batches as data
from isoflop.experiments.data.batches import batch, batches, count_windows, gatherer, on_device, on_host, window_numbers
from isoflop.experiments.training.learner import Learner
from tests.support.sweep.studies import cell_of_width

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


LENGTH = 9
WHICH = {"seed": 3, "size": SIZE, "step": 30, "count": 20, "batch_size": 4}  # into the second epoch


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    monkeypatch.setattr(data, "_resident", {})


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.int32])
@pytest.mark.parametrize("backend", [on_host, on_device])
def test_host_and_device_gather_the_same_tokens(tmp_path, dtype, backend):
    top = min(np.iinfo(dtype).max, 2**31 - 1)
    tokens = np.random.default_rng(0).integers(0, top, 1234, endpoint=True).astype(dtype)
    tokens[:100] = top
    tokens.tofile(tmp_path / "tokens.bin")
    mapped = np.memmap(tmp_path / "tokens.bin", dtype, "r")
    numbers = window_numbers(count_windows(len(mapped), LENGTH), **WHICH)
    gathered = backend(mapped, LENGTH, "cpu")(numbers)
    assert gathered.dtype == torch.int64
    assert np.array_equal(gathered, batches(tokens, **WHICH, context_length=LENGTH))


def test_a_corpus_goes_to_a_device_once_and_makes_room_for_the_next():
    first, second = np.arange(100, dtype=np.uint16), np.arange(100, 200, dtype=np.uint16)
    on_device(first, LENGTH, "cpu")
    (there,) = data._resident.values()
    on_device(first, 19, "cpu")  # another context length, the same tokens
    assert data._resident["cpu"][1] is there[1]
    assert on_device(second, LENGTH, "cpu")(np.array([[0]])).tolist() == [[list(range(100, 110))]]
    assert [tokens is second for tokens, _ in data._resident.values()] == [True]


def test_a_corpus_that_would_take_too_much_of_the_device_stays_on_the_host(monkeypatch):
    chosen = []
    monkeypatch.setattr(data, "on_device", lambda *_: chosen.append("device"))
    monkeypatch.setattr(data, "on_host", lambda *_: chosen.append("host"))
    tokens = np.zeros(1000, np.uint16)
    for free in (8000, 7999):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 80_000))
        gatherer(tokens, LENGTH, "cuda")
    data._resident["cuda"] = tokens, torch.empty(0)  # what is there already takes no more
    gatherer(tokens, LENGTH, "cuda")
    gatherer(tokens, LENGTH, "cpu")
    assert chosen == ["device", "host", "device", "host"]


@pytest.mark.parametrize("at_once", [1, 10**9])
def test_a_learner_reads_the_batches_of_its_seed_and_step(monkeypatch, at_once):
    monkeypatch.setattr("isoflop.experiments.training.learner.AT_ONCE", at_once)
    cell = cell_of_width(16)
    tokens = np.random.default_rng(0).integers(0, 256, 10_000).astype(np.uint16)
    learner = Learner(cell, SimpleNamespace(train=tokens, eval_windows=tokens[:65][None]), "cpu")
    learner.step = 7
    size = (cell.model.n_layer, cell.model.d_model)
    expected = batches(tokens, seed=cell.seed, size=size, step=7, count=30, batch_size=8, context_length=64)
    assert np.array_equal(torch.stack(list(learner.batches(37))), expected)
    monkeypatch.setattr(Learner, "rows", slice(2, 4))  # of a process among several
    assert np.array_equal(torch.stack(list(learner.batches(37))), expected[:, 2:4])
