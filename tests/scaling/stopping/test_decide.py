"""Decisions: by the rows that were paid for alone, within the FLOPs, and first what tells most."""

import numpy as np
import pytest

from isoflop.scaling.stopping import decide as module
from isoflop.scaling.stopping.decide import STAGES, decide
from isoflop.scaling.stopping.forecasts import forecast_ends
from isoflop.scaling.stopping.planned_run import curves_so_far, ended
from tests.support.fits.planned import plan_of_grid, rows_of, without_trunks

PLAN = plan_of_grid()
ROWS = rows_of(PLAN, np.random.default_rng(0))


@pytest.fixture(scope="module")
def decided():
    """The decisions of the stages, each with the extents before it."""
    found, extents = [], {}
    for stage in range(len(STAGES)):
        made = decide(PLAN, ROWS, (), extents, stage)
        found.append((extents, made))
        extents = made.extents
    return found


def test_each_stage_keeps_to_its_flops_and_takes_no_run_back(decided):
    whole = PLAN.flops(PLAN.whole)
    for share, (before, made) in zip(STAGES, decided, strict=True):
        assert made.whole == whole
        assert made.flops == pytest.approx(PLAN.flops(made.extents))
        assert made.flops <= share * whole
        assert all(made.extents[run_id] >= steps for run_id, steps in before.items())
    assert any(not ended(one, decided[-1][1].extents) for one in PLAN.runs)


def test_the_first_stage_takes_the_cheapest_runs(decided):
    first = decided[0][1]
    costs = [one.flops for one in PLAN.runs if ended(one, first.extents)]
    assert costs
    assert max(costs) <= min(one.flops for one in PLAN.runs if not ended(one, first.extents)) * (1 + 1e-9)
    assert np.isnan(first.moves)


@pytest.mark.slow
def test_rows_that_nobody_paid_for_change_no_decision(decided):
    """So that a launch that is resumed decides the same, however far its runs have come."""
    for stage, (before, made) in enumerate(decided):
        seen = ROWS[[step <= before.get(run_id, 0) for run_id, step in zip(ROWS["run_id"], ROWS["step"], strict=True)]]
        assert 0 < len(seen) < len(ROWS) or stage == 0
        assert decide(PLAN, seen, (), before, stage).extents == made.extents
        shuffled = ROWS.sample(frac=1.0, random_state=1).sort_values("step", kind="stable")
        assert decide(PLAN, shuffled, (), before, stage).extents == made.extents


def test_what_is_left_would_move_the_exponent_less_after_each_stage(decided):
    assert decided[2][1].moves < decided[1][1].moves or decided[1][1].moves <= module.WITHIN


@pytest.mark.slow
def test_a_run_goes_on_no_more_once_little_is_left_to_learn(decided, monkeypatch):
    monkeypatch.setattr(module, "WITHIN", 10.0)
    before = decided[0][1].extents
    assert decide(PLAN, ROWS, (), before, 1).extents == before


@pytest.mark.slow
def test_runs_that_diverged_are_taken_no_further(decided):
    before = decided[0][1].extents
    lost = {one.run_id for one in PLAN.runs if not ended(one, before)}
    assert decide(PLAN, ROWS, lost, before, 1).extents == before


@pytest.mark.slow
def test_runs_with_trunks_of_their_own_are_all_begun():
    plan = without_trunks(PLAN)
    rows = rows_of(plan, np.random.default_rng(1))
    extents = {}
    for stage in range(len(STAGES)):
        made = decide(plan, rows, (), extents, stage)
        extents = made.extents
    assert made.flops <= STAGES[-1] * made.whole
    partial = [one for one in plan.runs if 0 < extents.get(one.run_id, 0) < one.steps]
    assert all(extents[one.run_id] in one.marks for one in partial)
    assert partial


@pytest.mark.slow
def test_ends_are_forecast_to_within_their_errors(decided):
    extents = decided[-1][1].extents
    reported = forecast_ends(PLAN, ROWS, (), extents)
    truth = ROWS[ROWS["final"]].set_index("run_id")["loss"]
    assert set(reported) == {one.run_id for one in PLAN.runs if not ended(one, extents)}
    off = np.array([np.log(end.loss / truth[run_id]) for run_id, end in reported.items()])
    errors = np.array([end.error / end.loss for end in reported.values()])
    assert np.abs(off).max() < 0.03
    assert np.sqrt(np.mean((off / errors) ** 2)) < 2.5


@pytest.mark.slow
def test_a_forecast_does_not_read_rows_that_nobody_paid_for(decided):
    extents = decided[-1][1].extents
    seen = [curve for curve in curves_so_far(PLAN, ROWS, extents) if not curve.done]
    worse = ROWS.assign(loss=ROWS["loss"].where(
        [step <= extents.get(run_id, 0) for run_id, step in zip(ROWS["run_id"], ROWS["step"], strict=True)], 9.0
    ))  # fmt: skip
    assert forecast_ends(PLAN, worse, (), extents) == forecast_ends(PLAN, ROWS, (), extents)
    assert seen
