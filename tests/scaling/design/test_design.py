"""Suggested runs: costs as trained, choices that beat a grid in real refits, no cell twice."""

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import linprog

from isoflop.scaling.design.candidates import CandidateRuns, DesignError, any_sizes, candidate_runs
from isoflop.scaling.design.design import isoflop_grid
from isoflop.scaling.design.information import Noise, scenario_of_fit, scenario_of_law
from isoflop.scaling.design.planning import plan_from_law, plan_from_table
from isoflop.scaling.design.search import ExchangeSearch
from isoflop.scaling.design.simulate import simulate_points
from isoflop.scaling.fitting.fit import LeastSquares, fit
from isoflop.scaling.fitting.uncertainty import jackknife
from isoflop.scaling.laws.cost import Cost
from tests.support.fits.decision_checks import BLOCK, refits, suggestion
from tests.support.fits.simulated import BESIROGLU, NOISE, isoflop_table

pytestmark = pytest.mark.usefixtures("kept_searches")

SIZES = pd.DataFrame({
    "size": ["a", "b"], "n_params": [1e3, 1e4], "flops_token": [6e3, 6e4], "batch_tokens": [100, 100],
})  # fmt: skip


def one_trunk(trained: float = 0.0) -> CandidateRuns:
    tokens = np.array([100.0, 200.0, 400.0])
    frame = pd.DataFrame({"size": "a", "budget": tokens, "n_params": 1.0, "tokens": tokens, "flops": tokens})
    return CandidateRuns(frame, {"a": 1.0}, {"a": trained}, 0.2)


def test_branches_share_their_trunk():
    cells = one_trunk()
    assert cells.cost([0]) == pytest.approx(100)
    assert cells.cost([0, 1, 2]) == pytest.approx(320 + 0.2 * 700)
    assert np.allclose(cells.marginal([2]), [20, 40, 80])


def test_a_longer_branch_of_a_trained_trunk_costs_its_extra_tokens():
    cells = one_trunk(trained=160.0)
    assert np.allclose(cells.marginal([]), [100, 40, 160 + 80])
    assert cells.cost([2]) == pytest.approx(240)
    assert cells.cost([0, 1, 2]) == pytest.approx(100 + 40 + 240)


def test_without_trunks_every_cell_costs_all_its_tokens():
    cells = candidate_runs(SIZES, 1e12, min_steps=1)
    assert np.allclose(cells.marginal([]), cells.frame["flops"])
    assert cells.cost([0, 1]) == pytest.approx(cells.frame["flops"][:2].sum())


def test_candidates_can_run_and_are_new():
    runs = pd.DataFrame({"size": ["a", "b"], "tokens": [5e4, 1e6]})
    cells = candidate_runs(SIZES, 1e12, runs=runs, min_steps=300, max_tokens=1e6)
    frame = cells.frame
    assert (frame["tokens"] >= 29_900).all()
    assert (frame["tokens"] <= 1.2e6).all()
    ratio = frame["tokens"] / frame["n_params"]
    assert ratio.between(1.8, 330).all()
    near = [np.abs(np.log(frame[frame["size"] == s]["tokens"] / t)).min() for s, t in runs.itertuples(index=False)]
    assert min(near) >= 0.15


def test_a_budget_below_every_cell_is_refused_with_the_cheapest():
    with pytest.raises(DesignError, match="the cheapest cell costs"):
        candidate_runs(SIZES, 1e3, min_steps=1)


@pytest.mark.parametrize("goal", ["n_opt", "loss"])
def test_linear_variance_matches_the_jackknife(goal):
    table = isoflop_table(BESIROGLU, seed=3)
    fitted = fit("chinchilla", table, objective=LeastSquares())
    scenario = scenario_of_fit(fitted, 1.0, fitted.points.frame, goal, 1e22)
    sd = np.sqrt(scenario.spread(scenario.inverse(np.full(len(table), fitted.noise**2)))[0])
    wanted = {"n_opt": lambda law: np.log(law.optimal(1e22).N), "loss": lambda law: np.log(law.optimal(1e22).loss)}
    assert sd == pytest.approx(float(jackknife(fitted).standard_error(wanted[goal])), rel=0.5)


def test_discrepancy_grows_with_distance_from_the_target():
    noise = Noise(0.003, 0.001, 1e21)
    assert noise.variance(np.array([1e21]))[0] == pytest.approx(9e-6)
    assert noise.variance(np.array([1e18]))[0] == pytest.approx(9e-6 + (0.001 * np.log(1e3)) ** 2)


