"""Candidate runs: which cells are offered, to the level and the token, and which a budget affords."""

import re

import numpy as np
import pandas as pd
import pytest

from isoflop.scaling.design.candidates import (
    RATIOS,
    SAME_TOKENS,
    STEP,
    CandidateRuns,
    DesignError,
    any_sizes,
    candidate_runs,
)
from isoflop.scaling.laws.law import Cost

SIZES = pd.DataFrame({
    "size": ["a", "b"], "n_params": [1e3, 1e4], "flops_token": [6e3, 7e4], "batch_tokens": [100, 300],
})  # fmt: skip


@pytest.mark.parametrize(
    ("min_steps", "max_tokens", "ratios"), [(1, np.inf, RATIOS), (300, np.inf, (5.0, 40.0)), (1, 2e5, RATIOS)]
)
def test_every_level_between_the_limits_is_offered_and_no_other(min_steps, max_tokens, ratios):
    found = candidate_runs(SIZES, 1e15, min_steps=min_steps, max_tokens=max_tokens, ratios=ratios).frame
    wanted = []
    for s in SIZES.itertuples():
        for level in range(200):
            tokens = STEP**level / s.flops_token
            fewest = max(min_steps * s.batch_tokens, ratios[0] * s.n_params)
            if fewest <= tokens * (1 + 1e-12) and tokens <= min(ratios[1] * s.n_params, max_tokens):
                whole = max(round(tokens / s.batch_tokens), 1) * s.batch_tokens
                wanted.append((s.size, float(f"{STEP**level:.3g}"), s.n_params, whole, whole * s.flops_token))
    assert found.to_records(index=False).tolist() == wanted
    assert len(wanted) > 5


def test_cells_of_fewer_tokens_than_half_a_batch_have_one():
    sizes = SIZES.head(1).assign(batch_tokens=10**6)
    found = candidate_runs(sizes, 1e15, min_steps=0).frame
    assert set(found["tokens"]) == {1e6}


def test_what_is_done_is_not_offered_again():
    every = candidate_runs(SIZES, 1e15, min_steps=1).frame
    one = every[every["size"] == "a"].iloc[5]
    for shift, offered in ((0.9, False), (-0.9, False), (1.1, True), (-1.1, True)):
        runs = pd.DataFrame({"size": ["a"], "tokens": [one["tokens"] * np.exp(shift * SAME_TOKENS)]})
        left = candidate_runs(SIZES, 1e15, runs=runs, min_steps=1).frame
        mine = left[(left["size"] == "a") & (left["tokens"] == one["tokens"])]
        assert len(mine) == offered
        assert (left["size"] == "b").sum() == (every["size"] == "b").sum()


def test_each_of_several_runs_of_a_size_is_left_out_and_a_decade_has_eight_levels():
    every = candidate_runs(SIZES, 1e15, min_steps=1).frame
    mine = every[every["size"] == "a"]
    assert mine["budget"].iloc[8] == pytest.approx(10 * mine["budget"].iloc[0], rel=0.01)
    runs = pd.DataFrame({"size": "a", "tokens": mine["tokens"].iloc[[2, 6]]})
    left = candidate_runs(SIZES, 1e15, runs=runs, min_steps=1).frame
    pd.testing.assert_frame_equal(left, every.drop(mine.index[[2, 6]]).reset_index(drop=True))


def test_a_branch_at_the_end_of_what_is_trained_costs_its_cooldown_whatever_the_rounding():
    frame = pd.DataFrame({"size": ["a"], "budget": 1e9, "n_params": 1.0, "tokens": 1e9, "flops": 1e9})
    for beyond, cost in ((-5e-10, 0.25e9), (0, 0.25e9), (5e-10, 0.25e9), (2e-9, 1e9)):
        cells = CandidateRuns(frame, {"a": 1.0}, {"a": 0.75e9 * (1 + beyond)}, 0.25)
        assert cells.cost([0]) == pytest.approx(cost, abs=1)
        assert cells.cost([]) == 0


