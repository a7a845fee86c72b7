"""The library of the products multiplies as torch does, whatever the layouts."""

import pytest
import torch

from isoflop.models.step import blas

needs_library = pytest.mark.skipif(not blas.name(), reason="needs another processor: torch multiplies best on this one")


def matrix(rows, columns, *, transposed, seed):
    generator = torch.Generator().manual_seed(seed)
    if transposed:
        return torch.randn(columns, rows, generator=generator).t()
    return torch.randn(rows, columns, generator=generator)


@needs_library
@pytest.mark.parametrize("shape", [(48, 16, 512), (5, 7, 3), (1, 9, 4), (6, 1, 5), (8, 3, 1), (1, 1, 1)])
@pytest.mark.parametrize("layout", range(8))
def test_products(shape, layout):
    (rows, inner, columns), turned = shape, [bool(layout >> bit & 1) for bit in range(3)]
    a = matrix(rows, inner, transposed=turned[0], seed=0)
    b = matrix(inner, columns, transposed=turned[1], seed=1)
    plus = matrix(rows, columns, transposed=False, seed=2)
    exact = a.double() @ b.double()
    out = matrix(rows, columns, transposed=turned[2], seed=3).fill_(torch.nan)  # what was there is not read
    assert blas.product(a, b, out=out) is out
    torch.testing.assert_close(out.double(), exact, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(blas.product(a, b).double(), exact, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(blas.product(a, b, plus=plus).double(), exact + plus, rtol=1e-5, atol=1e-4)


@needs_library
def test_a_loss_that_is_no_number_stays_none():
    a = torch.ones(4, 3)
    a[1, 2] = torch.nan
    assert blas.product(a, torch.zeros(3, 5)).isnan().any(1).tolist() == [False, True, False, False]


def test_torch_multiplies_where_there_is_no_such_library(monkeypatch):
    monkeypatch.setattr(blas, "_library", lambda: None)
    a, b, plus = torch.randn(3, 4), torch.randn(4, 5), torch.randn(3, 5)
    assert blas.name() == ""
    assert torch.equal(blas.product(a, b), a @ b)
    torch.testing.assert_close(blas.product(a, b, plus=plus), plus + a @ b)


def test_another_maker_s_processor_is_left_to_torch(monkeypatch):
    monkeypatch.setattr(blas, "_amd", lambda: False)
    assert blas._library.__wrapped__() is None
