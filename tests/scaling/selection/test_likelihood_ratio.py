"""Nested tests reject what is false and keep what is true; the table of choices moves what it should."""

import numpy as np
import pandas as pd
import pytest

from isoflop.scaling.laws.chinchilla import Chinchilla
from isoflop.scaling.selection.likelihood_ratio import comparison, nested_tests, sensitivity
from isoflop.scaling.table.conventions import points
from tests.support.simulated import BENT, BESIROGLU, isoflop_table

EQUAL = Chinchilla(E=1.8, A=480.0, B=700.0, alpha=0.35, beta=0.35)


def p_values(law, seed=0):
    return {t.claim: t.p for t in nested_tests(points(isoflop_table(law, seed=seed)), resamples=39)}


def test_false_claims_are_rejected():
    p = p_values(BESIROGLU)
    assert p["E = 0"] <= 0.05
    assert p["kappa = 1"] > 0.05
    assert p_values(BENT)["kappa = 1"] <= 0.05


def test_true_claims_are_rarely_rejected():
    p = [p_values(EQUAL, seed)["alpha = beta"] for seed in range(6)]
    assert np.mean(np.array(p) <= 0.05) <= 0.34
    assert np.median(p) > 0.1


def test_sensitivity_measures_in_half_widths():
    frame = sensitivity(isoflop_table(BESIROGLU, seed=2))
    assert frame.index[0] == "as fitted"
    assert frame["a_moved"].iloc[0] == 0
    assert abs(frame.loc["E = 0", "loss_moved"]) > 2
    assert abs(frame.loc["least squares", "a_moved"]) < 1
    assert frame.loc["E = 0", "E"] == 0


def test_a_run_table_is_refitted_under_every_convention(study_table):
    frame = sensitivity(study_table)
    assert {"params total", "params no-embedding", "compute 6nd", "compute full-attention"} <= set(frame.index)
    assert abs(frame.loc["params no-embedding", "a"] - frame.loc["as fitted", "a"]) > 0.02


def test_comparison_is_one_json_and_one_text():
    table = isoflop_table(BESIROGLU, seed=0)
    found = comparison(table, ("chinchilla",))
    value = found.to_dict()
    assert [t["claim"] for t in value["nested"]] == ["kappa = 1", "alpha = beta", "E = 0"]
    assert {"scores", "refused", "sensitivity", "preferred", "notes"} <= set(value)
    assert "half-widths" in str(found)
    with pytest.raises(ValueError, match="--holdout-by size"):
        comparison(pd.DataFrame(), by="size")
