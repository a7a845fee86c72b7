"""Held-out loss is the mean over all windows, with a standard error that covers, and evaluation changes nothing."""

import math

import pytest
import torch

from isoflop.experiments.training.evaluate import evaluate
from isoflop.models import build_model
from isoflop.models.config import ModelConfig
from isoflop.models.parametrization import initialize
from isoflop.models.step.training_step import choose

CONFIG = ModelConfig("transformer", 32, 8, 1, 8, 1)


@pytest.fixture
def model():
    net = initialize(build_model(CONFIG), 0)
    with torch.no_grad():
        net.head.normal_(generator=torch.Generator().manual_seed(1))
    return net


def windows(count):
    return torch.randint(32, (count, 9), generator=torch.Generator().manual_seed(2))


def test_equals_a_plain_loop_over_windows(model):
    data = windows(1100)  # more than one chunk, the last one short
    with torch.no_grad():
        log_p = model(data[:, :-1]).log_softmax(-1)
    nats = -log_p.gather(-1, data[:, 1:, None])[..., 0].double().mean(1)
    result = evaluate(choose(model), data)
    assert result.loss == pytest.approx(nats.mean().item(), rel=1e-5)
    assert result.loss_se == pytest.approx((nats.std() / math.sqrt(1100)).item(), rel=1e-4)
    assert result.accuracy == pytest.approx((log_p.argmax(-1) == data[:, 1:]).double().mean().item(), abs=1e-4)


def test_standard_error_covers_what_other_windows_give(model):
    whole = evaluate(choose(model), windows(4000)).loss
    parts = [evaluate(choose(model), part) for part in windows(4000).split(100)]
    z = torch.tensor([(part.loss - whole) / part.loss_se for part in parts])
    assert 0.7 < z.std() < 1.4


def test_a_uniform_model_has_the_loss_of_a_guess():
    result = evaluate(choose(initialize(build_model(CONFIG), 0)), windows(50))
    assert result.loss == pytest.approx(math.log(32), rel=1e-5)
    assert result.loss_se < 1e-6


def test_evaluation_changes_nothing(model):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first, second = evaluate(choose(model), windows(200)), evaluate(choose(model), windows(200))
    assert first == second
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
