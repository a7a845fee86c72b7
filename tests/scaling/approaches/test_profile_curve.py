"""The curve of a law along a budget: budgets of unlike lengths solved at once are those solved one by one."""

import numpy as np
import pandas as pd
import pytest

from isoflop.scaling.approaches.profile_curve import _Axes, _misfit, fit_shape
from isoflop.scaling.laws.chinchilla import Chinchilla
from isoflop.scaling.laws.cost import Cost

LAW = Chinchilla(E=1.8, A=400.0, B=2000.0, alpha=0.34, beta=0.41)


def budget(flops: float, sizes: int, noise: float = 0.0, seed: int = 0) -> pd.DataFrame:
    n = np.sqrt(flops / 120) * np.geomspace(0.25, 4.0, sizes)
    d = flops / (6 * n)
    loss = LAW(n, d) * np.exp(noise * np.random.default_rng(seed).normal(size=sizes))
    return pd.DataFrame({"n_params": n, "tokens": d, "loss": loss})


def test_budgets_of_any_length_give_the_exponents_that_they_share():
    shape = fit_shape([budget(1e18, 5), budget(1e19, 9), budget(1e20, 4)], Cost())
    assert (shape.alpha, shape.beta) == pytest.approx((LAW.alpha, LAW.beta), rel=1e-3)
    assert shape.noise < 1e-6


def test_residuals_are_those_of_each_budget_alone_also_where_all_runs_read_as_much():
    """Runs of one D have two columns to be fitted by, not three: the third would be rounding."""
    known = [budget(1e18, 5, 0.01, 1), budget(1e19, 8, 0.01, 2).assign(tokens=1e9), budget(1e20, 7, 0.01, 3)]
    axes = [_Axes.of(frame) for frame in known]
    points = np.log([[0.3, 0.5], [0.02, 0.02], [2.0, 0.1]])
    for found, (alpha, beta) in zip(_misfit(axes)(points), np.exp(points), strict=True):
        for own, one in zip(axes, found.reshape(3, 8), strict=True):
            design, c = own.solve(alpha, beta)
            rows = len(own.loss)
            np.testing.assert_allclose(one[:rows], 1 - design @ c, atol=1e-11)
            assert not one[rows:].any()
