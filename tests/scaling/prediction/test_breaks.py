"""Exponents that change: a break is found where there is one, left open where the data say nothing, and widens."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize

from isoflop.scaling.fitting.fit import fit
from isoflop.scaling.laws.axes.data_constrained import Repeats
from isoflop.scaling.laws.chinchilla import Chinchilla
from isoflop.scaling.prediction import breaks as module
from isoflop.scaling.prediction.breaks import CHANGE, LEAST, PRIOR, Broken, _Rows, breaks
from isoflop.scaling.prediction.forecast import Target, forecast_loss
from isoflop.scaling.selection.averaging import Forecast, average
from tests.support.fits.simulated_studies import DESIGNS, TRUTH, Noise, optimum, outside_the_stack

BENT = replace(DESIGNS[3], noise=Noise(0.003), largest=1e12)
LAW = Chinchilla(1.8, 400.0, 2000.0, 0.34, 0.36)


@pytest.fixture(scope="module")
def bent():
    return fit("chinchilla", BENT.study(np.random.default_rng(1), outside_the_stack))


@pytest.fixture(scope="module")
def straight():
    return fit("chinchilla", DESIGNS[3].study(np.random.default_rng(1)))


def broken(law=LAW, on_size=(True, False), place=(18.0, 23.0), change=(0.4, -0.3)) -> Broken:
    return Broken(law, np.array(on_size), np.array(place), np.array(change))


def test_a_broken_law_has_another_exponent_above_its_place():
    law, e = broken(), np.e
    below, above = law(np.exp(17.0), np.exp(22.0)), law(np.exp(20.0), np.exp(25.0))
    assert below == pytest.approx(LAW(np.exp(17.0), np.exp(22.0)))
    assert above[0] == pytest.approx(LAW(np.exp(18.0) * e ** (2 * 0.6), np.exp(25.0)))
    assert above[1] == pytest.approx(LAW(np.exp(20.0), np.exp(23.0) * e ** (2 * 1.3)))


def test_repeats_are_worth_the_same_to_several_laws_at_once():
    laws = [replace(LAW, alpha=a) for a in (0.3, 0.34)]
    both = replace(LAW, alpha=np.array([0.3, 0.34]))
    n, d = np.array([1e9, 2e9]), np.array([9e10, 4e10])
    alone = [float(Repeats(law, 1e10)(*run)) for law, run in zip(laws, zip(n, d, strict=True), strict=True)]
    assert Repeats(both, 1e10)(n, d) == pytest.approx(alone, rel=1e-12)


def test_a_break_is_found_where_there_is_one(bent):
    found = breaks(bent)
    best = np.argmax(found.odds)
    assert found.straight < 0.01
    assert found.on_size[best]
    assert abs(found.place[best] - np.log(3e4)) < 0.4
    assert 0.25 < found.change[best] < 0.65  # from .40 to .22
    assert found.odds.sum() + found.straight == pytest.approx(1, abs=0.05)


def test_data_that_say_nothing_leave_even_odds(straight):
    found = breaks(straight)
    assert 0.3 < found.straight < 0.8
    assert found.odds.sum() + found.straight == pytest.approx(1, abs=16 * LEAST)
    last = np.argmax(found.place * found.on_size)  # at the end of the data the prior is all there is
    assert found.error[last] == pytest.approx(CHANGE, rel=0.01)
    assert found.odds[last] / found.straight == pytest.approx(PRIOR / (1 - PRIOR) / 2 / module.PLACES["N"], rel=0.05)


def test_a_trial_without_a_positive_loss_is_passed_over_in_silence():
    design = replace(DESIGNS[3], name="35 runs, 1%, embedded: size bends", largest=1e12)
    table = design.study(np.random.default_rng([25, 0, *design.name.encode()]), outside_the_stack)
    found = breaks(fit("saturating", table))
    assert np.isfinite(found.theta).all()
    assert np.isfinite(found.error).all()


@pytest.mark.slow
def test_the_mode_is_the_posterior_s(bent):
    found = breaks(bent)
    best = np.argmax(found.odds)
    place = found.place[best] - np.log(bent.problem.units["N"])
    rows = _Rows.of(bent, bent.noise, np.array([True] * 12), np.full(12, place))

    def lost(point):
        residual, _ = rows.residuals(np.tile(point, (12, 1)))
        return 0.5 * (residual[0] @ residual[0] + (point[-1] / CHANGE) ** 2)

    mode = np.append(found.theta[best], found.change[best])
    again = minimize(lost, mode, method="Nelder-Mead", options={"maxiter": 4000, "fatol": 1e-8, "xatol": 1e-8})
    assert lost(mode) - again.fun < 0.02 * again.fun


@pytest.mark.slow
def test_a_forecast_far_beyond_allows_for_the_break(bent):
    """The straight law misses by nine of its standard errors; with breaks the truth lies inside."""
    size, loss = optimum(outside_the_stack, 1e14)
    reported = forecast_loss(bent.points, Target(1e14), ("chinchilla",))
    lo, hi = reported.members["chinchilla"].interval(0.95)
    assert not lo[0] < np.log(loss) < hi[0]
    assert reported.intervals[0.95][0] < loss < reported.intervals[0.95][1]
    assert reported.n_interval[0] < size < reported.n_interval[1]
    given = forecast_loss(bent.points, Target(1e14, size, 1e14 / 6 / size), ("chinchilla",))
    assert given.intervals[0.95][0] < loss < given.intervals[0.95][1]
    assert given.n_average is None


@pytest.mark.slow
def test_a_forecast_of_a_law_that_holds_is_little_wider(straight):
    reported = forecast_loss(straight.points, Target(1e22), ("chinchilla",))
    wide, alone = (np.ptp(np.ravel(f.interval(0.9))) for f in (reported.average, reported.members["chinchilla"]))
    assert 1.0 < wide / alone < 1.6
    assert reported.intervals[0.95][0] < TRUTH.optimal(1e22).loss < reported.intervals[0.95][1]


def test_components_are_the_straight_forecast_and_one_for_each_break(straight):
    found = breaks(straight)
    alone, count = Forecast(np.array([1.0]), np.array([0.1]), 5.0), len(found.place)
    values = np.repeat([1.2, 1.5, 0.9], count)[None]
    values[0, 1] = np.nan  # no optimum
    made, odds = found.forecasts(alone, values)
    assert len(made) == count
    assert (made[0], sum(odds)) == (alone, pytest.approx(1))
    assert made[1].mean == pytest.approx(1.2)
    assert made[1].sd == pytest.approx(np.hypot(0.1, 0.3))
    assert odds[0] / odds[1] == pytest.approx(found.straight / found.odds[0])
    assert np.isfinite(average(made, odds).quantile(0.5)).all()


def test_no_break_is_looked_for_where_none_could_be_seen():
    exact = replace(DESIGNS[3], noise=Noise(0)).study(np.random.default_rng(0))
    assert breaks(fit("chinchilla", exact)) is None
    noisy = DESIGNS[0].study(np.random.default_rng(0))
    assert breaks(fit("power", noisy)) is None
    table = DESIGNS[3].study(np.random.default_rng(0))
    few = table[table["n_params"].isin(table["n_params"].value_counts().index[:4])]
    assert len(few) > 12
    assert breaks(fit("chinchilla-no-floor", few.reset_index(drop=True))) is None
