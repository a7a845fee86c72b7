"""The functions in C compute what those in torch do, and their absence is no error."""

import math
import platform

import pytest
import torch

from isoflop.experiments.data.corpus import prepare
from isoflop.experiments.training.learner import Learner
from isoflop.models.config import ModelConfig
from isoflop.models.step import c_ops, native, torch_ops, training_step
from isoflop.models.step.options import StepOptions
from isoflop.models.step.training_step import choose, ops_for
from tests.support.training.cells import DATA, make
from tests.support.training.models import scrambled, tokens

SHAPES = [(2, 16, 2, 8), (1, 64, 1, 6), (3, 19, 2, 10), (2, 5, 3, 4), (1, 1, 1, 2), (2, 33, 1, 14)]  # B, T, H, K
UNROTATED = [*SHAPES, (2, 19, 3, 5), (1, 16, 1, 1)]
needs_compiler = pytest.mark.skipif(native.library() is None, reason="needs a C compiler for this processor")


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def same(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=2e-5)


@needs_compiler
@pytest.mark.parametrize("rotary", [True, False])
@pytest.mark.parametrize(("batch", "length", "heads", "width"), UNROTATED)
def test_attention(batch, length, heads, width, rotary):
    if rotary and width % 2:
        return
    n, d = batch * length, heads * width
    qkv, scale, dy = (1 + rotary) * randn(3 * d, n), randn(n, seed=1).abs(), randn(d, n, seed=2)
    results = []
    for ops in (c_ops, torch_ops):
        y, backward = ops.attend(qkv.clone(), scale, heads, (batch, length), rotary=rotary, keep=True)
        results.append((y, backward(dy.clone())))
    same(*results)
    forgetful, _ = c_ops.attend(qkv.clone(), scale, heads, (batch, length), rotary=rotary, keep=False)
    assert torch.equal(forgetful, results[0][0])


@needs_compiler
@pytest.mark.parametrize("n", [1, 8, 21, 64])
def test_swiglu(n):
    gate_up, scale, dhidden = 3 * randn(10, n), randn(n, seed=1).abs(), randn(5, n, seed=2)
    results = []
    for ops in (c_ops, torch_ops):
        hidden, backward = ops.swiglu(gate_up.clone(), scale, keep=True)
        results.append((hidden, backward(dhidden.clone())))
    same(*results)
    same(c_ops.swiglu(gate_up.clone(), scale, keep=False)[0], results[1][0])


@needs_compiler
@pytest.mark.parametrize("n", [1, 8, 21, 64])
def test_gelu(n):
    x, scale, dhidden = 3 * randn(5, n), randn(n, seed=1).abs(), randn(5, n, seed=2)
    results = []
    for ops in (c_ops, torch_ops):
        hidden, backward = ops.gelu(x.clone(), scale, keep=True)
        results.append((hidden, backward(dhidden.clone())))
    same(*results)
    same(c_ops.gelu(x.clone(), scale, keep=False)[0], results[1][0])


@needs_compiler
@pytest.mark.parametrize("n", [1, 8, 21, 64])
def test_norm_of_both_kinds(n):
    """Far from zero too, where LayerNorm subtracts a large mean."""
    dh, residual = randn(10, n, seed=1), randn(10, n, seed=2)
    for offset, bias in ((0, None), (0, randn(10, seed=4)), (100, randn(10, seed=4))):
        x, gain, results = randn(10, n) + offset, randn(10, seed=3), []
        for ops in (c_ops, torch_ops):
            for added in (residual, None):
                h, backward = ops.norm(x, gain, bias)
                vectors = [torch.full((10,), math.nan), torch.zeros(10)]  # the second is left alone without a bias
                dx = backward(dh.clone(), added, vectors[0], None if bias is None else vectors[1])
                results.append((h, dx, *vectors))
        for ours, theirs in zip(results[:2], results[2:], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=2e-5 * max(1, offset))


