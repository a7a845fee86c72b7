"""Experts: active and total counts, tokens reach the experts that the router names, the balance has a gradient."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from isoflop.experiments.config import OptimSpec
from isoflop.experiments.training.optimizer import build_optimizer
from isoflop.models import build_model
from isoflop.models.config import (
    ModelConfig,
    count_params,
    flops_per_token,
    hidden_shapes,
    n_active,
    n_matrices,
    n_total,
    training_flops_per_token,
)
from isoflop.models.moe import BALANCE, Experts, imbalance
from isoflop.models.parametrization import initialize
from isoflop.models.step.training_step import choose
from tests.support.sweep.studies import only, single

CONFIG = ModelConfig("transformer", 32, 12, n_layer=2, d_model=16, n_head=2, d_ff=24, experts=4, experts_per_token=2)
DENSE = replace(CONFIG, experts=0)


def experts(config: ModelConfig = CONFIG) -> Experts:
    layer = Experts(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return layer


def states(count: int = 40) -> torch.Tensor:
    return torch.randn(2, count // 2, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("activation", ["swiglu", "gelu"])
@pytest.mark.parametrize("chosen", [1, 2, 4])
def test_counts_total_and_active(activation, chosen):
    config = replace(CONFIG, activation=activation, experts_per_token=chosen)
    built = build_model(config)
    assert n_total(config) == sum(p.numel() for p in built.parameters())
    mlp = sum(p.numel() for block in built.blocks for p in block.mlp.parameters())
    assert count_params(config)["mlp"] == mlp
    expert = (3 if activation == "swiglu" else 2) * 16 * 24
    assert n_matrices(config) - n_active(config) == 2 * (4 - chosen) * expert
    assert flops_per_token(config)["blocks"] == 2 * (n_active(config) - count_params(config)["unembedding"])
    assert n_active(replace(config, experts=0)) == n_matrices(replace(config, experts=0))


def test_flops_are_what_torch_counts():
    built, tokens = initialize(build_model(CONFIG), 0), torch.randint(32, (3, 12))
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        built(tokens)
    forward = flops_per_token(CONFIG)
    counted = forward["blocks"] + forward["attention_scores_full"] + forward["unembedding"]
    assert counter.get_total_flops() == tokens.numel() * counted
    attention = 6 * 2 * 16 * 13
    assert training_flops_per_token(CONFIG) == 6 * n_active(CONFIG) + attention


def test_each_token_gets_its_best_experts_weighed_by_the_router():
    layer, x_BTD = experts(), states()
    out = layer(x_BTD).flatten(0, 1)
    up, down = layer.up.chunk(4), layer.down.chunk(4)
    for token, y in zip(x_BTD.flatten(0, 1), out, strict=True):
        p = (layer.router @ token).softmax(0)
        best = p.argsort(descending=True)[:2].tolist()
        expected = torch.zeros(16)
        for e in best:
            gate, linear = (up[e] @ token).chunk(2)
            expected += p[e] / p[best].sum() * (down[e] @ (F.silu(gate) * linear))
        torch.testing.assert_close(y, expected)


def test_a_single_expert_is_weighed_by_its_probability_so_that_the_router_learns_from_the_loss():
    layer, x_BTD = experts(replace(CONFIG, experts_per_token=1)), states()
    p_NE = F.linear(x_BTD.flatten(0, 1), layer.router).softmax(-1)
    best_N = p_NE.argmax(-1)
    outputs = []
    for up, down in zip(layer.up.chunk(4), layer.down.chunk(4), strict=True):
        gate, linear = F.linear(x_BTD.flatten(0, 1), up).chunk(2, -1)
        outputs.append(F.linear(F.silu(gate) * linear, down))
    expected_ND = p_NE.gather(-1, best_N[:, None]) * torch.stack(outputs)[best_N, torch.arange(len(best_N))]
    torch.testing.assert_close(layer(x_BTD).flatten(0, 1), expected_ND)
    balance = BALANCE * imbalance(p_NE, best_N[:, None])
    (expected,) = torch.autograd.grad(expected_ND.square().sum() + balance, layer.router)
    layer(x_BTD).square().sum().backward()
    torch.testing.assert_close(layer.router.grad, expected)
    assert expected.abs().max() > 1


def test_equal_experts_are_one_mlp():
    layer = experts()
    with torch.no_grad():
        layer.up.copy_(layer.up.chunk(4)[0].repeat(4, 1))
        layer.down.copy_(layer.down.chunk(4)[0].repeat(4, 1))
    gate, up = F.linear(states(), layer.up.chunk(4)[0]).chunk(2, -1)
    torch.testing.assert_close(layer(states()), F.linear(F.silu(gate) * up, layer.down.chunk(4)[0]))


def test_an_expert_that_nobody_asks_for_costs_nothing_and_learns_nothing():
    layer = experts(replace(CONFIG, experts_per_token=1))
    with torch.no_grad():
        layer.router.zero_()
        layer.router[2] = 1.0
    x = states().abs()  # every token prefers expert 2
    layer(x).square().sum().backward()
    used = [g.abs().sum().item() > 0 for g in layer.up.grad.chunk(4)]
    assert used == [False, False, True, False]


def test_imbalance_is_one_at_equal_shares_and_the_number_of_experts_at_one():
    even = torch.full((8, 4), 0.25)
    assert imbalance(even, torch.arange(8)[:, None] % 4).item() == pytest.approx(1)
    single_choice = F.one_hot(torch.zeros(8, dtype=torch.long), 4).float()
    assert imbalance(single_choice, torch.zeros(8, 1, dtype=torch.long)).item() == pytest.approx(4)


def test_balance_adds_its_gradient_and_not_its_value():
    layer, x = experts(), states()
    layer(x).sum().backward()
    with_balance = layer.router.grad.clone()
    p_NE = F.linear(x.flatten(0, 1), layer.router).softmax(-1)
    loss = BALANCE * imbalance(p_NE, p_NE.topk(2, -1).indices)
    (balance,) = torch.autograd.grad(loss, layer.router)
    layer.router.grad.zero_()
    up_only = layer(x.detach())
    (plain,) = torch.autograd.grad(without_balance(layer, x).sum(), layer.router)
    torch.testing.assert_close(up_only, without_balance(layer, x))
    torch.testing.assert_close(with_balance, plain + balance)
    assert balance.abs().sum() > 0


def without_balance(layer: Experts, x: torch.Tensor) -> torch.Tensor:
    """The same layer written as every expert on every token."""
    p = F.linear(x, layer.router).softmax(-1)
    kept = torch.zeros_like(p).scatter(-1, p.topk(2, -1).indices, 1.0) * p
    kept = kept / kept.sum(-1, keepdim=True)
    outputs = []
    for up, down in zip(layer.up.chunk(4), layer.down.chunk(4), strict=True):
        gate, linear = F.linear(x, up).chunk(2, -1)
        outputs.append(F.linear(F.silu(gate) * linear, down))
    return (torch.stack(outputs, -1) * kept.unsqueeze(-2)).sum(-1)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_trains_and_spreads_its_tokens(optimizer):
    built = initialize(build_model(CONFIG), 0)
    flat = build_optimizer(built, OptimSpec(name=optimizer))
    text = torch.randint(8, (8, 13), generator=torch.Generator().manual_seed(0))
    losses = []
    for _ in range(60):
        losses.append(choose(built).loss_and_gradients(text[:, :-1], text[:, 1:]).item())
        flat.step(0.02)
    assert losses[-1] < 0.5 * losses[0]


def test_shapes_are_closed_form():
    found: dict[tuple[int, int], int] = {}
    for matrix in build_model(CONFIG).hidden_matrices():
        shape = (len(matrix.weight) // matrix.parts, matrix.weight.shape[1])
        found[shape] = found.get(shape, 0) + matrix.parts
    assert found == {(rows, columns): count for count, rows, columns in hidden_shapes(CONFIG)}


def test_number_of_experts_is_heeded_by_the_run_id_and_the_idle_choice_is_not():
    base = single(flops=3e9)
    idle = replace(base, model=replace(base.model, experts_per_token=1))
    routed = replace(base, model=replace(base.model, experts=4))
    assert only(idle).run_id == only(base).run_id != only(routed).run_id
    one = replace(routed, model=replace(routed.model, experts_per_token=1))
    assert only(one).run_id != only(routed).run_id
    assert only(one).what()["gate"] == "probability", "not the run whose router learnt nothing from the loss"
    assert "gate" not in only(routed).what()
    assert "gate" not in only(replace(one, model=replace(one.model, experts=1))).what()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"experts": 2, "experts_per_token": 3}, r"model\.experts_per_token=3 is more than model\.experts=2"),
        ({"experts": -1}, r"model\.experts must be a whole number"),
        ({"experts_per_token": 0}, r"model\.experts_per_token must be a whole number of at least 1; not 0"),
    ],
)
def test_impossible_numbers_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **change)
    assert DENSE.plain
