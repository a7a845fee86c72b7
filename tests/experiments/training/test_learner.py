"""A learner reads the batches of its seed, size and step."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from isoflop.experiments.data.batches import Mixture, batches
from isoflop.experiments.training.learner import Learner
from tests.support.sweep.studies import cell_of_width


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


def test_processes_that_share_a_batch_of_a_mixture_read_it_once(monkeypatch):
    cell = cell_of_width(16)
    cell = replace(cell, data=replace(cell.data, mixture={"a": 0.5, "b": 0.5}))
    tokens = np.random.default_rng(0).integers(0, 256, 100 * 65).astype(np.uint16)
    corpus = SimpleNamespace(
        train=tokens, eval_windows=tokens[:130].reshape(2, 65), mixture=lambda data: Mixture((0.5, 0.5), (30, 70))
    )
    whole = torch.stack(list(Learner(cell, corpus, "cpu").batches(20)))
    halves = []
    for rows in (slice(0, 4), slice(4, 8)):
        monkeypatch.setattr(Learner, "rows", rows)
        halves.append(torch.stack(list(Learner(cell, corpus, "cpu").batches(20))))
    assert torch.equal(torch.cat(halves, dim=1), whole)
    assert not np.array_equal(whole, batches(tokens, seed=cell.seed, size=(cell.model.n_layer, cell.model.d_model),
                                             step=0, count=20, batch_size=8, context_length=64))  # fmt: skip
