"""Likelihood-ratio tests reject what is false and keep what is true."""

import numpy as np

from isoflop.scaling.laws.chinchilla import Chinchilla
from isoflop.scaling.selection.likelihood_ratio import likelihood_ratio_tests
from isoflop.scaling.table.conventions import points
from tests.support.fits.simulated import BENT, BESIROGLU, isoflop_table

EQUAL = Chinchilla(E=1.8, A=480.0, B=700.0, alpha=0.35, beta=0.35)


def p_values(law, seed=0):
    return {t.claim: t.p for t in likelihood_ratio_tests(points(isoflop_table(law, seed=seed)), resamples=39)}


def test_false_claims_are_rejected():
    p = p_values(BESIROGLU)
    assert p["E = 0"] <= 0.05
    assert p["kappa = 1"] > 0.05
    assert p_values(BENT)["kappa = 1"] <= 0.05


def test_true_claims_are_rarely_rejected():
    p = [p_values(EQUAL, seed)["alpha = beta"] for seed in range(6)]
    assert np.mean(np.array(p) <= 0.05) <= 0.34
    assert np.median(p) > 0.1
