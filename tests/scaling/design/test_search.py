"""The exchange search on problems small enough to try every choice."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import linprog

from isoflop.scaling.design.candidates import CandidateRuns, DesignError, any_sizes, candidate_runs
from isoflop.scaling.design.information import Noise, Scenario, scenario_of_law
from isoflop.scaling.design.search import ExchangeSearch
from isoflop.scaling.fitting.problem import FitProblem
from isoflop.scaling.laws.chinchilla import Chinchilla
from isoflop.scaling.laws.cost import Cost
from tests.support.fits.simulated import BESIROGLU
from tests.support.fits.simulated import NOISE as ONE_RUN

NOISE = Noise(0.1, 0.05, 1e3)


def scenario(count, seed, *, known=2, weight=1.0):
    """Random gradients of three parameters at two plausible values."""
    rng = np.random.default_rng(seed)
    problem = FitProblem(Chinchilla, {"N": np.ones(1), "D": np.ones(1)}, np.ones(1), {})
    return Scenario(
        weight, rng.normal(size=(2, 3)), rng.normal(size=(2, known, 3)), rng.normal(size=(2, count, 3)),
        np.array([1.0, 2.0, 0.5]), problem, np.zeros((2, 5)),
    )  # fmt: skip


def problem(count=8, *, most=4, scenarios=2, seed=0, shared=0.0):
    flops = np.random.default_rng(seed).integers(2, 12, count) / 2
    frame = pd.DataFrame({"size": [f"s{i}" for i in range(count)], "budget": flops, "n_params": flops, "tokens": 1.0,
                          "flops": flops})  # fmt: skip
    cells = CandidateRuns(frame, {f"s{i}": c for i, c in enumerate(flops)}, {}, 1.0)
    known = pd.DataFrame({"flops": [2.0, 3.0]})
    if shared:  # cells of one number of parameters go on one trunk, that of a known run where there is one
        frame["n_params"] = frame["size"] = np.arange(count) % 3
        known = known.assign(n_params=[0, 5], cluster=["x", "y"])
        cells = CandidateRuns(frame, dict.fromkeys(range(3), 1.0), {}, 0.2)
    given = [scenario(count, seed + k, weight=1.0 + k) for k in range(scenarios)]
    return ExchangeSearch(cells, given, replace(NOISE, shared=shared), known, most)


def value_by_hand(search, chosen):
    """Weighted mean over scenarios and values of the variance after, over that before."""
    rows = list(chosen)
    trunk = np.array([*search.known_trunk, *search.trunk[rows]])
    sd = np.sqrt([*search.known_variance, *search.variance[rows]])
    noise = np.outer(sd, sd) * np.where(np.equal.outer(trunk, trunk), search.shared, 0.0)
    np.fill_diagonal(noise, sd**2)
    ratios, share = [], []
    for s in search.scenarios:
        each, before = [], []
        for b in range(2):
            every, old = np.concatenate([s.known[b], s.offered[b, rows]]), len(s.known[b])
            known = s.known[b].T @ np.linalg.inv(noise[:old, :old]) @ s.known[b] + np.diag(s.prior)
            after = every.T @ np.linalg.inv(noise) @ every + np.diag(s.prior)
            start, end = (s.goal[b] @ np.linalg.inv(m) @ s.goal[b] for m in (known, after))
            each.append(end / start)
            before.append(start)
        ratios.append(np.mean(each))
        share.append(s.weight * np.median(before))
    return float(np.dot(share, ratios) / np.sum(share))


@pytest.mark.parametrize("shared", [0.0, 0.4, 0.9])
def test_values_and_gains_are_those_of_the_information(shared):
    search = problem(shared=shared)
    assert search.value([]) == pytest.approx(1.0)
    for chosen in ([0], [3, 5], [1, 2, 6]):
        assert search.value(chosen) == pytest.approx(value_by_hand(search, chosen), rel=1e-10)
        inverses, given = search._inverses(chosen), search._given(chosen)
        gain = search._gain(inverses, given)
        for new in set(range(8)) - set(chosen):
            assert gain[new] == pytest.approx(search.value(chosen) - search.value([*chosen, new]), rel=1e-9)
            moved = [search._with(v, *rows, new) for v, rows in zip(inverses, given, strict=True)]
            for one, direct in zip(moved, search._inverses([*chosen, new]), strict=True):
                np.testing.assert_allclose(one, direct, rtol=1e-9)
    table = search.gains()
    assert table["gain"].to_numpy() == pytest.approx(search._gain(search._inverses([]), search._given([])))
    assert list(table) == ["size", "budget", "n_params", "tokens", "flops", "gain"]


def test_more_cells_of_one_trunk_tell_less_than_as_many_of_their_own():
    """Of equal gradients: noise that is shared does not average out, and is not counted as if it did."""
    values = []
    for shared in (0.0, 0.6):
        search = problem(9, shared=shared, scenarios=1)
        search.scenarios[0].offered[:] = search.scenarios[0].offered[:, :1]
        search.variance[:] = 3.0
        search.trunk = np.array([3, 3, 3, 4, 5, 6, 7, 8, 9])
        values.append((search.value([0, 1, 2]), search.value([3, 4, 5])))
    assert values[0][0] == pytest.approx(values[0][1])
    assert 1 - values[1][1] > 1.1 * (1 - values[1][0])


def test_filling_counts_what_cells_of_a_trunk_share():
    """Every cell that is added is the best by the value of the set with it."""
    search = problem(9, most=5)
    search.shared, search.trunk, search.known_trunk = 0.7, np.arange(9) % 3, np.array([0, 3])
    chosen = search._fill([], 1e9, 0.0)  # whatever they cost
    for k in range(5):
        values = {i: search.value([*chosen[:k], i]) for i in set(range(9)) - set(chosen[:k])}
        assert chosen[k] == min(values, key=values.get)


def test_without_known_runs_the_prior_alone_stands_at_the_start():
    search = problem(scenarios=1)
    alone = ExchangeSearch(search.cells, [scenario(8, 0, known=0)], NOISE, None, 4)
    s = alone.scenarios[0]
    assert alone.spread[0] == pytest.approx(np.sum(s.goal**2 / s.prior, axis=1))
    assert alone.known_variance.shape == (0,)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("budget", "most"), [(9.0, 4), (30.0, 3), (6.0, 8)])
def test_of_every_choice_nearly_the_best_is_found(seed, budget, most):
    search = problem(most=most, seed=seed)
    search.search(budget)
    every = [c for k in range(most + 1) for c in combinations(range(8), k) if search.cells.cost(c) <= budget]
    assert search.cells.cost(search.chosen) <= budget
    assert len(search.chosen) <= most
    assert search.value(search.chosen) <= 1.05 * min(map(search.value, every))


def test_a_cell_that_costs_just_what_is_left_is_taken_and_none_twice():
    search = problem(most=8)
    total = search.cells.cost(range(8))
    assert sorted(search._fill([], total, 0.5)) == list(range(8))
    assert len(search._fill([], total * (1 - 1e-6), 0.5)) == 7
    for most in (1, 3):
        search.most = most
        assert len(search._fill([], total, 0.5)) == most
    search.most = 8
    assert search._fill([2, 5], search.cells.cost([2, 5]), 0.5) == [2, 5]


def test_cells_are_filled_by_gain_per_power_of_the_price():
    """The price is the share of the FLOPs and of the number."""
    for seed in range(6):
        search = problem(20, most=4, seed=seed)
        gain, cost = search._gain(search._inverses([]), search._given([])), search.cells.frame["flops"].to_numpy()
        for budget in (12.0, 60.0):
            for power in (0.25, 1.0, 3.0):
                first = np.argmax(gain / (cost / budget + 1 / 4) ** power)
                assert search._fill([], budget, power)[0] == first
    search = problem(most=4)
    cost = search.cells.frame["flops"].to_numpy()
    cheap = np.argmin(cost)
    assert search._fill([], float(cost[cheap]), 1.0) == [cheap]


def test_fixed_cells_stay():
    search = problem(most=3)
    worst = int(np.argmin(search._gain(search._inverses([]), search._given([]))))
    search.fixed = [worst]
    search.search(30.0)
    assert worst in search.chosen
    assert len(search.chosen) == 3
    every = [c for c in combinations(range(8), 3) if worst in c]
    assert search.value(search.chosen) <= 1.05 * min(map(search.value, every))
    search.search(float(search.cells.frame["flops"][worst]))
    assert search.chosen == [worst]


def test_the_search_is_repeated_to_the_bit_and_by_its_seed():
    found = []
    for seed in (0, 0, 1):
        search = problem(40, most=9, seed=3)
        search.search(18.0, rounds=3, seed=seed)
        found.append(search.chosen)
    assert found[0] == found[1] != found[2]
    search.search(18.0, rounds=3)
    assert search.chosen == found[0]


def test_a_round_takes_out_from_one_cell_to_half_and_one():
    search, kept = problem(40, most=9, seed=3), []
    own = search._fill

    def fill(chosen, *rest):
        kept.append(9 - len(chosen))
        return own(chosen, *rest)

    search._fill = fill
    search.search(1e3)  # affords nine cells each time
    assert kept[:4] == [9] * 4
    assert set(kept[4:]) == {1, 2, 3, 4, 5}
    assert np.mean(kept[4:]) == pytest.approx(3, abs=0.35)  # each as often: to two standard errors


def test_the_best_of_the_greedy_sets_is_begun_with():
    for seed in range(4):
        search = problem(40, most=9, seed=seed)
        greedy = [search.value(search._fill([], 18.0, p)) for p in (0.25, 0.5, 0.75, 1.0)]
        search.search(18.0, rounds=0)
        assert search.value(search.chosen) == pytest.approx(min(greedy), rel=1e-12)
        assert seed or max(greedy) > min(greedy)


@pytest.mark.slow
def test_more_rounds_are_never_worse():
    values = []
    for rounds in (0, 5, 80):
        search = problem(40, most=9, seed=5)
        search.search(18.0, rounds=rounds)
        values.append(search.value(search.chosen))
    assert values[0] >= values[1] >= values[2]
    greedy = problem(40, most=9, seed=5)
    assert values[0] == pytest.approx(min(greedy.value(greedy._fill([], 18.0, p)) for p in (0.25, 0.5, 0.75, 1.0)))


def test_a_goal_that_nothing_identifies_is_refused():
    search = problem()
    broken = scenario(8, 0)
    broken.goal[0, 0] = np.inf
    with pytest.raises(DesignError, match="leave the target undetermined"):
        ExchangeSearch(search.cells, [scenario(8, 1), broken], NOISE, pd.DataFrame({"flops": [2.0, 3.0]}), 4)


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
    search = ExchangeSearch(cells, [scenario], Noise(ONE_RUN, 0.001, target), None, most)
    search.search(budget)
    assert cells.cost(search.chosen) <= budget
    assert len(set(search.chosen)) == len(search.chosen) <= most
    assert search.value(search.chosen) <= 1.03 * lower_bound(search, budget, most)
