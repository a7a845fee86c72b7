"""Departures from a law: their corrected p is exact under the noise that is assumed, and they name what is wrong."""

import numpy as np
import pytest
from scipy.stats import binom, kstest
from scipy.stats import t as student

from isoflop.scaling.findings.departures import DRAWS, LEVEL, _single, _smallest
from tests.support.fits.linear_studies import LinearStudies
from tests.support.fits.simulated_studies import Design, Noise

DESIGN = Design("43 runs", 5, 7, Noise(0.01), replicated=4)
STUDIES = 80  # a thousand of each by tests.proofs.calibration


@pytest.fixture(scope="module")
def studies():
    return LinearStudies(DESIGN)


def test_single_p_is_students_on_one_side_or_two():
    t = np.array([[2.0, -2.0], [0.5, -0.5]])
    found = _single(t, np.array([True, False]), 7.0)
    assert found == pytest.approx(np.stack([student.sf(t[:, 0], 7), 2 * student.sf(-t[:, 1], 7)], axis=1))


def test_the_smallest_p_of_unrelated_directions_is_that_of_a_product():
    """With weights: P(min p / w > x) is the product of 1 - w x."""
    weight = np.array([1.0, 3.0, 0.5])
    draws = _smallest(np.eye(3), np.array([False, True, False]), weight, 1e7)
    assert len(draws) == DRAWS
    assert kstest(draws, lambda x: 1 - np.prod(1 - np.minimum(np.multiply.outer(x, weight), 1), axis=-1)).pvalue > 0.01
    alone = _smallest(np.eye(1), np.array([False]), np.ones(1), 6.0)
    assert kstest(alone, "uniform").pvalue > 0.01
    twice = _smallest(np.ones((2, 2)), np.zeros(2, bool), np.ones(2), 6.0)
    assert kstest(twice, "uniform").pvalue > 0.01  # one direction named twice costs nothing


def test_every_departure_has_its_part_of_the_level(studies):
    assert {one.name: one.weight for one in studies.known} == {
        "kappa": 0.3, "largest budget": 3.0, "smallest sizes": 3.0, "ln n_params": 2.0, "ln tokens": 0.5,
        "ln n_params x ln tokens": 0.3,
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    "noise", [Noise(0.01), Noise(0.026, falling=0.35), Noise(0.01, trunk=0.7), Noise(0.01, heavy=True)]
)
def test_a_departure_is_named_in_few_clean_studies(studies, noise):
    """LEVEL under normal noise; what estimating the noise adds keeps it under .13."""
    named = sum(map(bool, studies.named(noise, 0.0, range(STUDIES))))
    assert binom.ppf(0.001, STUDIES, LEVEL / 2) <= named <= binom.ppf(0.999, STUDIES, 0.13)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "name", "power"),
    [
        ("three smallest sizes mistuned by 3, 2, 1%", "smallest sizes", 0.33),
        ("largest budget 1% low", "largest budget", 0.22),
        ("bent law", "ln n_params", 0.7),
    ],
)
def test_faults_are_named_nearly_as_often_as_any_test_could(studies, fault, name, power):
    shift = studies.faults[fault]
    seen = list(studies.named(Noise(0.01), shift, range(STUDIES)))
    assert sum(map(bool, seen)) >= binom.ppf(0.001, STUDIES, power)
    assert sum(name in one for one in seen) > 0.5 * sum(map(bool, seen))
    assert studies.bound(shift, 0.01, 0.05) > power
