"""The fused step against autograd, its kernels run by Triton's interpreter: no GPU, and every index as on one."""

import importlib
import os
from unittest import mock

import pytest
import torch

from isoflop.experiments.config import OptimSpec
from isoflop.experiments.training.optimizer import FlatAdamW
from isoflop.models.config import ModelConfig
from isoflop.models.parametrization import new_model
from isoflop.models.step import autograd, training_step
from isoflop.models.step.options import StepOptions
from isoflop.models.step.training_step import choose

SHORT = 64  # texts of more tokens have attention by torch


@pytest.fixture
def fused():
    """The room of the fused step: Triton is loaded by these tests alone."""
    pytest.importorskip("triton", reason="needs another processor: there is no Triton for this one")
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("needs a machine without a card")
    return importlib.import_module("isoflop.models.step.fused.transformer")


pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning", "ignore:invalid value:RuntimeWarning"),
]


def model_of(length, vocab=50, width=24, heads=2, layers=2, batch=3, **more):
    config = ModelConfig("transformer", vocab, length, n_layer=layers, d_model=width, n_head=heads, **more)
    model = new_model(config, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
            parameter.grad = torch.full_like(parameter, torch.nan)  # every number must be written
    return model, torch.randint(vocab, (batch, length + 1), generator=generator)


@pytest.mark.parametrize(
    ("length", "options", "low"),
    [
        (16, {}, torch.float32),
        (13, {"tied": True, "width": 20, "vocab": 300}, torch.float32),  # nothing is a power of two
        (SHORT + 6, {}, torch.float32),  # attention by torch
        (16, {}, torch.float16),  # for bfloat16, whose products the interpreter does not know
        (SHORT + 6, {"heads": 1}, torch.float16),
    ],
)
def test_loss_and_gradients_are_those_of_autograd(fused, length, options, low):
    assert fused.kernels.SHORT == SHORT
    model, tokens = model_of(length, **options)
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    step = fused.Fused(model, low)
    loss = step.loss_and_gradients(inputs, targets)
    ours = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    expected = autograd.loss_and_gradients(model, model, autograd.loss_of, inputs, targets)
    tolerance = 3e-6 if low == torch.float32 else 4e-3
    assert loss.item() == pytest.approx(expected.item(), rel=tolerance)
    for name, parameter in model.named_parameters():
        assert (ours[name] - parameter.grad).norm() <= tolerance * parameter.grad.norm(), name
    nats, hits = step.score(inputs, targets)
    theirs, their_hits = autograd.score(model, inputs, targets)
    torch.testing.assert_close(nats, theirs, rtol=tolerance, atol=tolerance)
    assert (hits == their_hits).float().mean() > 0.95


def test_lowered_weights_are_copied_at_once_where_an_optimizer_holds_them(fused):
    model, _ = model_of(8)
    apart = fused.Lowered(model.parameters(), torch.bfloat16)
    FlatAdamW(model, OptimSpec())
    together = fused.Lowered(model.parameters(), torch.bfloat16)
    assert (len(apart._copies), len(together._copies)) == (len(list(model.parameters())), 1)
    with torch.no_grad():
        model.head += 1
    together.refresh()
    for parameter in model.parameters():
        assert torch.equal(together[parameter], parameter.detach().bfloat16())
    assert fused.Lowered(model.parameters(), torch.float32)[model.head].data_ptr() == model.head.data_ptr()


def test_a_gpu_without_triton_is_told_of_once_and_takes_another_step(fused, monkeypatch):
    """The device of shapes stands for a GPU: here it is only asked what it would do."""
    training_step.triton_works.cache_clear()
    monkeypatch.setattr(fused.kernels, "swiglu", mock.Mock(side_effect=RuntimeError("no C compiler\nmore")))
    monkeypatch.setattr(torch, "linspace", lambda *a, device, **k: torch.zeros(64))
    with pytest.warns(UserWarning, match=r"Triton cannot be used \(no C compiler\): steps on the GPU take"):
        assert not training_step.triton_works()
    assert not training_step.triton_works()
    training_step.triton_works.cache_clear()
    model, _ = model_of(8)
    assert choose(model, StepOptions(fused=True)).engine in ("c", "torch")  # on a CPU nobody is asked


def small(width=24, heads=2, length=16, vocab=50, **more):
    """A model that an optimizer holds, and tokens."""
    model, tokens = model_of(length, vocab, width, heads, **more)
    optimizer = FlatAdamW(model, OptimSpec())
    optimizer.gradients.fill_(torch.nan)
    return model, tokens, optimizer


@pytest.fixture
def texts(fused):
    """The room of the step by texts."""
    return importlib.import_module("isoflop.models.step.fused.texts")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"width": 20, "length": 13, "vocab": 70, "layers": 1},
        {"width": 40, "heads": 4, "length": 33, "layers": 1, "batch": 2},
    ],
)
def test_the_step_by_texts_is_that_of_autograd(texts, options):
    model, tokens, optimizer = small(**options)
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    assert texts.Texts.fits(model)
    step = texts.Texts(model)
    step.build()
    loss, ours = step.loss_and_gradients(inputs, targets), optimizer.gradients.clone()
    expected = autograd.loss_and_gradients(model, model, autograd.loss_of, inputs, targets)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    for name, parameter in model.named_parameters():
        at = parameter.storage_offset()
        part = ours[at : at + parameter.numel()].view_as(parameter)
        assert (part - parameter.grad).norm() <= 3e-6 * parameter.grad.norm(), name
    nats, hits = step.score(inputs, targets)
    theirs, their_hits = autograd.score(model, inputs, targets)
    torch.testing.assert_close(nats, theirs, rtol=3e-6, atol=3e-6)
    assert (hits == their_hits).float().mean() > 0.95


