"""Gradients of goals and losses against differences of the law itself; variances by hand."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from isoflop.scaling.design import information
from isoflop.scaling.design.candidates import DesignError
from isoflop.scaling.design.information import DRAWS, Noise, scenario_of_fit, scenario_of_law, standard_deviation
from isoflop.scaling.fitting.fit import LeastSquares, fit
from isoflop.scaling.fitting.uncertainty import jackknife
from isoflop.scaling.laws.law import SIX_ND, Cost
from tests.support.fits.simulated import BESIROGLU, isoflop_table

CELLS = pd.DataFrame({"n_params": [1e8, 3e8, 1e9, 1e8], "tokens": [2e9, 1e10, 2e10, 5e10]})
COST = Cost(k=7.0, slope=-0.01)
TARGET = 1e22


def scenario(goal, cost=COST):
    return scenario_of_law(BESIROGLU, CELLS, goal, TARGET, cost)


def moved(found, j, step):
    """The law with one coordinate moved from the scenario's first parameter values."""
    theta = found.theta[:1].copy()
    theta[0, j] += step
    return found.problem.laws(theta)[0]


def goal_of(goal, law):
    best = law.optimal(TARGET, COST)
    return np.log(best.N) if goal == "n_opt" else np.log(best.loss)


@pytest.mark.parametrize("goal", ["n_opt", "loss", "multiplier"])
def test_the_gradient_of_a_goal_is_that_of_the_law(goal):
    found = scenario(goal)
    assert found.goal.shape == (DRAWS + 1, 5)
    scale = 1.0
    if goal == "multiplier":  # an error of ln loss over the slope of the frontier
        ends = [np.log(BESIROGLU.optimal(TARGET * f, COST).loss) for f in (0.99, 1.01)]
        scale = np.log(1.01 / 0.99) / (ends[0] - ends[1])
    for j in range(5):
        slope = (goal_of(goal, moved(found, j, 1e-3)) - goal_of(goal, moved(found, j, -1e-3))) / 2e-3
        assert found.goal[0, j] == pytest.approx(scale * slope, rel=1e-3, abs=1e-8)


@pytest.mark.parametrize("unit", [1.0, 1e-4, 1e3])
def test_a_floor_is_moved_by_no_more_than_the_losses_allow(unit):
    """In a unit in which losses are as small as a step of the difference, their logarithms have no slope so far off."""
    law = replace(BESIROGLU, E=BESIROGLU.E * unit, A=BESIROGLU.A * unit, B=BESIROGLU.B * unit)
    found = scenario_of_law(law, CELLS, "loss", TARGET, COST)
    at = found.problem.free.index("E")
    steps = []

    def quantity(one):
        steps.append(abs(one.E - law.E))
        return float(np.log(one.optimal(TARGET, COST).loss))

    problem = replace(found.problem, loss=found.problem.loss)
    slope = information.goal_gradient(problem, found.theta[:1], quantity)[0, at]
    assert slope == pytest.approx(1 / law.optimal(TARGET, COST).loss, rel=1e-6)
    assert max(steps) == pytest.approx(information.DIFFERENCE * min(1.0, problem.loss.min()), rel=1e-6)


def test_values_at_which_the_goal_has_no_slope_are_left_out(monkeypatch):
    own = information.goal_gradient

    def broken(*args):
        gradient = own(*args)
        gradient[[3, 5], [1, 4]] = np.nan, np.inf
        return gradient

    every = scenario("loss")
    monkeypatch.setattr(information, "goal_gradient", broken)
    left = scenario("loss")
    kept = np.delete(np.arange(DRAWS + 1), [3, 5])
    for name in ("theta", "goal", "offered", "known"):
        np.testing.assert_array_equal(getattr(left, name), getattr(every, name)[kept])


def test_gradients_of_ln_loss_are_those_of_the_law():
    found = scenario("loss")
    assert found.known.shape == (DRAWS + 1, 0, 5)
    for j in range(5):
        up, down = (np.log(moved(found, j, s)(CELLS["n_params"], CELLS["tokens"])) for s in (1e-4, -1e-4))
        assert found.offered[0, :, j] == pytest.approx((up - down) / 2e-4, rel=1e-4, abs=1e-8)