def test_a_budget_affords_what_costs_no_more_than_it():
    every = candidate_runs(SIZES, 1e15, min_steps=1)
    cost = np.sort(every.frame["flops"].to_numpy())
    for k in (0, 7):
        assert len(candidate_runs(SIZES, cost[k], min_steps=1)) == k + 1
        if k:
            assert len(candidate_runs(SIZES, cost[k] * (1 - 1e-9), min_steps=1)) == k
    with pytest.raises(DesignError, match=re.escape(f"affords no cell: the cheapest cell costs {cost[0]:.3g}")):
        candidate_runs(SIZES, cost[0] * (1 - 1e-9), min_steps=1)
    with pytest.raises(DesignError, match="no cell is left to run") as caught:
        candidate_runs(SIZES, 1e15, min_steps=10**9)
    assert caught.value.exit_code == 1


def test_cells_are_affordable_by_what_they_add_to_trained_trunks():
    """A cell that branches off a trained trunk costs its cooldown and the way from the trunk's end."""
    every = candidate_runs(SIZES, 1e15, min_steps=1, cooldown=0.2)
    dear = every.frame.iloc[-1]
    end = 0.75 * dear["tokens"]
    trained = candidate_runs(SIZES, 1e15, min_steps=1, cooldown=0.2, trained={"b": end})
    added = trained.marginal([])[-1]
    assert added == pytest.approx((0.2 * dear["tokens"] + 0.8 * dear["tokens"] - end) * 7e4)
    assert every.marginal([])[-1] == pytest.approx(dear["flops"])


def test_trunks_of_two_sizes_are_each_paid_once():
    tokens = np.array([100.0, 200.0, 100.0, 300.0])
    frame = pd.DataFrame({"size": ["a", "a", "b", "b"], "budget": tokens, "n_params": 1.0, "tokens": tokens,
                          "flops": tokens})  # fmt: skip
    cells = CandidateRuns(frame, {"a": 1.0, "b": 10.0}, {"b": 120.0}, 0.25)
    assert len(cells) == 4
    assert cells.cost([]) == 0.0
    assert cells.cost([0, 1]) == pytest.approx(25 + 50 + 150)
    assert cells.cost([3]) == pytest.approx(10 * (75 + 225 - 120))
    assert cells.cost([2, 3]) == pytest.approx(10 * (100 + 75 + 105))  # one from the start, one from the trunk's end
    assert cells.marginal([1]) == pytest.approx([25, 50, 1000, 1800])
    assert cells.marginal([3, 0]) == pytest.approx([25, 50 + 75, 1000, 750])


def test_free_sizes_lie_around_the_centre():
    made = any_sizes(Cost(), 1e6, decades=1.5, per_decade=4)
    assert np.log10(made["n_params"]).to_numpy() == pytest.approx(np.arange(4.5, 7.6, 0.25))
    assert made["flops_token"].to_numpy() == pytest.approx(6 * made["n_params"].to_numpy())
    assert (made["batch_tokens"] == 1).all()
    assert len(any_sizes(Cost(), 1e6)) == 41


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


def test_cells_go_on_the_trunk_of_the_known_runs_of_their_size():
    every = candidate_runs(SIZES, 1e15, min_steps=1).frame
    cells = every.groupby("size").head(3).reset_index(drop=True)
    known = pd.DataFrame({"n_params": [1e3, 1e3, 5e3, 1e3], "cluster": ["p", "q", "r", "q"], "seed": [1, 0, 0, 0]})
    shared = CandidateRuns(cells, {}, {}, 0.2)
    runs, trunks = shared.trunks_with(known)
    assert len({*runs}) == 3
    assert runs[1] == runs[3]
    assert trunks.tolist() == [runs[1]] * 3 + [trunks[3]] * 3
    assert trunks[3] not in runs
    assert shared.trunks_with(known.drop(columns="seed"))[1][0] == runs[0]
    runs, trunks = shared.trunks_with(known.drop(columns="cluster"))
    assert len({*runs, *trunks}) == 4 + 2
    assert sorted({*runs, *trunks}) == list(range(6))
    runs, trunks = shared.trunks_with(None)
    assert len(runs) == 0
    assert len({*trunks}) == 2
    runs, trunks = CandidateRuns(cells, {}, {}, 1.0).trunks_with(known)
    assert len({*trunks}) == 6
    assert not {*trunks} & {*runs}
