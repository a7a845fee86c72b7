"""The LSTM language model: exact counts, no look ahead, trained on the same path as every other model."""

import math
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from isoflop.experiments.config import OptimSpec
from isoflop.experiments.training.optimizer import FlatAdamW
from isoflop.models import build_model
from isoflop.models.config import (
    ModelConfig,
    count_params,
    flops_per_token,
    n_matrices,
    n_total,
    training_flops_per_token,
)
from isoflop.models.lstm import LSTM
from isoflop.models.parametrization import initialize, parameter_groups
from isoflop.models.step.training_step import choose

CONFIG = ModelConfig("lstm", vocab_size=32, context_length=12, n_layer=2, d_model=8, n_head=0)


def model(config: ModelConfig = CONFIG, seed: int = 0) -> LSTM:
    return initialize(build_model(config), seed)


def trainable(config: ModelConfig = CONFIG, **optim) -> tuple[LSTM, FlatAdamW]:
    """A model whose head is no longer zero, with its optimiser."""
    built = model(config)
    optimizer = FlatAdamW(built, OptimSpec(**optim))
    with torch.no_grad():
        built.head.copy_(torch.randn(built.head.shape, generator=torch.Generator().manual_seed(1)))
    return built, optimizer


def tokens(batch: int = 3, length: int = 12) -> torch.Tensor:
    return torch.randint(32, (batch, length + 1), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("n_layer", [1, 3])
def test_counts_are_numel_by_group(tied, n_layer):
    config = replace(CONFIG, tied=tied, n_layer=n_layer)
    built, counts = build_model(config), count_params(config)
    by_group = dict.fromkeys(counts, 0)
    for name, parameter in built.named_parameters():
        vector = "norm" if name == "norm" or "bias" in name else None
        matrix = {"embedding": "embedding", "head": "unembedding"}.get(name, "recurrent")
        by_group[vector or matrix] += parameter.numel()
    if tied:  # one matrix, named embedding by torch, counted where it multiplies
        by_group["embedding"], by_group["unembedding"] = 0, by_group["embedding"]
    assert counts == by_group
    assert n_total(config) == sum(p.numel() for p in built.parameters())


@pytest.mark.slow
def test_flops_are_what_torch_counts_on_meta():
    with torch.device("meta"):
        built, inputs = build_model(CONFIG), torch.zeros(3, 12, dtype=torch.long)
    with FlopCounterMode(display=False) as forward:
        built(inputs)
    counted = flops_per_token(CONFIG)
    assert forward.get_total_flops() == inputs.numel() * (counted["blocks"] + counted["unembedding"])
    assert counted["attention_scores"] == counted["attention_scores_full"] == 0
    with FlopCounterMode(display=False) as both:
        built(inputs).sum().backward()
    into_first_state = 2 * CONFIG.n_layer * 3 * 4 * CONFIG.d_model**2  # the zero state needs no gradient
    assert both.get_total_flops() == inputs.numel() * training_flops_per_token(CONFIG) - into_first_state
    assert training_flops_per_token(CONFIG) == 6 * n_matrices(CONFIG)


def test_has_neither_heads_nor_mlp():
    assert (CONFIG.n_head, CONFIG.d_ff) == (0, 0)
    assert replace(CONFIG, n_head=4, d_ff=99) == CONFIG


@pytest.mark.parametrize("position", [0, 5, 11])
def test_output_depends_on_the_past_alone(position):
    built, _ = trainable()
    embedded = torch.nn.functional.embedding(tokens()[:, :-1], built.embedding).detach().requires_grad_()
    built.layers(embedded)[0][:, position].square().sum().backward()
    size = embedded.grad.abs().sum((0, 2))
    assert (size[: position + 1] > 0).all()
    assert (size[position + 1 :] == 0).all()


@pytest.mark.parametrize("tied", [False, True])
def test_first_loss_is_that_of_a_uniform_guess(tied):
    built = model(replace(CONFIG, tied=tied))
    FlatAdamW(built, OptimSpec())
    loss = choose(built).loss_and_gradients(tokens()[:, :-1], tokens()[:, 1:])
    assert loss.item() == pytest.approx(math.log(32), rel=0.02 if tied else 1e-6)


def test_forget_gates_start_open_and_other_biases_at_zero():
    built = model()
    for layer in range(CONFIG.n_layer):
        assert getattr(built.layers, f"bias_hh_l{layer}").eq(0).all()
        gates = getattr(built.layers, f"bias_ih_l{layer}").chunk(4)
        assert [gate.unique().tolist() for gate in gates] == [[0.0], [1.0], [0.0], [0.0]]


def test_initialisation_is_the_seeds():
    same, other = model(seed=3).state_dict(), model(seed=4).state_dict()
    for name, value in model(seed=3).state_dict().items():
        assert torch.equal(value, same[name])
    assert not torch.equal(same["layers.weight_hh_l1"], other["layers.weight_hh_l1"])


@pytest.mark.parametrize("tied", [False, True])
def test_gradients_in_the_flat_buffer_are_those_of_torch(tied):
    built, optimizer = trainable(replace(CONFIG, tied=tied))
    inputs, targets = tokens()[:, :-1], tokens()[:, 1:]
    optimizer.gradients.fill_(7.0)  # left over from a step before
    choose(built).loss_and_gradients(inputs, targets)
    loss = torch.nn.functional.cross_entropy(built(inputs).flatten(0, 1), targets.flatten())
    expected = torch.autograd.grad(loss, list(built.parameters()))
    for (name, parameter), gradient in zip(built.named_parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, msg=name)
        assert parameter.grad.untyped_storage().data_ptr() == optimizer.gradients.untyped_storage().data_ptr()


def test_learns_to_repeat_what_it_saw():
    built, optimizer = trainable(learning_rate=0.02, base_width=8)
    text = torch.arange(13).remainder(4).repeat(4, 1)
    losses = []
    for _ in range(60):
        losses.append(choose(built).loss_and_gradients(text[:, :-1], text[:, 1:]).item())
        optimizer.step(0.02)
    assert losses[-1] < 0.1 < losses[0]


def test_hidden_rate_falls_with_width_and_vectors_keep_theirs():
    built = model()
    rates = {
        id(p): group.lr_multiplier for group in parameter_groups(built, "mup", base_width=4) for p in group.parameters
    }
    for name, parameter in built.named_parameters():
        assert rates[id(parameter)] == (1.0 if name in ("embedding", "norm") or "bias" in name else 0.5), name


def test_refuses_a_longer_text_than_its_context():
    with pytest.raises(ValueError, match="13 tokens exceed the model's context_length=12"):
        model()(tokens())
