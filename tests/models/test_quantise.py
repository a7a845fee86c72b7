"""Fake quantisation: what is rounded to which numbers, with which gradients, and what it costs at few and many bits."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from isoflop.experiments.config import OptimSpec
from isoflop.experiments.training.optimizer import FlatAdamW
from isoflop.models import build_model
from isoflop.models.config import FULL_BITS, ModelConfig
from isoflop.models.parametrization import initialize
from isoflop.models.quantise import product_of, quantised_product, rounded
from isoflop.models.step.training_step import choose
from isoflop.models.variants import Variant

PLAIN = ModelConfig("transformer", vocab_size=16, context_length=12, n_layer=2, d_model=16, n_head=2)
FOUR = replace(PLAIN, weight_bits=4, activation_bits=4)


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.slow
@given(bits=st.integers(2, 16), seed=st.integers(0, 10**6), size=st.floats(1e-20, 1e20))
def test_rows_become_the_nearest_integers_of_so_many_bits_times_a_scale_of_their_own(bits, seed, size):
    x, most = size * numbers(3, 7, seed=seed), 2 ** (bits - 1) - 1
    found = rounded(x, bits)
    scale = x.abs().amax(1, keepdim=True) / most
    integers = found / scale
    torch.testing.assert_close(integers, integers.round(), atol=0.01, rtol=0)
    assert integers.abs().max() <= most + 0.01
    assert ((found - x).abs() <= 0.501 * scale).all()
    torch.testing.assert_close(rounded(-x, bits), -found)
    torch.testing.assert_close(rounded(x[1], bits), found[1])  # whatever the other rows hold


def test_two_bits_are_minus_one_zero_and_one():
    assert rounded(torch.tensor([[-3.0, -0.4, 1.6, 2.0]]), 2).tolist() == [[-3.0, 0.0, 3.0, 3.0]]


def test_zeros_stay_zeros():
    assert rounded(torch.zeros(2, 3), 4).tolist() == [[0.0] * 3] * 2


def test_full_bits_leave_a_factor_and_the_model_as_they_are():
    x = numbers(2, 3)
    assert rounded(x, FULL_BITS) is x
    assert product_of(PLAIN) is torch.nn.functional.linear
    one = product_of(replace(PLAIN, weight_bits=3))
    torch.testing.assert_close(one(x, x), torch.nn.functional.linear(x, rounded(x, 3)))


def test_gradients_pass_the_rounding_straight_through():
    x, weight, dy = numbers(5, 8).requires_grad_(), numbers(3, 8, seed=1).requires_grad_(), numbers(5, 3, seed=2)
    quantised_product(x, weight, weight_bits=3, activation_bits=4).backward(dy)
    with torch.no_grad():
        torch.testing.assert_close(x.grad, dy @ rounded(weight, 3))
        torch.testing.assert_close(weight.grad, dy.T @ rounded(x, 4))


def test_the_matrices_of_the_blocks_are_rounded_and_embedding_and_head_are_not():
    model = initialize(build_model(FOUR), 0)
    assert isinstance(model, Variant)
    with torch.no_grad():
        model.head.copy_(numbers(16, 16))
        before = model(torch.arange(12)[None] % 16)
        for matrix in model.hidden_matrices():
            matrix.weight.copy_(rounded(matrix.weight, 4))
        torch.testing.assert_close(model(torch.arange(12)[None] % 16), before)  # rounded twice is rounded once
        model.head.copy_(rounded(model.head, 4))
        assert (model(torch.arange(12)[None] % 16) - before).abs().max() > 0.01


def test_a_rounded_model_trains_by_autograd():
    model = initialize(build_model(FOUR), 0)
    FlatAdamW(model, OptimSpec())
    assert choose(model).engine == "autograd"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight_bits": 1}, r"model\.weight_bits must be from 2 to 16, or 32 \(float32\); not 1"),
        ({"activation_bits": 17}, r"model\.activation_bits must be from 2 to 16"),
        ({"weight_bits": True}, "not True"),
        ({"family": "lstm", "activation_bits": 8}, r"model\.activation_bits=8: the products of family lstm are not"),
    ],
)
def test_bits_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(PLAIN, **changes)
