"""The sensitivity table moves what it should, in half-widths of the interval."""

from types import SimpleNamespace

import numpy as np
import pytest

from isoflop.scaling.findings.sensitivity import _row, chinchilla_sensitivity
from isoflop.scaling.laws.chinchilla import Chinchilla
from tests.support.fits.simulated import BESIROGLU, isoflop_table


@pytest.mark.slow
def test_sensitivity_measures_in_half_widths():
    frame = chinchilla_sensitivity(isoflop_table(BESIROGLU, seed=2))
    assert frame.index[0] == "as fitted"
    assert frame["a_moved"].iloc[0] == 0
    assert abs(frame.loc["E = 0", "loss_moved"]) > 2
    assert abs(frame.loc["least squares", "a_moved"]) < 1
    assert frame.loc["E = 0", "E"] == 0


@pytest.mark.slow
def test_a_run_table_is_refitted_under_every_convention(study_table):
    frame = chinchilla_sensitivity(study_table)
    assert {"params total", "params no-embedding", "compute 6nd", "compute full-attention"} <= set(frame.index)
    assert abs(frame.loc["params no-embedding", "a"] - frame.loc["as fitted", "a"]) > 0.02


def test_a_change_that_puts_the_optimum_beyond_floating_point_says_so():
    law = Chinchilla(1.7, 1e10, 1.0, 0.01, 0.01)  # A / B to the power of 1 / (alpha + beta) is 1e500
    row = _row(SimpleNamespace(law=law, optimal=law.optimal, points=range(9)), 1e20)
    assert np.isnan([row["a"], row["E"], row["loss"]]).all()
    assert "1e+20 FLOPs has no finite loss" in row["why"]
