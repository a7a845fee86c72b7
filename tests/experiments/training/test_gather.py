"""The device gathers the tokens that the host does, and holds one corpus."""

import numpy as np
import pytest
import torch

from isoflop.experiments.data.batches import batches, count_windows, window_numbers
from isoflop.experiments.training import gather
from isoflop.experiments.training.gather import gatherer, on_device, on_host

LENGTH = 9
SIZE = (2, 16)  # layers and width
WHICH = {"seed": 3, "size": SIZE, "step": 30, "count": 20, "batch_size": 4}  # into the second epoch


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    monkeypatch.setattr(gather, "_resident", {})


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
    assert chosen == ["device", "host", "device"]
