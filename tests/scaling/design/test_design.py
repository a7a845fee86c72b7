"""Suggested runs: hold-out, further seeds, grid, spreads and text; choices that beat a grid in real refits."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from isoflop.scaling.design import design
from isoflop.scaling.design.candidates import CandidateRuns, any_sizes, candidate_runs
from isoflop.scaling.design.design import Design, isoflop_grid, suggest
from isoflop.scaling.design.information import Noise, _gradient, scenario_of_law, standard_deviation
from isoflop.scaling.design.planning import plan_from_law
from isoflop.scaling.laws.cost import SIX_ND, Cost
from tests.support.fits.decision_checks import BLOCK, refits, suggestion
from tests.support.fits.simulated import BESIROGLU

pytestmark = pytest.mark.usefixtures("kept_searches")

TARGET, LEVELS = 1e21, (1e18, 3e18, 1e19)
SPREADS = (0.4, 1.0, 1.9, 2.1)  # sizes of the candidates over the best one


def candidates(levels=LEVELS):
    """Cells at each level whose sizes are SPREADS times the best one; each costs its level."""
    rows = [(f"{level:g}-{k}", level, BESIROGLU.optimal(level).N * s, level)
            for level in levels for k, s in enumerate(SPREADS)]  # fmt: skip
    frame = pd.DataFrame(rows, columns=["size", "budget", "n_params", "flops"])
    frame.insert(3, "tokens", frame["flops"] / 6 / frame["n_params"])
    return CandidateRuns(frame, {r.size: r.flops / r.tokens for r in frame.itertuples()}, {}, 1.0)


def hold_out(budget, largest=0.0, cells=None):
    cells = cells or candidates()
    at = design._hold_out(cells, BESIROGLU, SIX_ND, budget, largest)
    return None if at is None else str(cells.frame["size"][at])


def test_the_hold_out_is_nearest_to_the_optimum_at_the_largest_level_that_its_share_affords():
    assert hold_out(1e20) == hold_out(1e19 * (1 + 1e-9)) == "1e+19-1"
    assert hold_out(0.99e19) == "3e+18-1"
    assert hold_out(float(candidates().marginal([])[9])) == "1e+19-1"
    assert hold_out(0.9e18) is None


def test_the_hold_out_lies_above_every_run():
    assert hold_out(1e20, 0.9e19) == "1e+19-1"
    assert hold_out(1e20, 1e19 / 1.1) is None
    assert hold_out(0.99e19, 3e18 / 1.1 * 1.001) is None


def test_the_hold_out_is_within_a_factor_two_of_the_optimum_and_of_a_level_that_is_as_large_to_three_digits():
    cells = candidates()
    frame = cells.frame.drop(index=[9]).reset_index(drop=True)  # without the best size at the top
    left = CandidateRuns(frame, cells.per_token, {}, 1.0)
    assert hold_out(1e20, cells=left) == "1e+19-2"
    frame = frame[~frame["size"].isin(["1e+19-2"])].reset_index(drop=True)
    assert hold_out(1e20, cells=CandidateRuns(frame, cells.per_token, {}, 1.0)) == "3e+18-1"
    near = candidates((0.99e19, 1e19))
    near.frame.loc[[4, 5, 6, 7], "n_params"] *= 1.05  # sizes of the largest level are a little further off
    assert hold_out(1e20, cells=near) == "9.9e+18-1"
    assert hold_out(1e20, cells=candidates((0.985e19, 1e19))) == "1e+19-1"


def table_of(flops, roles=None):
    roles = roles or ["fit"] * len(flops)
    return pd.DataFrame({"flops": flops, "role": roles, "seeds": [[0]] * len(flops)}, index=range(3, 3 + len(flops)))


def seeds_of(table):
    return [len(seeds) for seeds in table["seeds"]]


def test_the_three_cheapest_cells_have_three_seeds_as_far_as_the_share_goes():
    table = table_of([5.0, 1.0, 2.0, 3.0, 4.0])
    made, spent = design._replicate(table, None, 12.0)
    assert (seeds_of(made), spent) == ([1, 3, 3, 3, 1], 12.0)
    assert made["seeds"].tolist()[1] == [0, 1, 2]
    made, spent = design._replicate(table, None, 11.9)
    assert (seeds_of(made), spent) == ([1, 3, 3, 1, 1], 6.0)
    assert seeds_of(table) == [1] * 5
    made, spent = design._replicate(table, None, 1.9)
    assert (seeds_of(made), spent) == ([1] * 5, 0.0)


def test_the_hold_out_has_one_seed():
    made, spent = design._replicate(table_of([1.0, 2.0, 3.0], ["fit", "hold-out", "fit"]), None, 100.0)
    assert (seeds_of(made), spent) == ([3, 1, 3], 8.0)


def offered(budget=6e19, *, ratios=(1e-9, 1e9), cooldown=1.0, per_decade=40):
    """Cells of many sizes at every level, all ratios of tokens to parameters unless some are ruled out."""
    sizes = any_sizes(GRID_COST, BESIROGLU.optimal(budget / 100).N, decades=1.5, per_decade=per_decade)
    return candidate_runs(sizes, budget, min_steps=1, ratios=ratios, cooldown=cooldown)


GRID_COST = Cost(k=7.0, slope=-0.01)


def test_the_grid_is_five_sizes_within_a_factor_four_at_five_budgets_over_two_decades():
    cells = offered()
    rows = isoflop_grid(cells, BESIROGLU, GRID_COST, 6e19)
    assert rows == sorted(set(rows))
    grid = cells.frame.loc[rows]
    levels = np.unique(grid["budget"])
    assert levels[-1] / levels == pytest.approx(10 ** np.array([2, 1.5, 1, 0.5, 0]), rel=0.01)
    for level, group in grid.groupby("budget"):
        off = np.sort(group["n_params"]) / BESIROGLU.optimal(level, GRID_COST).N
        assert off == pytest.approx([1 / 4, 1 / 2, 1, 2, 4], rel=0.03)  # sizes are 6% apart


def test_the_grid_is_the_dearest_that_the_budget_pays_for_and_counts_a_trunk_once():
    for cooldown in (1.0, 0.2):
        cells = offered(cooldown=cooldown, per_decade=8)
        rows = isoflop_grid(cells, BESIROGLU, GRID_COST, 6e19)
        top = cells.frame["budget"][rows].max()
        above = cells.frame["budget"][cells.frame["budget"] > top * 1.1].min()
        grids = [design._grid_below(cells.frame, BESIROGLU, GRID_COST, t) for t in (top, above)]
        assert rows == grids[0]
        assert cells.cost(grids[0]) <= 6e19 < cells.cost(grids[1])
    cost = cells.cost(rows)
    assert isoflop_grid(cells, BESIROGLU, GRID_COST, cost) == rows
    assert cells.cost(isoflop_grid(cells, BESIROGLU, GRID_COST, 0.999 * cost)) < cost
    assert isoflop_grid(cells, BESIROGLU, GRID_COST, 1.0) == []


def test_the_grid_keeps_the_rules_of_candidates():
    """A size beyond the ratios of tokens to parameters gives way to the nearest that is offered."""
    cells = offered(ratios=(10.0, 40.0))
    grid = cells.frame.loc[isoflop_grid(cells, BESIROGLU, GRID_COST, 6e19)]
    assert (grid["tokens"] / grid["n_params"]).between(9.9, 40.1).all()
    for level, group in grid.groupby("budget"):
        there = cells.frame["n_params"][cells.frame["budget"] == level]
        assert group["n_params"].agg(["min", "max"]).tolist() == there.agg(["min", "max"]).tolist()
    few = CandidateRuns(cells.frame.query("budget > 1e18").reset_index(drop=True), cells.per_token, {}, 1.0)
    assert few.frame["budget"][isoflop_grid(few, BESIROGLU, GRID_COST, 6e19)].min() > 1e18


MADE: list["Search"] = []


class Search:
    """Stands in for the exchange search: it chooses the fixed cells and the cells 0 and 1."""

    def __init__(self, cells, scenarios, noise, known, most):
        self.cells, self.scenarios, self.noise, self.known, self.most = cells, scenarios, noise, known, most
        self.fixed, self.chosen = [], []
        self.trunks = np.arange(len(cells)) % 5
        MADE.append(self)

    def search(self, budget):
        self.budget, self.chosen = budget, [*self.fixed, 1, 0]

    def rows(self, chosen):
        known = np.zeros(0 if self.known is None else len(self.known), int)
        return np.concatenate([known, self.trunks[list(chosen)]])

    def gains(self):
        return self.cells.frame.assign(gain=0.0)


@pytest.fixture
def suggested(monkeypatch):
    """A function that suggests by the stand-in; it returns the design and the search."""
    monkeypatch.setattr(design, "ExchangeSearch", Search)

    def make(cells=None, budget=1e20, **options):
        cells = cells or candidates()
        scenario = scenario_of_law(BESIROGLU, cells.frame, "loss", TARGET, SIX_ND)
        if "known" in options:
            scenario = replace(scenario, known=_gradient(scenario.problem, scenario.theta, options["known"]))
        options = {"best": BESIROGLU, "noise": Noise(0.01, 0.001, TARGET), "goal": "loss"} | options
        made = suggest(cells, [scenario], budget=budget, target=TARGET, cost=SIX_ND, **options)
        return made, MADE[-1]

    return make


def known(*flops):
    n = BESIROGLU.optimal(np.array(flops)).N
    return pd.DataFrame({"n_params": n, "tokens": np.array(flops) / 6 / n, "flops": flops})


def test_seeds_have_a_tenth_of_the_budget_or_what_the_cheapest_cells_take_for_them(suggested):
    _, search = suggested(budget=5e19)
    assert search.budget == pytest.approx(4.5e19)  # three cells of 1e18 with two seeds more take more than a tenth
    assert search.fixed == [5]  # 18% of the budget do not pay for the top level
    _, search = suggested(budget=2e20)
    assert search.budget == pytest.approx(2e20 - 2 * 3 * 2e18)
    _, search = suggested(budget=2e20, replicated=True)
    assert search.budget == 2e20
    assert (search.most, search.noise) == (50, Noise(0.01, 0.001, TARGET))


def test_cells_are_in_order_with_roles_seeds_and_what_they_cost(suggested):
    made, search = suggested(budget=1e20)
    assert search.fixed == [9]
    assert made.cells.index.tolist() == [0, 1, 2]
    assert made.cells["size"].tolist() == ["1e+18-0", "1e+18-1", "1e+19-1"]
    assert made.cells["role"].tolist() == ["fit", "fit", "hold-out"]
    assert seeds_of(made.cells) == [3, 3, 1]
    assert made.spent == pytest.approx(1e19 + 2e18 + 4e18)
    assert (made.goal, made.target, made.budget) == ("loss", TARGET, 1e20)
    assert "4e+18 FLOPs go to further seeds of the cheapest cells: the noise of one run" in made.notes
    made, _ = suggested(budget=1e20, replicated=True)
    assert (made.cells["seeds"].tolist(), made.spent) == ([[0]] * 3, pytest.approx(1.2e19))
    assert made.notes == ()


def test_seeds_take_no_more_than_the_search_left(suggested):
    made, _ = suggested(budget=1.2e19 + 3.9e18, hold_out_share=0.9, seed_share=0.9)
    assert sorted(seeds_of(made.cells)) == [1, 1, 3]


def test_a_hold_out_within_three_times_the_largest_run_is_said(suggested):
    made, _ = suggested(known=known(1e18, 1e19 / 3.01), replicated=True)
    assert made.notes == ()
    made, _ = suggested(known=known(1e18, 1e19 / 3), replicated=True)
    assert made.notes == ()
    made, _ = suggested(known=known(1e19 / 2.5, 1e18), replicated=True)
    assert made.notes == ("the hold-out is 2.5 times the largest run; 3 would test the law more",)


def test_no_hold_out_is_said_unless_none_was_asked_for(suggested):
    made, search = suggested(known=known(1e19), replicated=True)
    assert search.fixed == []
    assert made.notes == ("no hold-out: 18% of the budget affords none above the largest run (1e+19 FLOPs)",)
    assert set(made.cells["role"]) == {"fit"}
    made, _ = suggested(best=None, replicated=True, hold_out_share=0.0)
    assert made.notes == ()
    assert np.isnan(made.sd["grid"])


def test_spreads_are_those_of_the_information_now_after_and_of_the_grid(suggested):
    runs, noise = known(1e17, 3e17, 1e18), Noise(0.01, 0.002, TARGET, 0.3)
    made, search = suggested(known=runs, noise=noise, replicated=True)
    (scenario,) = search.scenarios
    chosen = search.chosen
    grid = isoflop_grid(search.cells, BESIROGLU, SIX_ND, 1e20)
    for found, at in ((made.sd, noise), (made.sampling, Noise(0.01, 0.0, TARGET, 0.3))):
        before = at.variance(runs["flops"].to_numpy())
        frame = search.cells.frame["flops"].to_numpy()
        inverses = {
            name: scenario.covariance(before, scenario.offered[:, rows], at.variance(frame[rows]), trunks, 0.3)
            for name, rows in (("now", []), ("after", chosen), ("grid", grid))
            for trunks in [search.rows(rows)]
        }
        wanted = {name: standard_deviation([scenario], [v]) for name, v in inverses.items()}
        assert found == pytest.approx(wanted)


def test_without_runs_nothing_is_known_now(suggested):
    made, _ = suggested()
    assert np.isnan(made.sd["now"])
    assert made.sampling["after"] < made.sd["after"]
    assert np.isfinite([made.sd["after"], made.sd["grid"]]).all()


@pytest.mark.parametrize(
    ("factor", "said"),
    [(1.0, "+/- 0.00%"), (1.05, "+/- 5.00%"), (1.999, "+/- 99.90%"), (2.0, "a factor 2"), (999.0, "a factor 999"),
     (1001.0, "beyond a factor 1000"), (1e300, "beyond a factor 1000")],
)  # fmt: skip
def test_an_interval_is_a_share_or_a_factor(factor, said):
    assert design._times(np.log(factor) / 1.645) == said
    assert design._times(1e6) == "beyond a factor 1000"


def test_the_text_of_a_design():
    cells = pd.DataFrame({"size": ["d8"], "budget": 1e12, "n_params": 2e5, "tokens": 4e6, "flops": 1e12,
                          "seeds": [[0, 1]], "role": "fit"})  # fmt: skip
    sd = {"now": np.nan, "after": np.log(1.05) / 1.645, "grid": np.log(3) / 1.645}
    made = Design("n_opt", 1e14, 2e12, 1e12, cells, sd, dict.fromkeys(sd, 0.0), cells, notes=("so",))
    assert str(made).splitlines() == [
        "1 cells for 1e+12 of 2e+12 FLOPs (2e+12 run by run, as isoflop plan counts), to know the best size at 1e+14 "
        "FLOPs",
        "      size    budget   n_params     tokens tok/param   seeds  role",
        "        d8     1e+12      2e+05      4e+06        20     0,1  fit",
        "  90% interval after these runs, if no law breaks: +/- 5.00%, of which sampling +/- 0.00%",
        "  90% interval after an isoFLOP grid instead, if no law breaks: a factor 3, of which sampling +/- 0.00%",
        "note: so",
    ]


def test_the_sum_of_the_runs_is_said_where_trunks_are_shared():
    cells = pd.DataFrame({"size": "d8", "budget": 1e12, "n_params": 2e5, "tokens": 4e6, "flops": [1e12, 2e12],
                          "seeds": [[0, 1], [0]], "role": "fit"})  # fmt: skip
    sd = {"now": np.nan, "after": 0.1, "grid": np.nan}
    for spent, said in ((3e12, True), (3.97e12, True), (3.99e12, False), (4e12, False)):
        made = Design("n_opt", 1e14, 5e12, spent, cells, sd, sd, cells)
        assert made.run_by_run == made.to_dict()["run_by_run_flops"] == 4e12
        assert ("(4e+12 run by run, as isoflop plan counts)" in str(made)) is said


@pytest.fixture(scope="module")
def planned():
    return plan_from_law(BESIROGLU, budget=6e19, target=8e20)


@pytest.mark.slow
def test_no_cell_twice_one_hold_out_within_budget(planned):
    cells = planned.cells
    assert not cells.duplicated(["size", "tokens"]).any()
    assert (cells["role"] == "hold-out").sum() == 1
    assert planned.spent <= planned.budget
    assert planned.spent > 0.9 * planned.budget
    assert any(len(seeds) == 3 for seeds in cells["seeds"])
    assert planned.sd["after"] < 0.6 * planned.sd["grid"]


@pytest.mark.slow
def test_real_refits_bear_out_the_predicted_spread(planned):
    realised = np.std(refits(planned.cells, planned.target, repeats=40), ddof=1)
    assert planned.sampling["after"] == pytest.approx(realised, rel=0.3)


@pytest.mark.slow
@pytest.mark.parametrize("tau", [0.0, 0.001])
def test_half_the_spread_of_a_grid_at_equal_spend(tau):
    message = suggestion(repeats=BLOCK // 2, tau=tau)
    assert message["ratio"] <= 0.5
    assert message["predicted"] == pytest.approx(message["realised"], rel=0.3)
