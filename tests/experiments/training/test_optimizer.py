"""Muon: updates are orthogonal at every width, its FLOPs are counted, and it resumes and trains like AdamW does."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from isoflop.experiments.config import OptimSpec
from isoflop.experiments.study.optimizers import OPTIMIZERS, optimizer_flops
from isoflop.experiments.training.optimizer import KINDS, FlatAdamW, FlatMuon, build_optimizer, orthogonalize
from isoflop.models import build_model
from isoflop.models.config import ModelConfig, hidden_shapes, training_flops_per_token
from isoflop.models.parametrization import initialize
from isoflop.models.step.training_step import choose
from tests.support.sweep.studies import only, single

SHAPES = {
    "transformer": ModelConfig("transformer", 32, 12, n_layer=2, d_model=16, n_head=2),
    "lstm": ModelConfig("lstm", 32, 12, n_layer=2, d_model=16, n_head=0),
}
MUON = OptimSpec(name="muon", clip_norm=0.0)


def trained(family: str, optim: OptimSpec = MUON, steps: int = 1) -> tuple[torch.nn.Module, FlatMuon, dict]:
    """Model, optimiser and the weights before `steps` steps on one batch."""
    model = initialize(build_model(SHAPES[family]), 0)
    optimizer = build_optimizer(model, optim)
    before = {name: p.clone() for name, p in model.named_parameters()}
    run(model, optimizer, steps)
    return model, optimizer, before


def run(model: torch.nn.Module, optimizer: FlatMuon, steps: int) -> list[float]:
    text = torch.randint(32, (4, 13), generator=torch.Generator().manual_seed(1)) // 3
    losses = []
    for _ in range(steps):
        losses.append(choose(model).loss_and_gradients(text[:, :-1], text[:, 1:]).item())
        optimizer.step(0.02)
    return losses


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 24, 8), (2, 8, 24)])
def test_singular_values_end_near_one_and_the_directions_stay(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    found = orthogonalize(matrices)
    assert torch.linalg.svdvals(found).min() > 0.5
    assert torch.linalg.svdvals(found).max() < 1.3
    aligned = left.mT @ found @ right.mT
    torch.testing.assert_close(aligned, torch.diag_embed(aligned.diagonal(dim1=-2, dim2=-1)), atol=1e-9, rtol=0)


@pytest.mark.parametrize("family", SHAPES)
def test_first_update_is_the_orthogonal_gradient_scaled_by_the_shape(family):
    model = initialize(build_model(SHAPES[family]), 0)
    optimizer = build_optimizer(model, MUON)
    with torch.no_grad():  # behind a head of zeros there is no gradient
        model.head.copy_(torch.randn(model.head.shape, generator=torch.Generator().manual_seed(2)))
    before = [matrix.weight.clone() for matrix in model.hidden_matrices()]
    run(model, optimizer, 1)
    for matrix, old in zip(model.hidden_matrices(), before, strict=True):
        change, gradient = ((w.unflatten(0, (matrix.parts, -1))) for w in (matrix.weight - old, matrix.weight.grad))
        fan_out, fan_in = change.shape[1:]
        expected = -0.02 * (fan_out / fan_in) ** 0.5 * orthogonalize(gradient)
        torch.testing.assert_close(change, expected, atol=2e-6, rtol=1e-3)


@pytest.mark.parametrize("family", SHAPES)
def test_everything_else_moves_as_under_adamw(family):
    first, _, _ = trained(family)
    second = initialize(build_model(SHAPES[family]), 0)
    run(second, FlatAdamW(second, replace(MUON, name="adamw")), 1)
    matrices = {id(m.weight) for m in first.hidden_matrices()}
    for (name, a), b in zip(first.named_parameters(), second.parameters(), strict=True):
        if id(a) not in matrices:
            torch.testing.assert_close(a, b, msg=name)


@pytest.mark.parametrize("family", SHAPES)
def test_buffer_holds_every_parameter_once(family):
    model, optimizer, _ = trained(family)
    assert optimizer.weights.numel() == sum(p.numel() for p in model.parameters())
    storage = optimizer.weights.untyped_storage().data_ptr()
    assert {p.untyped_storage().data_ptr() for p in model.parameters()} == {storage}
    stacked = sum(weights.numel() for weights, _, _ in optimizer.stacks)
    assert stacked == sum(m.weight.numel() for m in model.hidden_matrices()) == optimizer.momentum.numel()


@pytest.mark.parametrize("family", SHAPES)
def test_state_restores_to_the_bit(family):
    model, optimizer, _ = trained(family, replace(MUON, weight_decay=0.1), steps=3)
    state = {name: value.clone() for name, value in optimizer.state().items()}
    losses = run(model, optimizer, 3)
    optimizer.load(state)
    assert run(model, optimizer, 3) == losses


def test_decay_shrinks_matrices_at_the_rate_alone():
    with_decay, _, before = trained("transformer", replace(MUON, weight_decay=0.5))
    without, _, _ = trained("transformer")
    for a, b in zip(with_decay.hidden_matrices(), without.hidden_matrices(), strict=True):
        names = {id(p): name for name, p in with_decay.named_parameters()}
        torch.testing.assert_close(b.weight - a.weight, 0.02 * 0.5 * before[names[id(a.weight)]], atol=1e-7, rtol=1e-4)


@pytest.mark.parametrize("family", SHAPES)
def test_shapes_in_closed_form_are_those_of_the_model(family):
    counted: dict[tuple[int, int], int] = {}
    for matrix in build_model(SHAPES[family]).hidden_matrices():
        shape = (len(matrix.weight) // matrix.parts, matrix.weight.shape[1])
        counted[shape] = counted.get(shape, 0) + matrix.parts
    reported: dict[tuple[int, int], int] = {}
    for count, *shape in hidden_shapes(SHAPES[family]):
        reported[tuple(shape)] = reported.get(tuple(shape), 0) + count
    assert counted == reported


@pytest.mark.parametrize("family", SHAPES)
def test_flops_are_what_torch_counts(family):
    _, optimizer, _ = trained(family)
    with FlopCounterMode(display=False) as counter:
        optimizer.step(0.02)
    assert counter.get_total_flops() == optimizer_flops(SHAPES[family], MUON) > 0
    assert optimizer_flops(SHAPES[family], OptimSpec()) == 0


def test_a_budget_pays_for_the_iteration():
    config = single(flops=3e9)
    adamw, muon = only(config), only(replace(config, optim=replace(config.optim, name="muon")))
    assert muon.training_flops == pytest.approx(adamw.training_flops, rel=0.02)
    extra = optimizer_flops(muon.model, muon.optim) / (muon.batch_tokens * training_flops_per_token(muon.model))
    assert adamw.steps / muon.steps == pytest.approx(1 + extra, rel=0.02)
    assert extra > 0.05


def test_learns():
    model, optimizer, _ = trained("transformer", steps=0)
    losses = run(model, optimizer, 40)
    assert losses[-1] < losses[0] / 3


def test_every_optimizer_has_facts_and_a_class():
    assert list(KINDS) == list(OPTIMIZERS)


@pytest.mark.parametrize(("norm", "clipped"), [(0.01, 0.01), (0.49, 0.49), (0.51, 0.5), (40.0, 0.5)])
@pytest.mark.parametrize("name", KINDS)
def test_gradients_are_made_smaller_where_their_norm_is_larger_and_never_larger(name, norm, clipped):
    optimizer = build_optimizer(initialize(build_model(SHAPES["transformer"]), 0), OptimSpec(name=name, clip_norm=0.5))
    made = torch.randn(optimizer.gradients.shape, generator=torch.Generator().manual_seed(0))
    made *= norm / made.norm()
    optimizer.gradients.copy_(made)
    optimizer.clip_gradients()
    torch.testing.assert_close(optimizer.gradients, made * (clipped / norm), rtol=1e-4, atol=0)


class SignDescent(FlatAdamW):
    """An optimizer that a user adds: by the sign of the gradient."""

    name = "sign"

    def update(self, learning_rate):
        self.weights -= learning_rate * self.gradients.sign()


@pytest.mark.parametrize(("kind", "kernels"), [(FlatAdamW, True), (FlatMuon, False), (SignDescent, False)])
def test_the_kernels_of_adamw_take_the_steps_of_adamw_alone(kind, kernels, monkeypatch):
    monkeypatch.setitem(KINDS, kind.name, kind)
    steps = []
    fused = SimpleNamespace(step=lambda *args, **kwargs: steps.append("kernels"))
    monkeypatch.setattr(FlatAdamW, "_fused", lambda self, sizes: fused)  # as on a GPU
    monkeypatch.setattr(kind, "update", lambda self, learning_rate: steps.append("update"))
    model = initialize(build_model(SHAPES["transformer"]), 0)
    build_optimizer(model, OptimSpec(name=kind.name)).step(torch.tensor(0.02))
    assert steps == (["kernels"] if kernels else ["update"])
