"""A batch is the same whether the host or the device gathers it."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from isoflop.experiments.data import gather
from isoflop.experiments.data.batches import batches, count_windows, window_numbers
from isoflop.experiments.data.gather import gatherer, on_device, on_host
from isoflop.experiments.training.learner import Learner
from tests.support.studies import cell_of_width

LENGTH = 9
WHICH = {"seed": 3, "step": 30, "count": 20, "batch_size": 4}  # into the second epoch


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    monkeypatch.setattr(gather, "_resident", {})


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.int32])
@pytest.mark.parametrize("way", [on_host, on_device])
def test_gathered_here_and_there_it_is_the_same(tmp_path, dtype, way):
    top = min(np.iinfo(dtype).max, 2**31 - 1)
    tokens = np.random.default_rng(0).integers(0, top, 1234, endpoint=True).astype(dtype)
    tokens[:100] = top
    tokens.tofile(tmp_path / "tokens.bin")
    mapped = np.memmap(tmp_path / "tokens.bin", dtype, "r")
    numbers = window_numbers(count_windows(len(mapped), LENGTH), **WHICH)
    gathered = way(mapped, LENGTH, "cpu")(numbers)
    assert gathered.dtype == torch.int64
    assert np.array_equal(gathered, batches(tokens, **WHICH, context_length=LENGTH))


def test_a_corpus_goes_to_a_device_once_and_makes_room_for_the_next():
    first, second = np.arange(100, dtype=np.uint16), np.arange(100, 200, dtype=np.uint16)
    on_device(first, LENGTH, "cpu")
    (there,) = gather._resident.values()
    on_device(first, 19, "cpu")  # another context length, the same tokens
    assert gather._resident["cpu"][1] is there[1]
    assert on_device(second, LENGTH, "cpu")(np.array([[0]])).tolist() == [[list(range(100, 110))]]
    assert [tokens is second for tokens, _ in gather._resident.values()] == [True]


def test_a_corpus_that_would_take_too_much_of_the_device_stays_on_the_host(monkeypatch):
    chosen = []
    monkeypatch.setattr(gather, "on_device", lambda *_: chosen.append("device"))
    monkeypatch.setattr(gather, "on_host", lambda *_: chosen.append("host"))
    tokens = np.zeros(1000, np.uint16)
    for free in (8000, 7999):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 80_000))
        gatherer(tokens, LENGTH, "cuda")
    gather._resident["cuda"] = tokens, torch.empty(0)  # what is there already takes no more
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
    expected = batches(tokens, seed=cell.seed, step=7, count=30, batch_size=8, context_length=64)
    assert np.array_equal(torch.stack(list(learner.batches(37))), expected)
    learner.rows = slice(2, 4)  # of a process among several
    assert np.array_equal(torch.stack(list(learner.batches(37))), expected[:, 2:4])
