"""Forecasts and their average, against SciPy's Student's t and by hand."""

import numpy as np
import pytest
from scipy.stats import norm
from scipy.stats import t as student

from isoflop.scaling.selection.averaging import Forecast, ForecastAverage, average, softmax

ONE = Forecast(np.array([0.0, 1.0, -2.0]), np.array([0.1, 0.2, 3.0]), 5.0)
OTHER = Forecast(np.array([0.5, 0.0, 4.0]), np.array([1.0, 0.3, 0.5]), 30.0)
BOTH = average([ONE, OTHER], [3.0, 1.0])


def test_the_density_is_students():
    at = np.array([0.3, 0.9, 1.0])
    for one in (ONE, OTHER):
        assert one.log_density(at) == pytest.approx(student.logpdf(at, one.freedom, one.mean, one.sd), rel=1e-12)


def test_widening_adds_variances_and_keeps_the_rest():
    wide = ONE.widened(np.array([0.0, 0.15, 4.0]))
    assert wide.sd == pytest.approx([0.1, 0.25, 5.0])
    assert (wide.mean is ONE.mean, wide.freedom) == (True, 5.0)


def test_mean_and_sd_are_those_of_the_mixture():
    assert BOTH.weights == pytest.approx([0.75, 0.25])
    assert BOTH.mean == pytest.approx([0.125, 0.75, -0.5])
    second = 0.75 * (ONE.sd**2 + ONE.mean**2) + 0.25 * (OTHER.sd**2 + OTHER.mean**2)
    assert BOTH.sd == pytest.approx(np.sqrt(second - BOTH.mean**2))


def test_probabilities_and_quantiles_are_those_of_the_mixture():
    at = np.array([0.2, 0.8, -1.0])
    parts = [student.cdf(at, f.freedom, f.mean, f.sd) for f in (ONE, OTHER)]
    assert BOTH.cdf(at) == pytest.approx(0.75 * parts[0] + 0.25 * parts[1], rel=1e-12)
    for p in (0.001, 0.05, 0.5, 0.9, 0.999):
        assert BOTH.cdf(BOTH.quantile(p)) == pytest.approx(np.full(3, p), rel=1e-9)
    assert BOTH.interval(0.8) == (pytest.approx(BOTH.quantile(0.1)), pytest.approx(BOTH.quantile(0.9)))
    alone = average([ONE], [1.0])
    assert alone.quantile(0.95) == pytest.approx(student.ppf(0.95, 5, ONE.mean, ONE.sd), rel=1e-9)


@pytest.mark.parametrize("freedom", [1.0, 4.0])
@pytest.mark.parametrize("apart", [0.0, 1e7])
def test_quantiles_are_found_however_far_the_members_lie_apart(freedom, apart):
    """With one degree of freedom .05% of the probability lies beyond 600 scales to either side."""
    far = ForecastAverage(tuple(Forecast(np.array([m]), np.ones(1), freedom) for m in (0.0, apart)), np.full(2, 0.5))
    for p in (0.0005, 0.2, 0.8, 0.9995):
        assert far.cdf(far.quantile(p)) == pytest.approx([p], rel=1e-6)


@pytest.mark.parametrize("sd", [1e-6, 1e6])
def test_quantiles_are_found_whatever_the_scale(sd):
    one = average([Forecast(np.zeros(1), np.full(1, sd), 3.0)], [1.0])
    assert one.interval(0.998) == (pytest.approx(sd * student.ppf(0.001, 3)), pytest.approx(sd * student.ppf(0.999, 3)))


def test_spread_is_half_the_central_68_percent():
    tail = norm.cdf(1)
    assert average([ONE], [1.0]).spread == pytest.approx(student.ppf(tail, 5) * ONE.sd, rel=1e-9)
    assert BOTH.spread == pytest.approx((BOTH.quantile(tail) - BOTH.quantile(1 - tail)) / 2)


def test_negligible_members_are_left_out_and_the_rest_sum_to_one():
    three = [ONE, OTHER, ONE]
    kept = average(three, [2.0, 1.0, 1.0], negligible=0.25)
    assert len(kept.members) == 3
    kept = average(three, [5.0, 1.0, 2.0], negligible=0.25)
    assert kept.members == (ONE, ONE)
    assert kept.weights == pytest.approx([5 / 7, 2 / 7])
    assert average(three, [1.0, 0.0005, 0.0]).weights == pytest.approx([1.0])


def test_softmax_does_not_overflow():
    assert softmax(np.array([0.0, np.log(3.0)])) == pytest.approx([0.25, 0.75])
    assert softmax(np.array([1e4, 1e4 + np.log(3.0), -1e4])) == pytest.approx([0.25, 0.75, 0.0])
    assert softmax(np.array([-1e4, -1e4 + np.log(3.0)])) == pytest.approx([0.25, 0.75])
