"""Likelihood-ratio tests reject what is false and keep what is true."""

import numpy as np
import pytest

from isoflop.scaling.laws.chinchilla import Chinchilla
from isoflop.scaling.selection.likelihood_ratio import _refit, likelihood_ratio_tests
from isoflop.scaling.table.conventions import points
from tests.support.fits.simulated import BENT, BESIROGLU, isoflop_table

pytestmark = [pytest.mark.usefixtures("kept_searches"), pytest.mark.slow]

EQUAL = Chinchilla(E=1.8, A=480.0, B=700.0, alpha=0.35, beta=0.35)


def p_values(law, seed=0):
    return {t.claim: t.p for t in likelihood_ratio_tests(points(isoflop_table(law, seed=seed)), resamples=39)}


def test_false_claims_are_rejected():
    p = p_values(BESIROGLU)
    assert p["E = 0"] <= 0.05
    assert p["kappa = 1"] > 0.05
    assert p_values(BENT)["kappa = 1"] <= 0.05


def test_true_claims_are_rarely_rejected():
    """Of 15 studies at level .05, three or more are rejected one time in 28, none one time in 2."""
    p = np.array([p_values(EQUAL, seed)["alpha = beta"] for seed in range(15)])
    assert np.sum(p <= 0.05) <= 2
    assert 0.3 < np.median(p) < 0.7


def test_only_ratios_of_weights_matter():
    table = isoflop_table(BESIROGLU, seed=0)
    uneven = np.random.default_rng(0).uniform(0.3, 3, len(table))
    found = [
        likelihood_ratio_tests(points(table.assign(weight=uneven * unit)), resamples=19) for unit in (0.01, 1, 100)
    ]
    for tests in zip(*found, strict=True):
        assert [t.p for t in tests] == [tests[0].p] * 3
        assert [t.statistic for t in tests] == pytest.approx([tests[0].statistic] * 3, rel=1e-3)
    equal = likelihood_ratio_tests(points(table), resamples=19)
    assert equal[2].statistic != pytest.approx(found[0][2].statistic, rel=1e-2)


def test_null_losses_scatter_by_the_noise_that_the_fit_left_of_them(monkeypatch):
    """Residuals, of which the fit took P of n, are lifted by sqrt(n / (n - P)); one sign holds for a whole cluster."""
    made = []

    def spy(fitted, log_loss, starts):
        made.append((fitted, log_loss))
        return _refit(fitted, log_loss, starts)

    monkeypatch.setattr("isoflop.scaling.selection.likelihood_ratio._refit", spy)
    table = isoflop_table(BESIROGLU, seed=0).assign(run_id=[f"r{i // 2}" for i in range(35)])
    likelihood_ratio_tests(points(table), resamples=7)
    pairs = list(zip(made[::2], made[1::2], strict=True))
    assert len(pairs) == 3
    for (restricted, losses), (_, same) in pairs:
        assert losses is same
        ratio = (losses - np.log(restricted.predicted)) / restricted.residuals
        assert np.abs(ratio) == pytest.approx(np.sqrt(35 / (35 - len(restricted.free))), rel=1e-6)
        assert (ratio[:, 0:34:2] * ratio[:, 1:34:2] > 0).all()
        assert (ratio[:, 0] * ratio[:, 2] < 0).any()