@needs_compiler
@pytest.mark.parametrize("vocab", [3, 8, 50, 256])
def test_cross_entropy_and_score(vocab):
    logits, scale = 5 * randn(12, vocab), randn(12, seed=1).abs()
    targets = torch.arange(12) % vocab
    same(*(ops.cross_entropy(logits.clone(), scale, targets) for ops in (c_ops, torch_ops)))
    (nats, hits), (expected, expected_hits) = (ops.score(logits.clone(), scale, targets) for ops in (c_ops, torch_ops))
    same(nats, expected)
    assert torch.equal(hits, expected_hits)


@needs_compiler
def test_norm_fold_and_embedding():
    x, g, residual = randn(10, 21), randn(10, 21, seed=1), randn(10, 21, seed=2)
    same(c_ops.norm_scale(x), torch_ops.norm_scale(x))
    scale = torch_ops.norm_scale(x)
    for added in (residual, None):
        same(*(ops.norm_backward(g.clone(), x, scale, added) for ops in (c_ops, torch_ops)))
    weight, gain, results = randn(10, 21, seed=3), randn(21, seed=4), []
    for ops in (c_ops, torch_ops):
        gradient_ED, dgain = g.clone(), torch.empty(21)
        ops.fold_backward(gradient_ED, weight, gain, dgain)
        results.append((gradient_ED, dgain))
    same(*results)
    ids, results = torch.arange(21) % 5, []
    for ops in (c_ops, torch_ops):
        gradient_VD = torch.ones(5, 10)
        ops.embed_backward(ids, x, gradient_VD)
        results.append((ops.embed(x[:, :5].t().contiguous(), ids), gradient_VD))
    same(*results)


@needs_compiler
def test_exponentials_at_the_ends():
    """Logits far apart, equal, infinite and not a number."""
    far = torch.tensor([[0.0, -200.0, 80.0, -90.0] * 3])
    one, target = torch.ones(1), torch.tensor([1])
    assert c_ops.score(far.clone(), one, target)[0].item() == pytest.approx(280 + math.log(3), rel=1e-6)
    loss, slope = c_ops.cross_entropy(far.clone(), one, target)
    assert loss.item() == pytest.approx(280 + math.log(3), rel=1e-6)
    same(slope, torch_ops.cross_entropy(far.clone(), one, target)[1])
    nats, hits = c_ops.score(torch.zeros(2, 12), torch.ones(2), torch.tensor([0, 5]))
    same(nats, torch.full((2,), math.log(12)))
    assert hits.tolist() == [True, False]  # the first of equals
    for bad in (math.nan, math.inf):
        broken = far.clone()
        broken[0, 9] = bad
        assert c_ops.cross_entropy(broken, one, target)[0].isnan()
    broken = randn(6, 16)
    broken[0, 3] = math.nan
    assert c_ops.attend(broken, torch.ones(16), 1, (1, 16), rotary=True, keep=False)[0].isnan().any()
    saturated = torch.tensor([[1e30, -1e30, 100.0, -100.0], [2.0, 2.0, 2.0, 2.0]])
    hidden, backward = c_ops.swiglu(saturated.clone(), torch.ones(4), keep=True)
    same(hidden, torch_ops.swiglu(saturated.clone(), torch.ones(4), keep=True)[0])
    assert backward(torch.ones(1, 4)).isfinite().all()
    saturated = torch.tensor([[1e30, -1e30, 100.0, -100.0, 12.0, -12.0]])
    results = [ops.gelu(saturated.clone(), torch.ones(6), keep=True) for ops in (c_ops, torch_ops)]
    torch.testing.assert_close(results[0][0], results[1][0], rtol=2e-5, atol=1e-35)
    same(results[0][1](torch.ones(1, 6)), torch.tensor([[1.0, 0.0, 1.0, 0.0, 1.0, 0.0]]))  # torch's is nan at 1e30
    assert c_ops.gelu(torch.tensor([[math.nan]]), torch.ones(1), keep=False)[0].isnan()


