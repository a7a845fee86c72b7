"""Every part that a configuration can name, alone and with the others: gradients and losses are those of float64."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from torch.nn import functional

from isoflop.experiments.config import OptimSpec
from isoflop.experiments.training.optimizer import build_optimizer
from isoflop.models import build_model
from isoflop.models.config import ModelConfig
from isoflop.models.language_model import LanguageModel
from isoflop.models.lstm import LSTM
from isoflop.models.parametrization import initialize
from isoflop.models.step import c_ops, hand_written, native, torch_ops
from isoflop.models.step.options import StepOptions
from isoflop.models.step.training_step import choose
from tests.support.training.models import scrambled, tokens

PLAIN = ModelConfig("transformer", 40, 12, n_layer=2, d_model=12, n_head=2, d_ff=20)
GPT2 = replace(PLAIN, norm="layernorm", activation="gelu", positions="learned")
MIXES = [
    replace(PLAIN, norm=norm, activation=activation, positions=positions, tied=tied, experts=e, experts_per_token=k)
    for norm, activation, positions, tied, (e, k) in product(
        ("rmsnorm", "layernorm"), ("swiglu", "gelu"), ("rotary", "learned"), (False, True), ((0, 2), (4, 2), (3, 1))
    )
]
ODD = [replace(GPT2, d_model=15, n_head=3), replace(MIXES[1], experts=2)]  # heads of 5; every expert asked by all
RECURRENT = [
    ModelConfig("lstm", 40, 12, n_layer=layers, d_model=width, n_head=0, tied=tied)
    for layers, width, tied in ((1, 5, False), (2, 16, True), (3, 20, False), (1, 33, False))
]
FAMILIES = {
    "plain": PLAIN, "gpt2": GPT2, "layernorm": replace(PLAIN, norm="layernorm"),
    "experts": replace(PLAIN, experts=4), "lstm": RECURRENT[2],
}  # fmt: skip
OPS = [
    pytest.param(c_ops, marks=pytest.mark.skipif(native.library() is None, reason="needs a C compiler")),
    torch_ops,
]
TOLERANCE = 1e-5  # of the largest element of each gradient; autograd's own in float32 is up to 1.3e-5 away


def by_autograd(model: LanguageModel, data: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Loss and gradients of a copy in float64; those of experts have the balance loss in them."""
    exact = build_model(model.config).double()
    exact.load_state_dict(model.state_dict())
    loss = functional.cross_entropy(exact(data[:, :-1]).flatten(0, 1), data[:, 1:].flatten())
    loss.backward()
    return loss.detach(), [p.grad for p in exact.parameters()]


@pytest.mark.parametrize("ops", OPS, ids=["c", "torch"])
@pytest.mark.parametrize("config", [*MIXES, *ODD, *RECURRENT], ids=str)
def test_gradients_are_those_of_float64(config, ops):
    """Of batches that fill whole vectors and of others, of whole windows and of shorter ones."""
    model = scrambled(config)
    parts = hand_written.stack(model, ops)
    for batch, length in ((8, 12), (3, 7), (5, 1), (1, 12)):
        data = tokens(config, batch)[:, : length + 1]
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, torch.nan)  # everything must be overwritten
        loss = parts.loss_and_gradients(data[:, :-1], data[:, 1:])
        expected_loss, expected = by_autograd(model, data)
        assert loss.item() == pytest.approx(expected_loss.item(), rel=1e-6)
        for (name, parameter), gradient in zip(model.named_parameters(), expected, strict=True):
            error = (parameter.grad - gradient).abs().max()
            assert error <= TOLERANCE * max(gradient.abs().max().item(), 1e-3), (name, batch, length)


@pytest.mark.parametrize("ops", OPS, ids=["c", "torch"])
@pytest.mark.parametrize("config", [*FAMILIES.values(), *ODD], ids=str)
@torch.no_grad()
def test_logits_and_scores_are_the_models(config, ops):
    model, data = scrambled(config), tokens(config, 3)[:, :8]
    parts, expected = hand_written.stack(model, ops), model(data[:, :-1])
    torch.testing.assert_close(parts.logits(data[:, :-1]), expected, rtol=1e-5, atol=1e-5)
    nats, hits = parts.score(data[:, :-1], data[:, 1:])
    message = functional.cross_entropy(expected.flatten(0, 1), data[:, 1:].flatten(), reduction="none")
    torch.testing.assert_close(nats.flatten(), message, rtol=1e-5, atol=1e-5)
    assert torch.equal(hits, expected.argmax(-1) == data[:, 1:])


def losses(config: ModelConfig, *, optimizer: str, dtype=torch.float32, by_hand: bool = False) -> torch.Tensor:
    """Of 75 steps at a rate of .002."""
    model = initialize(build_model(config), 0).to(dtype)
    optim = build_optimizer(model, OptimSpec(name=optimizer, learning_rate=0.002))
    step = choose(model, StepOptions(hand_written=by_hand))
    assert (step.engine == "autograd") is not by_hand
    text = (torch.arange(4000).square() % 37).view(100, 8, 5).repeat(1, 1, 3)[..., :13]
    found = []
    for batch in text[:75]:
        found.append(step.loss_and_gradients(batch[:, :-1], batch[:, 1:]).double())
        optim.step(0.002)
    return torch.stack(found)


@pytest.mark.slow
@pytest.mark.skipif(native.library() is None, reason="needs a C compiler")
@pytest.mark.parametrize(  # no optimizer asks who made its gradients
    ("family", "optimizer"), [*((family, "adamw") for family in FAMILIES), ("plain", "muon"), ("experts", "muon")]
)
def test_losses_of_75_steps_are_no_further_from_float64_than_plain_float32(family, optimizer):
    """A gradient that is off by under 1e-4 may pass here: it fails in `test_gradients_are_those_of_float64`."""
    exact = losses(FAMILIES[family], optimizer=optimizer, dtype=torch.float64)
    plain, ours = (losses(FAMILIES[family], optimizer=optimizer, by_hand=by_hand) for by_hand in (False, True))
    off, plain_off = ((found - exact).abs().max().item() for found in (ours, plain))
    assert exact[-1] < exact[0] - 0.1  # it learned something
    assert 0 < off <= max(plain_off, 1e-6)


def test_a_class_that_is_not_ours_has_no_step_by_hand():
    class Other(LSTM):
        pass

    assert choose(Other(RECURRENT[0])).engine == "autograd"
    assert choose(LSTM(RECURRENT[0])).engine in ("c", "autograd")  # autograd without a compiler
