"""The Transformer counts what it computes, looks back alone, and has the gradients that autograd finds."""

import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from torch.utils.flop_counter import FlopCounterMode

from isoflop.models import build_model
from isoflop.models.config import ModelConfig, count_params, flops_per_token
from isoflop.models.parametrization import initialize
from isoflop.models.step.training_step import choose
from isoflop.models.transformer import rms_norm, rotary_tables, rotate
from tests.support.training.models import scrambled, tokens

SHAPES = [
    ModelConfig("transformer", 256, 64, 2, 8, 1),
    ModelConfig("transformer", 256, 64, 3, 48, 6),
    ModelConfig("transformer", 64, 32, 1, 24, 2, d_ff=20),
    ModelConfig("transformer", 256, 16, 4, 32, 4, tied=True),
]


@pytest.mark.parametrize("config", SHAPES)
def test_parameter_groups_sum_to_numel(config):
    model = build_model(config)
    assert sum(count_params(config).values()) == sum(p.numel() for p in model.parameters())
    assert count_params(config)["norm"] == sum(p.numel() for n, p in model.named_parameters() if n.endswith("norm"))


@pytest.mark.slow
@pytest.mark.parametrize("config", SHAPES)
def test_flops_equal_the_counter_on_meta(config):
    batch = 3
    with torch.device("meta"):
        model = build_model(config)
        data = torch.zeros(batch, config.context_length, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        logits = model(data)
    forward = flops_per_token(config)
    expected = forward["blocks"] + forward["attention_scores_full"] + forward["unembedding"]
    assert counter.get_total_flops() == expected * data.numel()
    with FlopCounterMode(display=False) as counter:
        model(data).flatten(0, 1).sum().backward()
    assert counter.get_total_flops() == 3 * expected * data.numel()
    assert logits.shape == (batch, config.context_length, config.vocab_size)


@pytest.mark.parametrize("position", [0, 7, 15])
def test_causality_by_gradient(position):
    model = scrambled(SHAPES[3])
    seen = []
    original = F.embedding

    def watched(ids, weight):
        seen.append(original(ids, weight).detach().requires_grad_())
        return seen[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("isoflop.models.transformer.F.embedding", watched)
        model(tokens(SHAPES[3])[:, :-1])[:, position].square().sum().backward()
    influence = seen[0].grad.abs().sum((0, 2))
    assert (influence[: position + 1] > 0).all()
    assert (influence[position + 1 :] == 0).all()


@pytest.mark.parametrize("config", SHAPES)
def test_first_loss_is_that_of_a_uniform_guess(config):
    model = initialize(build_model(config), 0)
    data = tokens(config, batch=16)
    loss = F.cross_entropy(model(data[:, :-1]).flatten(0, 1), data[:, 1:].flatten())
    assert loss.item() == pytest.approx(math.log(config.vocab_size), rel=0.02)


@pytest.mark.parametrize("config", SHAPES)
def test_gradients_by_hand_equal_autograd(config):
    model, data = scrambled(config), tokens(config)
    expected_loss = F.cross_entropy(model(data[:, :-1]).flatten(0, 1), data[:, 1:].flatten())
    expected = torch.autograd.grad(expected_loss, list(model.parameters()))
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, torch.nan)  # everything must be overwritten
    loss = choose(model).loss_and_gradients(data[:, :-1], data[:, 1:])
    assert loss.item() == pytest.approx(expected_loss.item(), rel=1e-6)
    for (name, parameter), gradient in zip(model.named_parameters(), expected, strict=True):
        error = (parameter.grad - gradient).abs().max() / gradient.abs().max()
        assert error < 2e-5, name


@pytest.mark.parametrize("config", SHAPES)
def test_logits_by_hand_equal_the_module(config):
    model, data = scrambled(config), tokens(config)[:, :-1]
    torch.testing.assert_close(choose(model).logits(data), model(data), rtol=1e-4, atol=2e-5)


def test_gradients_by_hand_on_a_shorter_window():
    config = SHAPES[0]
    model, data = scrambled(config), tokens(config)[:, :11]
    expected = F.cross_entropy(model(data[:, :-1]).flatten(0, 1), data[:, 1:].flatten())
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    assert choose(model).loss_and_gradients(data[:, :-1], data[:, 1:]).item() == pytest.approx(
        expected.item(), rel=1e-6
    )


@pytest.mark.slow
def test_overfits_one_batch():
    config = ModelConfig("transformer", 256, 32, 2, 32, 4)
    model, data = initialize(build_model(config), 0), tokens(config, batch=2)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(150):
        loss = choose(model).loss_and_gradients(data[:, :-1], data[:, 1:])
        optimizer.step()
    assert loss < 0.05


def test_rotation_keeps_lengths_and_depends_on_the_distance_alone():
    cos, sin = rotary_tables(20, 8)
    q, k = torch.randn(2, 1, 8, generator=torch.Generator().manual_seed(0))
    scores = rotate(q.expand(20, 1, 8), cos, sin)[:, 0] @ rotate(k.expand(20, 1, 8), cos, sin)[:, 0].T
    for offset in range(-5, 6):
        diagonal = scores.diagonal(offset)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(rotate(q[None], cos[7:8], sin[7:8]).norm(), q.norm())


def test_rotation_is_the_two_halves_of_a_head():
    cos, sin = rotary_tables(4, 8)
    x = torch.arange(8.0).view(1, 1, 8)
    angle = 3 * 10_000.0 ** (-torch.arange(0, 8, 2) / 8)
    first, second = x[..., :4], x[..., 4:]
    expected = torch.cat([first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()], -1)
    torch.testing.assert_close(rotate(x, cos[3:], sin[3:]), expected)


def test_norm_is_root_mean_square():
    x, gain = torch.randn(5, 6), torch.randn(6)
    torch.testing.assert_close(rms_norm(x, gain), x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * gain)


def test_a_window_longer_than_the_context_is_refused():
    model = initialize(build_model(SHAPES[0]), 0)
    with pytest.raises(ValueError, match="65 tokens exceed the model's context_length=64"):
        model(torch.zeros(1, 65, dtype=torch.long))
