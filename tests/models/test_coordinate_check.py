"""Coordinate check (Yang et al. 2203.03466, appendix D): what a few steps change must not grow or shrink with width."""

import math
from functools import cache

import numpy as np
import pytest
import torch

from isoflop.experiments.config import OptimSpec
from isoflop.experiments.training.optimizer import FlatAdamW
from isoflop.models import build_model
from isoflop.models.config import ModelConfig
from isoflop.models.parametrization import initialize
from isoflop.models.step.training_step import choose

pytestmark = pytest.mark.slow

WIDTHS = (16, 32, 64, 128)
DEPTHS = (2, 4, 8, 16)
STEPS, VOCABULARY, LENGTH = 5, 64, 32


def activations(model: torch.nn.Module, inputs: torch.Tensor) -> dict[str, torch.Tensor]:
    """The residual stream after the last block (the last layer's state of an LSTM), and the logits."""
    kept = {}
    last = model.layers if model.config.family == "lstm" else model.blocks[-1]
    handle = last.register_forward_hook(
        lambda _, __, out: kept.update(stream=out[0] if isinstance(out, tuple) else out)
    )
    with torch.no_grad():
        kept["logits"] = model(inputs)
    handle.remove()
    return kept


@cache
def change(family: str, parametrization: str, width: int, depth: int = 2, learning_rate: float = 0.02) -> dict:
    """Root mean square change of each activation over STEPS steps of Adam on one batch."""
    config = ModelConfig(family, VOCABULARY, LENGTH, depth, width, max(1, width // 8))
    optim = OptimSpec(parametrization=parametrization, learning_rate=learning_rate)
    model = initialize(build_model(config), 0, parametrization=parametrization)
    optimizer = FlatAdamW(model, optim)
    uniform = torch.rand(8, LENGTH + 1, generator=torch.Generator().manual_seed(1))
    text = (VOCABULARY * uniform**3).long()  # some tokens are common: there is something to learn in a few steps
    before = activations(model, text[:, :-1])
    for _ in range(STEPS):
        choose(model).loss_and_gradients(text[:, :-1], text[:, 1:])
        optimizer.step(learning_rate)
    after = activations(model, text[:, :-1])
    return {name: (after[name] - before[name]).square().mean().sqrt().item() for name in before}


def slopes(axis: tuple[int, ...], at) -> dict[str, float]:
    """d ln(change) / d ln(axis) of each activation."""
    table = [at(value) for value in axis]
    return {name: float(np.polyfit(np.log(axis), [math.log(row[name]) for row in table], 1)[0]) for name in table[0]}


@pytest.mark.parametrize("family", ["transformer", "lstm"])
def test_change_is_flat_in_width_under_mup(family):
    found = slopes(WIDTHS, lambda width: change(family, "mup", width))
    assert all(abs(slope) < 0.15 for slope in found.values()), found


@pytest.mark.parametrize("family", ["transformer", "lstm"])
def test_change_grows_with_width_under_the_standard_rule(family):
    found = slopes(WIDTHS, lambda width: change(family, "standard", width))
    assert found["logits"] > 0.4, found


def test_change_is_flat_in_depth_under_completep_alone():
    complete = slopes(DEPTHS, lambda depth: change("transformer", "completep", 32, depth))
    mup = slopes(DEPTHS, lambda depth: change("transformer", "mup", 32, depth))
    assert abs(complete["stream"]) < 0.2 < 0.4 < mup["stream"], (complete, mup)