def test_the_first_values_are_the_laws_and_the_others_lie_about_it():
    found = scenario("loss", SIX_ND)
    assert found.problem.laws(found.theta[:1])[0].values() == pytest.approx(BESIROGLU.values())
    off = (found.theta[1:] - found.theta[0]) / np.maximum(np.abs(found.theta[0]), 0.3)
    assert off.std() == pytest.approx(0.05, abs=0.012)  # 10% of a coordinate, halved; of 55, to 2.5 standard errors
    for symbol, column in (("N", "n_params"), ("D", "tokens")):  # amplitudes are those at the middle of the cells
        assert found.problem.units[symbol] == pytest.approx(np.exp(np.log(CELLS[column]).mean()))
    again = scenario_of_law(BESIROGLU, CELLS, "loss", TARGET, SIX_ND)
    np.testing.assert_array_equal(again.theta, found.theta)
    assert (scenario_of_law(BESIROGLU, CELLS, "loss", TARGET, SIX_ND, seed=1).theta[1:] != found.theta[1:]).all()


def test_information_is_the_prior_and_every_run_by_its_variance():
    found = scenario("n_opt")
    variance = np.array([1.0, 4.0, 0.25, 2.0])
    for b in (0, 3):
        rows = found.offered[b]
        total = np.diag(found.prior) + rows.T @ np.diag(1 / variance) @ rows
        inverse = found.inverse(np.zeros(0), found.offered, variance)
        np.testing.assert_allclose(inverse[b], np.linalg.inv(total), rtol=1e-8)
        assert found.spread(inverse)[b] == pytest.approx(found.goal[b] @ np.linalg.inv(total) @ found.goal[b])
    alone = found.inverse(np.zeros(0))
    assert alone[0] == pytest.approx(np.diag(1 / found.prior))
    np.testing.assert_array_equal(found.inverse(np.zeros(0), found.offered), alone)


@pytest.mark.parametrize("shared", [0.0, 0.4, 0.95])
def test_runs_of_a_trunk_count_by_the_noise_that_they_share(shared):
    found = scenario("n_opt")
    known = replace(found, known=found.offered[:, [1, 2]])
    variance, trunk = np.array([1.0, 4.0, 0.25, 2.0, 0.5, 3.0]), np.array([0, 2, 0, 1, 2, 0])
    sd = np.sqrt(variance)
    noise = np.outer(sd, sd) * np.where(np.equal.outer(trunk, trunk), shared, 0.0)
    np.fill_diagonal(noise, variance)
    inverse = known.inverse(variance[:2], known.offered, variance[2:], trunk, shared)
    for b in (0, 3):
        rows = np.concatenate([known.known[b], known.offered[b]])
        total = np.diag(known.prior) + rows.T @ np.linalg.inv(noise) @ rows
        np.testing.assert_allclose(inverse[b], np.linalg.inv(total), rtol=1e-8)
        taken = np.linalg.inv(np.diag(known.prior) + rows.T @ np.diag(1 / variance) @ rows)  # by a fit's own weights
        inside = np.diag(known.prior) + rows.T @ np.diag(1 / variance) @ noise @ np.diag(1 / variance) @ rows
        covariance = known.covariance(variance[:2], known.offered, variance[2:], trunk, shared)
        np.testing.assert_allclose(covariance[b], taken @ inside @ taken, rtol=1e-8)
        assert known.spread(covariance)[b] >= known.spread(inverse)[b] * (1 - 1e-9)
    alone = known.inverse(variance[:2], None, None, trunk[:2], shared)
    assert alone == pytest.approx(known.inverse(variance[:2]))  # two trunks share nothing


def test_priors_are_the_laws_own():
    found = scenario("n_opt")
    known = [BESIROGLU.prior_sd.get(p, 1.0) for p in found.problem.free]
    assert found.prior == pytest.approx(1 / np.square(known))