@needs_compiler
def test_kernels_are_used_on_one_core_alone(monkeypatch):
    weights = torch.zeros(2, 2)
    model = scrambled(ModelConfig("transformer", 50, 24, 2, 16, 2))
    assert ops_for(weights) is c_ops
    assert choose(model).build == c_ops.build_id() != ""
    assert choose(model, StepOptions(hand_written=False)).build == ""
    assert ops_for(weights.double()) is torch_ops
    assert ops_for(weights.to("meta")) is torch_ops
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert ops_for(weights) is torch_ops
    assert choose(model).build == ""


def test_the_step_with_and_without_kernels(monkeypatch):
    config = ModelConfig("transformer", 50, 24, 2, 16, 2)
    data, losses, gradients, scores = tokens(config), [], [], []
    for found in (ops_for, lambda _: torch_ops):
        monkeypatch.setattr(training_step, "ops_for", found)
        model = scrambled(config)
        step = choose(model)
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        losses.append(step.loss_and_gradients(data[:, :-1], data[:, 1:]))
        gradients.append([p.grad for p in model.parameters()])
        scores.append(step.score(data[:, :-1], data[:, 1:])[0])
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(*scores, rtol=1e-5, atol=1e-5)


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """No kernels loaded yet and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for cached in (native.library, training_step.kernels, c_ops._function):
        cached.cache_clear()
    yield tmp_path / "isoflop"
    monkeypatch.undo()
    for cached in (native.library, training_step.kernels, c_ops._function):
        cached.cache_clear()


def test_without_a_compiler_torch_does_the_work(fresh, monkeypatch):
    monkeypatch.setenv("PATH", str(fresh))
    monkeypatch.delenv("CC", raising=False)
    assert native.library() is None
    assert native.build_id() == ""
    assert ops_for(torch.zeros(1)) is torch_ops


def test_a_compiler_that_fails_is_no_error(fresh, monkeypatch):
    monkeypatch.setenv("CC", "false")
    monkeypatch.setattr(native, "COMPILERS", ("false",))
    assert native.library() is None
    assert not list(fresh.glob("*"))


@pytest.mark.slow
@needs_compiler
@pytest.mark.skipif(platform.machine() != "x86_64", reason="needs a processor of x86-64")
@pytest.mark.parametrize("less", [*(["-mno-avx512f"] if b"avx512f" in native._processor() else []), "-mno-avx"])
def test_processors_of_narrower_vectors(fresh, monkeypatch, less):
    monkeypatch.setattr(native, "FLAGS", (*native.FLAGS, less))
    assert ops_for(torch.zeros(1)) is c_ops
    for shape in SHAPES:
        test_attention(*shape, rotary=True)
        test_attention(*shape, rotary=False)
    for n in (1, 8, 21, 64):
        test_swiglu(n)
        test_gelu(n)
        test_norm_of_both_kinds(n)
    for vocab in (3, 50, 256):
        test_cross_entropy_and_score(vocab)


@pytest.mark.slow
@needs_compiler
def test_built_before_the_first_step_is_timed(fresh, monkeypatch, tmp_path):
    monkeypatch.setattr(native, "FLAGS", (*native.FLAGS, "-O0"))  # no step is taken
    corpus = prepare(DATA, tmp_path / "corpora")
    Learner(make(corpus, 10), corpus, "cpu")
    assert list(fresh.glob("*.so"))


@pytest.mark.slow
@needs_compiler
def test_kernels_that_compute_something_else_are_left_alone(fresh, monkeypatch, tmp_path):
    wrong = tmp_path / "kernels.c"
    text = native.SOURCE.read_text()
    assert "1.0f / sqrtf(width)" in text
    wrong.write_text(text.replace("1.0f / sqrtf(width)", "1.1f / sqrtf(width)"))
    monkeypatch.setattr(native, "SOURCE", wrong)
    monkeypatch.setattr(native, "FLAGS", (*native.FLAGS, "-O0"))  # built sooner
    with pytest.warns(UserWarning, match="disagree with torch and are left alone"):
        assert ops_for(torch.zeros(1)) is torch_ops
