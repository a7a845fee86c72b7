"""PIT and CRPS of a forecast, against closed forms and against the definition."""

from itertools import pairwise

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm, t

from isoflop.scaling.prediction.registered.distribution import (
    Mixture,
    Quantiles,
    check_components,
    components,
    predictive,
)
from isoflop.scaling.selection.averaging import Forecast, ForecastAverage, average

pytestmark = pytest.mark.usefixtures("kept_searches")


def mixture(*parts):
    """Parts (weight, mean, sd, freedom)."""
    members = tuple(Forecast(np.array([m]), np.array([s]), v) for _, m, s, v in parts)
    return Mixture(ForecastAverage(members, np.array([w for w, *_ in parts])))


@pytest.mark.parametrize("y", [-0.2, 0.29, 0.3, 0.34, 2.0])
def test_the_score_of_a_normal_forecast_is_gneiting_and_rafterys_closed_form(y):
    z = (y - 0.3) / 0.02
    exact = 0.02 * (z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / np.sqrt(np.pi))
    assert mixture((1.0, 0.3, 0.02, 1e12)).crps(y) == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize("v", [2, 3, 9])
def test_the_score_of_a_students_t_is_its_closed_form(v):
    """Jordan, Krueger and Lerch 2019, appendix A: the CRPS of a t of v > 1 degrees of freedom."""
    from scipy.special import beta

    for z in (-3.0, 0.0, 0.4, 8.0):
        tail = 2 * np.sqrt(v) / (v - 1) * beta(0.5, v - 0.5) / beta(0.5, v / 2) ** 2
        exact = z * (2 * t.cdf(z, v) - 1) + 2 * t.pdf(z, v) * (v + z**2) / (v - 1) - tail
        assert mixture((1.0, 0.1, 0.03, v)).crps(0.1 + 0.03 * z) == pytest.approx(0.03 * exact, rel=1e-5)


def test_the_score_of_a_mixture_is_the_integral_of_its_definition():
    held = mixture((0.7, 0.1, 0.02, 4.0), (0.3, 0.2, 0.05, 7.0))
    x = np.linspace(-3, 3, 60_001)
    probability = held.average.cdf(x)
    for y in (-0.1, 0.13, 0.4):
        rough = float(np.sum((probability - (x >= y)) ** 2) * (x[1] - x[0]))
        assert held.crps(y) == pytest.approx(rough, abs=2e-4)


@pytest.mark.slow
def test_the_mean_score_is_least_for_the_forecast_that_is_true():
    rng = np.random.default_rng(0)
    draws = rng.normal(0.2, 0.03, 60)
    means = {s: np.mean([mixture((1.0, 0.2, s, 1e9)).crps(y) for y in draws]) for s in (0.01, 0.03, 0.09)}
    assert min(means, key=means.get) == 0.03


def test_quantiles_score_by_the_distribution_that_goes_through_them():
    held = Quantiles(np.array([0.025, 0.25, 0.5, 0.75, 0.975]), np.array([-0.2, -0.05, 0.0, 0.04, 0.3]))
    assert [held.cdf(x) for x in held.values] == held.levels.tolist()
    assert (held.cdf(-1.0), held.cdf(1.0)) == (0.0, 1.0)
    for y in (-0.5, -0.2, -0.1, 0.0, 0.01, 0.3, 0.7):
        edges = sorted({-0.6, y, 0.8, *held.values})
        numeric = sum(
            quad(lambda x, y=y: (held.cdf(x) - (x >= y)) ** 2, lo + 1e-12, hi - 1e-12)[0] for lo, hi in pairwise(edges)
        )
        assert held.crps(y) == pytest.approx(numeric, abs=1e-9)


def test_a_registration_gives_its_mixture_and_one_without_gives_its_quantiles():
    made = average(
        [Forecast(np.array([0.1]), np.array([0.02]), 5.0), Forecast(np.array([0.15]), np.array([0.01]), 9.0)], [3, 1]
    )
    value = {"distribution": components(made), "loss": 1.1, "intervals": {}}
    assert predictive(value).cdf(0.12) == pytest.approx(float(made.cdf(np.array([0.12]))[0]), rel=1e-15)
    old = {"loss": float(np.exp(made.quantile(0.5)[0])), "intervals": {}}
    for level in (0.5, 0.8, 0.95):
        old["intervals"][str(level)] = [float(np.exp(x[0])) for x in made.interval(level)]
    held = predictive(old)
    assert isinstance(held, Quantiles)
    for p in (0.1, 0.25, 0.5, 0.75, 0.9):
        assert held.cdf(float(made.quantile(p)[0])) == pytest.approx(p, abs=1e-9)
    assert held.crps(0.13) == pytest.approx(Mixture(made).crps(0.13), rel=0.1)


def test_an_end_that_is_open_leaves_a_distribution():
    ends = {"0.5": [1.0, 1.2], "0.8": [0.0, np.inf], "0.9": [0.8, None], "0.95": [None, np.inf]}
    held = predictive({"loss": 1.1, "intervals": ends})
    assert isinstance(held, Quantiles)
    np.testing.assert_allclose(held.levels, [0.05, 0.25, 0.5, 0.75])
    np.testing.assert_allclose(held.values, np.log([0.8, 1.0, 1.1, 1.2]))


@pytest.mark.parametrize(
    "bad",
    [
        (),
        ((0.5, 1.0, 3.0),),
        ((1.0, 0.0, 3.0),),
        ((1.0, 1.0, -1.0),),
        ((-1.0, 1.0, 1.0),),
        ((0.5, 1.0, 3.0), (0.5, 0.0, 3.0)),
        ((1.0, 1.0, 3.0), (0.0, 1.0, 3.0)),
        ((1.0, 1.0, 0.0),),
        ((0.5, 1.0, 3.0), (0.6, 1.0, 3.0)),
    ],
)
def test_parts_that_are_no_distribution_are_refused(bad):
    with pytest.raises(ValueError, match="weights that sum to 1"):
        check_components([{"weight": w, "mean": 0.0, "sd": sd, "freedom": v} for w, sd, v in bad], "claim.json")
    check_components(None, "claim.json")
    for weights in ((1.0,), (0.25, 0.75), (0.1, 0.2, 0.7)):
        check_components([{"weight": w, "mean": 0.0, "sd": 0.01, "freedom": 0.5} for w in weights], "claim.json")
