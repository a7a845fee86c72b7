"""Which runs of a study a time or a sum pays for: within it, and chosen for the exponent."""

from dataclasses import replace
from itertools import combinations, pairwise

import pytest

from isoflop.experiments.compose.messages import UsageError
from isoflop.experiments.config import ExperimentConfig, ScheduleSpec, StudySpec, WhereSpec, WindowSpec
from isoflop.experiments.cost.cost import REFERENCE, trunk_seconds, trunks_seconds
from isoflop.experiments.study.cell import group_by_trunk
from isoflop.experiments.study.check import checked_study
from isoflop.experiments.sweep.afford import TooLittleError, _Search, afford, afford_text
from isoflop.experiments.sweep.launch import Launch, Part, launch_price
from isoflop.experiments.sweep.queue import Job
from tests.support.sweep.studies import CORPUS

WHERE = WhereSpec(workers=2, price_per_hour=0.5, watts=20.0)


def launch(where=WHERE, done=(), **study):
    spec = {"sizes": ["d16", "d24", "d32", "d48", "d64"], "budgets": [3e10, 1e11, 3e11], "seeds": [0, 1]} | study
    config = ExperimentConfig(
        schedule=ScheduleSpec(warmup_steps=5), study=StudySpec(name="t", window=WindowSpec(min_steps=20), **spec)
    )
    made = checked_study(config, CORPUS)
    states = {cell.run_id: "done" if i in done else "planned" for i, cell in enumerate(made.cells)}
    part = Part(made, None, "k", where)
    return Launch((part,), made.cells, states, (), REFERENCE, where, "runs", None)


def seconds(one, run_ids):
    left = [c for c in one.cells if c.run_id in run_ids and one.states[c.run_id] != "done"]
    return trunks_seconds(list(group_by_trunk(left).values()), 2, REFERENCE)


@pytest.fixture(scope="module")
def whole():
    one = launch()
    return one, seconds(one, {c.run_id for c in one.cells}) / 60


@pytest.mark.parametrize("share", [0.9, 0.6, 0.4])
def test_what_is_chosen_fits_and_every_run_is_chosen_or_left_out(whole, share):
    one, minutes = whole
    found = afford(one, minutes=share * minutes)
    assert sorted([*found["run_ids"], *found["left_out"]]) == sorted(c.run_id for c in one.cells)
    assert found["minutes"] == pytest.approx(seconds(one, found["run_ids"]) / 60)
    assert found["minutes"] <= share * minutes
    assert found["left_out"]
    for back in found["left_out"]:
        assert seconds(one, [*found["run_ids"], back]) > 60 * share * minutes
    assert found["overrides"] == [f"where.only=[{','.join(found['run_ids'])}]"]
    assert found["sd_exponent"]["chosen"] > found["sd_exponent"]["all"]


def test_more_money_never_makes_the_exponent_less_known(whole):
    one, minutes = whole
    sds = [afford(one, minutes=share * minutes)["sd_exponent"]["chosen"] for share in (0.35, 0.5, 0.7, 1.0)]
    assert all(more <= 1.02 * less for less, more in pairwise(sds)), sds
    assert sds[-1] < 0.9 * sds[0]


def test_money_is_time_by_the_price_of_the_devices(whole):
    one, minutes = whole
    by_time = afford(one, minutes=0.5 * minutes)
    by_money = afford(one, dollars=0.5 * minutes / 60 * 2 * 0.5)
    assert by_time["run_ids"] == by_money["run_ids"]
    assert by_money["dollars"] == pytest.approx(by_money["minutes"] / 60 * 2 * 0.5)
    assert by_money["joules"] == pytest.approx(by_money["minutes"] * 60 * 2 * 20.0)
    assert f"about ${by_money['dollars']:.2f}" in afford_text(by_money)


def test_all_of_a_study_that_fits_is_kept_and_needs_no_override(whole):
    one, minutes = whole
    found = afford(one, minutes=2 * minutes)
    assert (found["left_out"], found["overrides"]) == ([], [])


def test_finished_runs_cost_nothing_and_stay(whole):
    one = launch(done=range(6))
    minutes = whole[1] * 0.5
    found = afford(one, minutes=minutes)
    assert {c.run_id for c in one.cells[:6]} <= set(found["run_ids"])
    assert len(found["run_ids"]) >= len(afford(whole[0], minutes=minutes)["run_ids"])


def test_the_choice_is_near_the_best_that_there_is():
    """Against every subset of a grid of nine cells that fits: within a tenth of the least sd."""
    one = launch(sizes=["d24", "d32", "d64"], seeds=[0])
    cells = one.cells
    everything = seconds(one, {c.run_id for c in cells})
    search = _Search(cells, [False] * len(cells), REFERENCE, 2, 0.6 * everything)
    best = min(
        search.sd(kept)
        for size in range(3, len(cells) + 1)
        for kept in combinations(range(len(cells)), size)
        if search.seconds(kept) <= search.limit
    )
    assert search.sd(search.run()) <= 1.1 * best


def test_too_little_for_a_law_is_exit_1_and_says_what_all_take(whole):
    with pytest.raises(TooLittleError, match=r"0\.01 minutes pays for \d+ of \d+ runs: a law needs") as no:
        afford(whole[0], minutes=0.01)
    assert no.value.exit_code == 1
    assert "all of them take" in str(no.value)


def test_dollars_without_a_price_and_several_studies_are_bad_usage():
    with pytest.raises(UsageError, match=r"where\.price_per_hour"):
        afford(launch(WhereSpec(workers=2)), dollars=1.0)
    one = launch()
    with pytest.raises(UsageError, match="this launch has 2"):
        afford(replace(one, parts=one.parts * 2), minutes=1.0)


def test_jobs_on_other_machines_hold_their_devices_as_long_as_they_take():
    """A launch without workers here is paid by job, one of four workers here by the last of them."""
    one = launch(replace(WHERE, threads=2))
    jobs = tuple(Job(t, [], cells, trunk_seconds(cells, REFERENCE)) for t, cells in one.studies[0].trunks.items())
    elsewhere = launch_price(replace(one, jobs=jobs))
    assert elsewhere.device_hours == pytest.approx(2 * sum(job.seconds + REFERENCE.start for job in jobs) / 3600)
    here = launch_price(replace(one, jobs=jobs, workers=2))
    assert here.devices == 4
    assert here.device_hours == pytest.approx(4 * trunks_seconds([j.cells for j in jobs], 2, REFERENCE) / 3600)