def test_the_grid_spends_the_budget():
    for sizes in ((0.0, np.inf), (1e8, np.inf)):
        grid = isoflop_grid(BESIROGLU, Cost(), 6e19, sizes)
        assert grid["flops"].sum() == pytest.approx(6e19, rel=1e-3)
        assert (grid["n_params"] >= sizes[0]).all()


@pytest.fixture(scope="module")
def planned():
    return plan_from_law(BESIROGLU, budget=6e19, target=8e20)


def test_no_cell_twice_one_hold_out_within_budget(planned):
    cells = planned.cells
    assert not cells.duplicated(["size", "tokens"]).any()
    assert (cells["role"] == "hold-out").sum() == 1
    assert planned.spent <= planned.budget
    assert planned.spent > 0.9 * planned.budget
    assert any(len(seeds) == 3 for seeds in cells["seeds"])
    assert planned.sd["after"] < 0.6 * planned.sd["grid"]


def test_real_refits_bear_out_the_predicted_spread(planned):
    realised = np.std(refits(planned.cells, planned.target, repeats=40), ddof=1)
    assert planned.sampling["after"] == pytest.approx(realised, rel=0.3)


@pytest.mark.slow
@pytest.mark.parametrize("tau", [0.0, 0.001])
def test_half_the_spread_of_a_grid_at_equal_spend(tau):
    told = suggestion(repeats=BLOCK // 2, tau=tau)
    assert told["ratio"] <= 0.5
    assert told["predicted"] == pytest.approx(told["realised"], rel=0.3)


@pytest.mark.slow
def test_a_table_is_planned_from_what_it_shows():
    table = isoflop_table(BESIROGLU, seed=0)
    made = plan_from_table(table, budget=1e21, target=1e23, goal="loss")
    assert made.sd["after"] < made.sd["now"]
    assert made.sampling["after"] < made.sampling["now"]
    assert made.cells.query("role == 'hold-out'")["flops"].max() > 1.1e20
    assert made.to_dict()["gains"][0]["gain"] >= 0
    with pytest.raises(DesignError, match="not above the largest run"):
        plan_from_table(table, budget=3e20, target=1e19)


@pytest.mark.slow
def test_doing_what_was_suggested_narrows_the_question():
    table = isoflop_table(BESIROGLU, seed=0)
    made = plan_from_table(table, budget=1e20, target=1e22)
    more = simulate_points(BESIROGLU, made.cells["n_params"], made.cells["tokens"], noise=NOISE, seed=50)
    spread = [
        float(jackknife(fit("chinchilla", t)).standard_error(lambda law: np.log(law.optimal(1e22).N)))
        for t in (table, pd.concat([table, more]))
    ]
    assert spread[1] < 0.8 * spread[0]


def lower_bound(search: ExchangeSearch, budget: float, most: int) -> float:
    """No set of cells has a smaller value: the convex relaxation, cells in part, less its duality gap."""
    cost = search.cells.frame["flops"].to_numpy(float) / budget
    (scenario,) = search.scenarios
    prior, start = np.diag(scenario.prior), search.spread[0]

    def value(part):
        information = prior + np.einsum("bnp,n,bnq->bpq", scenario.offered, part / search.variance, scenario.offered)
        inverse = np.linalg.inv(information)
        pull = np.einsum("bnp,bpq,bq->bn", scenario.offered, inverse, scenario.goal)
        slope = -np.mean(pull**2 / search.variance / start[:, None], axis=0)
        return float(np.mean(scenario.spread(inverse) / start)), slope

    part, best = np.zeros(len(cost)), 0.0
    for _ in range(80):
        now, slope = value(part)
        limits = np.vstack([cost, np.ones_like(cost)])
        corner = linprog(slope, A_ub=limits, b_ub=[1.0, most], bounds=(0, 1)).x
        best = max(best, now + float(slope @ (corner - part)))
        steps = np.linspace(0, 1, 21) ** 2
        part = part + min(steps, key=lambda t: value(part + t * (corner - part))[0]) * (corner - part)
    return best


@pytest.mark.slow
def test_no_other_choice_is_much_better():
    budget, target, most = 6e19, 8e20, 30
    cells = candidate_runs(any_sizes(Cost(), 2e8, per_decade=4), budget, min_steps=1)
    scenario = scenario_of_law(BESIROGLU, cells.frame, "n_opt", target, Cost())
    search = ExchangeSearch(cells, [scenario], Noise(NOISE, 0.001, target), None, most)
    search.search(budget)
    assert cells.cost(search.chosen) <= budget
    assert len(set(search.chosen)) == len(search.chosen) <= most
    assert search.value(search.chosen) <= 1.03 * lower_bound(search, budget, most)
