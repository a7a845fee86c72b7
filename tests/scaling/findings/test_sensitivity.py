"""The sensitivity table moves what it should, in half-widths of the interval."""

from isoflop.scaling.findings.sensitivity import chinchilla_sensitivity
from tests.support.fits.simulated import BESIROGLU, isoflop_table


def test_sensitivity_measures_in_half_widths():
    frame = chinchilla_sensitivity(isoflop_table(BESIROGLU, seed=2))
    assert frame.index[0] == "as fitted"
    assert frame["a_moved"].iloc[0] == 0
    assert abs(frame.loc["E = 0", "loss_moved"]) > 2
    assert abs(frame.loc["least squares", "a_moved"]) < 1
    assert frame.loc["E = 0", "E"] == 0


def test_a_run_table_is_refitted_under_every_convention(study_table):
    frame = chinchilla_sensitivity(study_table)
    assert {"params total", "params no-embedding", "compute 6nd", "compute full-attention"} <= set(frame.index)
    assert abs(frame.loc["params no-embedding", "a"] - frame.loc["as fitted", "a"]) > 0.02
