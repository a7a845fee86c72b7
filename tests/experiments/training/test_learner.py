"""A learner reads the batches of its seed, size and step."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from isoflop.experiments.data.batches import batches
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
