"""Lines through points with errors in both coordinates: least squares as a limit, coverage, no slope out of noise."""

import numpy as np
import pytest
from scipy.stats import linregress, t

from isoflop.scaling.fitting.line import slope


def errors(x_sd: object, y_sd: object, correlation: float = 0.0, n: int = 6) -> np.ndarray:
    x_sd, y_sd = np.broadcast_to(x_sd, n), np.broadcast_to(y_sd, n)
    both = correlation * x_sd * y_sd
    own = np.stack([np.stack([x_sd**2, both], -1), np.stack([both, y_sd**2], -1)], -2)
    return np.eye(n)[..., None, None] * own


def test_without_errors_of_x_it_is_weighted_least_squares():
    rng = np.random.default_rng(0)
    x, sd = np.arange(6.0), np.array([0.1, 0.3, 0.2, 0.1, 0.5, 0.2])
    y = 1 + 0.7 * x + rng.normal(0, 0.2 * sd)  # less than the errors: no further scatter
    p, (lo, hi) = slope(x, y, errors(0.0, sd), 0.9)
    weight = sd**-2
    centre = np.average(x, weights=weight)
    assert p == pytest.approx(np.polyfit(x, y, 1, w=1 / sd)[0], abs=1e-8)
    half = 2.1318 / np.sqrt(weight @ (x - centre) ** 2)  # Student's t of 4 degrees of freedom
    assert (lo, hi) == pytest.approx((p - half, p + half), abs=1e-4)


def test_scatter_beyond_the_errors_widens_the_interval_and_evens_the_weights():
    rng = np.random.default_rng(1)
    x = np.arange(6.0)
    y = 0.7 * x + rng.normal(0, 0.5, 6)
    p, (lo, hi) = slope(x, y, errors(0.0, np.array([1e-3, 0.02, 1e-3, 1e-2, 1e-3, 1e-2])), 0.9)
    even = np.polyfit(x, y, 1)
    left = y - np.polyval(even, x)
    half = 2.1318 * np.sqrt(left @ left / 4 / np.sum((x - x.mean()) ** 2))
    assert p == pytest.approx(even[0], abs=0.01)
    assert (lo, hi) == pytest.approx((even[0] - half, even[0] + half), rel=0.03)


def test_an_exact_line_is_found_to_the_digit():
    x = np.linspace(20, 24, 6)
    p, (lo, hi) = slope(x, 3 + 0.618034 * x, errors(1e-8, 1e-8), 0.9)
    assert p == pytest.approx(0.618034, abs=1e-7)
    assert lo <= p <= hi <= lo + 1e-5


@pytest.mark.parametrize(("correlation", "span"), [(0.9, 0.0), (-0.5, 0.0), (0.9, 1.0), (0.9, 6.0), (-0.5, 6.0)])
def test_intervals_hold_the_slope_whatever_errors_x_and_y_share(correlation, span):
    """An open interval holds every slope; where x hardly spans its errors all are open."""
    rng = np.random.default_rng(2)
    covariance = errors(0.3, 0.5, correlation)
    x = np.linspace(0, span, 6)
    found = []
    for _ in range(100):
        noise = rng.multivariate_normal([0, 0], covariance[0, 0], size=6)
        found.append(slope(x + noise[:, 0], 0.4 * x + noise[:, 1], covariance, 0.9)[1])
    ends = np.array(found)
    assert np.mean((ends[:, 0] <= 0.4) & (ends[:, 1] >= 0.4)) >= 0.85
    assert np.isinf(ends).any(axis=1).mean() == (1.0 if span < 2 else 0.0)


def test_two_points_have_no_interval():
    p, ends = slope(np.arange(2.0), np.arange(2.0), errors(0.1, 0.1, n=2), 0.9)
    assert np.isnan([p, *ends]).all()


@pytest.mark.parametrize("n", [3, 4, 6])
def test_scatter_alone_gives_the_interval_of_least_squares(n):
    """It was capped at the variance of y about its mean, too little by up to n / (n - 2)."""
    x, y = np.linspace(0, 3, n), np.random.default_rng(n).normal(0, 0.3, n)
    _, (lo, hi) = slope(x, y, errors(1e-6, 1e-6, n=n), 0.9)
    best, left = linregress(x, y), n - 2
    half = t.isf(0.05, left) * best.stderr
    assert np.array([lo, hi]) == pytest.approx([best.slope - half, best.slope + half], rel=0.02, abs=0.02)


def test_points_of_one_group_with_one_error_say_what_one_point_does():
    """Three points, each of them four times over with the same error, are three."""
    x, y = np.array([0.0, 2.0, 4.0]), np.array([0.1, 1.0, 1.9])
    group = np.repeat(np.arange(3), 4)
    same = (group[:, None] == group) * np.where(np.eye(12, dtype=bool), 1.0, 1 - 1e-6)
    own = np.array([[1e-8, 0.0], [0.0, 0.01]])
    p, interval = slope(x[group], y[group], same[..., None, None] * own, 0.9, groups=3)
    alone, expected = slope(x, y, np.eye(3)[..., None, None] * own, 0.9)
    assert (p, *interval) == pytest.approx((alone, *expected), abs=1e-3)
    assert np.isnan(slope(x[group], y[group], same[..., None, None] * own, 0.9, groups=2)[1]).all()
