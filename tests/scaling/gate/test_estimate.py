"""ln m at the target: the line through pairs, what clusters share, and what a learnt discrepancy adds."""

import numpy as np
import pytest
from scipy.stats import t as student

from isoflop.scaling.gate.discrepancy import Discrepancy
from isoflop.scaling.gate.estimate import Estimate, Observations, by_cluster, estimate
from isoflop.scaling.gate.sequence import critical


def pairs(gain, x, slope=0.1, cluster=None) -> Observations:
    x = np.asarray(x, float)
    return Observations(np.asarray(gain, float), np.full(len(x), slope), x,
                        np.arange(len(x)) if cluster is None else np.asarray(cluster))  # fmt: skip


LEARNT = Discrepancy(0.8, 0.05, 30.0, 4.0, 40)


def test_pairs_at_the_target_give_students_t():
    gain = np.array([0.01, 0.012, 0.008, 0.014, 0.011])
    found = estimate(pairs(gain, np.zeros(5)))
    assert found.mean == pytest.approx(gain.mean() / 0.1)
    assert found.error == pytest.approx(gain.std(ddof=1) / np.sqrt(5) / 0.1, rel=1e-5)
    assert (found.freedom, found.information) == (4.0, pytest.approx(5.0))
    assert not found.needs_drift
    t = found.mean / found.error
    assert found.above() == pytest.approx(student.cdf(t, 4))
    assert np.allclose(found.bounds(0.05), found.mean + np.array([-1, 1]) * critical(5.0, 4.0, 0.05) * found.error)


def test_a_drift_is_continued_to_the_target():
    x = np.repeat([-4.0, -2.0, -1.0], 3)
    found = estimate(pairs(0.1 * (0.05 + 0.02 * x) + 1e-6 * np.tile([-1, 0, 1], 3), x))
    assert found.mean == pytest.approx(0.05, abs=1e-4)
    assert found.drift == pytest.approx(0.02, abs=1e-4)
    assert found.freedom == 7.0
    design = 0.1 * np.column_stack([np.ones(9), x])
    assert found.information == pytest.approx(1 / np.linalg.inv(design.T @ design)[0, 0] / 0.01)


def test_one_compute_away_from_the_target_shows_nothing():
    found = estimate(pairs(np.linspace(0.01, 0.02, 20), np.full(20, -3.0)))
    assert np.isnan(found.mean)
    assert found.needs_drift
    assert found.bounds(0.05) == (-np.inf, np.inf)
    assert np.isnan(found.above())


def test_one_pair_bounds_nothing():
    found = estimate(pairs([0.02], [0.0]))
    assert found.mean == pytest.approx(0.2)
    assert found.bounds(0.05) == (-np.inf, np.inf)
    assert np.isnan(found.above())


def test_pairs_that_share_their_noise_count_once():
    own = estimate(pairs([0.01, 0.03, 0.02, 0.05, 0.01], np.zeros(5)))
    twice = estimate(pairs(np.repeat([0.01, 0.03, 0.02, 0.05, 0.01], 2), np.zeros(10), cluster=np.repeat(range(5), 2)))
    assert (twice.mean, twice.error, twice.freedom) == pytest.approx((own.mean, own.error, own.freedom))


def test_seeds_that_have_every_size_each_show_the_drift():
    """Noise shared by a seed moves its whole line: what counts is how lines scatter at the target."""
    x = np.tile([-4.0, -2.0], 6)
    shared = np.repeat([0.002, -0.001, 0.003, -0.002, 0.0, -0.002], 2)
    value = pairs(0.1 * (0.05 + 0.02 * x) + shared, x, cluster=np.repeat(range(6), 2))
    assert by_cluster(value)[1]
    found = estimate(value)
    assert found.mean == pytest.approx(0.05)
    assert found.error == pytest.approx(shared[::2].std(ddof=1) / 0.1 / np.sqrt(6))
    assert found.freedom == 5.0
    assert found.drift == pytest.approx(0.02)


def test_one_pair_with_a_learnt_discrepancy():
    """Shrunk, with the scatter of past changes and no more: that holds the noise of a pair."""
    found = estimate(pairs([0.02], [-4.0]), LEARNT)
    assert found.mean == pytest.approx(0.16, rel=1e-6)
    assert found.total == pytest.approx((0.05, 30.0), rel=1e-6)
    assert found.above() == pytest.approx(student.cdf(0.16 / 0.05, 30), rel=1e-6)
    lo, hi = found.bounds(0.05)
    assert (lo, hi) == pytest.approx(np.array([0.16, 0.16]) + student.ppf([0.05, 0.95], 30) * 0.05, rel=1e-5)
    half = estimate(pairs([0.02], [-2.0]), LEARNT)
    assert half.mean == pytest.approx(0.2 * 0.8**0.5, rel=1e-6)
    assert half.spread == pytest.approx(0.025, rel=1e-6)


def test_many_pairs_leave_what_is_not_known_of_the_drift():
    rng = np.random.default_rng(0)
    found = estimate(pairs(0.02 + rng.normal(0, 0.01, 5000), np.full(5000, -4.0)), LEARNT)
    assert found.spread == pytest.approx(0.05, rel=1e-3)
    assert found.error < 0.005
    near = estimate(pairs(0.02 + rng.normal(0, 0.001, 400), np.repeat([-4.0, -1.0], 200)), LEARNT)
    assert near.spread < 0.01  # pairs at two computes show the drift themselves


def test_no_pairs():
    assert np.isnan(estimate(pairs([], [])).mean)
    assert estimate(pairs([], []), LEARNT).bounds(0.1) == (-np.inf, np.inf)


def test_a_known_estimate_has_a_probability():
    assert Estimate(0.1, 0.1, 1e9, 1.0, 0.01).above(0.1) == pytest.approx(0.5)