def test_the_spread_is_a_weighted_mean_at_the_fitted_values():
    one, two = scenario("n_opt"), scenario("loss")
    object.__setattr__(one, "weight", 3.0)
    inverses = [s.inverse(np.zeros(0)) for s in (one, two)]
    first, second = (float(s.spread(v)[0]) for s, v in zip((one, two), inverses, strict=True))
    assert standard_deviation([one, two], inverses) == pytest.approx(np.sqrt((3 * first + second) / 4))


def test_a_run_beyond_the_target_has_no_discrepancy():
    noise = Noise(0.01, 0.1, 1e20)
    found = noise.variance(np.array([1e19, 1e20, 1e21]))
    assert found == pytest.approx([1e-4 + (0.1 * np.log(10)) ** 2, 1e-4, 1e-4])


@pytest.mark.parametrize("goal", ["n_opt", "loss"])
def test_linear_variance_matches_the_jackknife(goal):
    table = isoflop_table(BESIROGLU, seed=3)
    fitted = fit("chinchilla", table, objective=LeastSquares())
    scenario = scenario_of_fit(fitted, 1.0, fitted.points.frame, goal, 1e22)
    sd = np.sqrt(scenario.spread(scenario.inverse(np.full(len(table), fitted.noise**2)))[0])
    wanted = {"n_opt": lambda law: np.log(law.optimal(1e22).N), "loss": lambda law: np.log(law.optimal(1e22).loss)}
    assert sd == pytest.approx(float(jackknife(fitted).standard_error(wanted[goal])), rel=0.5)


@pytest.mark.slow
def test_refits_to_runs_that_share_noise_scatter_as_their_covariance_says():
    """As if the runs were independent the scatter would pass for a third less than it is."""
    sizes = np.geomspace(3e6, 3e8, 9)
    cells = [(k, n, c / 6 / n) for c in np.geomspace(1e16, 1e18, 5) for k, n in enumerate(sizes)
             if 1 < c / 6 / n**2 < 400]  # fmt: skip
    table = pd.DataFrame(cells, columns=["trunk_id", "n_params", "tokens"])
    trunk, optima, predicted = table["trunk_id"].to_numpy(), [], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        noise = 0.01 * (np.sqrt(0.7) * rng.normal(size=9)[trunk] + np.sqrt(0.3) * rng.normal(size=len(table)))
        loss = BESIROGLU(table["n_params"], table["tokens"]) * np.exp(noise)
        fitted = fit("chinchilla", table.assign(loss=loss, trunk_id=trunk.astype(str)), objective=LeastSquares())
        optima.append(np.log(fitted.optimal(1e20).N))
        if seed < 5:
            found = scenario_of_fit(fitted, 1.0, fitted.points.frame, "n_opt", 1e20)
            label = pd.factorize(fitted.points.frame["cluster"])[0]
            variance = np.full(len(table), 1e-4)
            for shared in (0.7, 0.0):
                covariance = found.covariance(variance, found.offered[:, :0], variance[:0], label, shared)
                predicted.append(standard_deviation([found], [covariance]))
    realised = np.std(optima, ddof=1)
    assert np.median(predicted[::2]) == pytest.approx(realised, rel=0.25)
    assert np.median(predicted[1::2]) < 0.8 * realised


@pytest.mark.parametrize("scale", [1e-6, 1e-4, 1e-2])
def test_losses_of_any_size_know_the_goal_as_well_even_with_the_floor_at_its_bound(scale):
    floorless = replace(BESIROGLU, E=0.0)
    small = replace(floorless, A=BESIROGLU.A * scale, B=BESIROGLU.B * scale)
    known = [p != "E" for p in scenario("loss").problem.free]
    one, other = (scenario_of_law(law, CELLS, "loss", TARGET, COST).goal[0] for law in (floorless, small))
    assert other[known] == pytest.approx(one[known], rel=1e-6)
    assert other[0] * scale == pytest.approx(one[0], rel=1e-6)


def test_a_goal_without_a_value_is_refused_by_name(monkeypatch):
    monkeypatch.setattr(information, "_goal", lambda *_: lambda _: np.nan)
    with pytest.raises(DesignError, match=r"the goal \(loss\) has no value at 1e\+22 FLOPs under the law chinchilla"):
        scenario("loss")