def test_the_step_by_texts_is_for_small_models_that_an_optimizer_holds(texts):
    assert texts.Texts.fits(small()[0])
    assert not texts.Texts.fits(model_of(16)[0])  # each parameter by itself
    assert not texts.Texts.fits(small(tied=True)[0])
    assert not texts.Texts.fits(small(length=texts.LONG + 1)[0])
    assert not texts.Texts.fits(small(width=texts.WIDE + 8)[0])


@pytest.mark.parametrize("clip", [1.0, 0.0])
def test_clipping_and_the_update_in_two_kernels_are_those_of_torch(fused, clip):
    adamw = importlib.import_module("isoflop.models.step.fused.adamw")
    sizes, multipliers, decays, others = [1700, 900, 33], [1.0, 0.3, 2.0], [0.1, 0.0, 0.05], 40
    generator, count = torch.Generator().manual_seed(0), sum(sizes)
    ours = [torch.randn(count, generator=generator), torch.zeros(count), torch.zeros(count), torch.zeros(())]
    theirs = [part.clone() for part in ours]
    update = adamw.FusedAdamW(sizes, multipliers, decays, torch.device("cpu"))
    betas = {"beta1": 0.9, "beta2": 0.95, "eps": 1e-8}
    for step in range(3):
        gradients = (0.001 if step == 1 else 1.0) * torch.randn(count + others, generator=generator)
        rate = torch.tensor(0.01 * (step + 1))
        update.step(ours[0], gradients, *ours[1:], rate, clip=clip, **betas)
        if clip:
            gradients *= (clip / (gradients.norm() + 1e-6)).clamp(max=1.0)
        theirs[3] += 1
        parts = zip(*(part[:count].split(sizes) for part in (theirs[0], gradients, *theirs[1:3])), strict=True)
        for (w, g, m, v), multiplier, decay in zip(parts, multipliers, decays, strict=True):
            torch._fused_adamw_(
                [w], [g], [m], [v], [], [theirs[3]], lr=rate * multiplier, weight_decay=decay, amsgrad=False,
                maximize=False, **betas,
            )  # fmt: skip
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
