"""Bounds that hold at every look: exact against numerical integrals, and in simulation; open where nothing is known."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import nct
from scipy.stats import t as student

from isoflop.scaling.gate.sequence import PRIOR, critical, log_evidence


@pytest.mark.parametrize(("n", "t"), [(4, 3.0), (10, -1.0), (40, 2.5)])
def test_the_evidence_is_the_bayes_factor_of_students_t(n, t):
    """n observations: t is noncentral t at sqrt(n) delta under the alternative, delta half-normal."""
    scale = PRIOR**-0.5

    def weighed(delta):
        return nct.pdf(t, n - 1, np.sqrt(n) * delta) * 2 * np.exp(-0.5 * (delta / scale) ** 2) / scale

    ratio = quad(weighed, 0, 12 * scale, limit=200)[0] / np.sqrt(2 * np.pi) / student.pdf(t, n - 1)
    assert log_evidence(t, n, n - 1) == pytest.approx(np.log(ratio), rel=1e-6, abs=1e-8)


def test_the_critical_value_is_where_the_evidence_reaches_it():
    n = np.array([8.0, 12.0, 200.0])
    for error in (0.05, 0.001):
        at = critical(n, n - 1, error)
        assert np.allclose(log_evidence(at, n, n - 1), -np.log(error), atol=1e-6)
    assert (np.diff(critical(n, n - 1, 0.05)[:2]) < 0).all()
    assert critical(12.0, 11.0, 0.01) > critical(12.0, 11.0, 0.05)


def test_too_few_observations_bound_nothing():
    assert np.isinf(critical([1.0, 2.0, 3.0], [0.0, 1.0, 2.0], 0.05)).all()


def test_looking_after_every_pair_keeps_the_error():
    """A bound for one look, t of .95, would be passed by more than a quarter."""
    rng = np.random.default_rng(0)
    n = np.arange(1, 101.0)
    bound = critical(n, n - 1, 0.05)
    for mean, least, most in ((0.0, 0.01, 0.05), (-0.1, 0.0, 0.02), (1.0, 0.999, 1.0)):
        y = rng.normal(mean, 1.0, (4000, 100))
        total, square = y.cumsum(axis=1), (y**2).cumsum(axis=1)
        error = np.sqrt(np.maximum(square - total**2 / n, 1e-12) / np.maximum(n - 1, 1) / n)
        passed = (total / n >= bound * error)[:, 1:].any(axis=1).mean()
        assert least <= passed <= most, mean
