"""Which trunks are trained side by side, how many at once, and what becomes of those whose worker dies."""

from dataclasses import replace

import pytest

from isoflop.experiments.compose.messages import UsageError
from isoflop.experiments.config import WhereSpec
from isoflop.experiments.cost.memory import estimated_bytes
from isoflop.experiments.cost.packs import FEWEST, FILLING, MOST, packs, share, side_by_side
from isoflop.experiments.store.store import create_store
from isoflop.experiments.sweep import queue as jobs
from isoflop.experiments.sweep import train_job as sweep
from isoflop.experiments.sweep.launch import load
from isoflop.experiments.sweep.queue import MAX_DEATHS, Job, packed
from isoflop.scaling.table.runs import read_runs
from tests.support.sweep.launches import (
    PACK,
    check_same,
    in_process,
    rows_alone,
    states,
    sweep_with,
    three_alike,
)
from tests.support.sweep.studies import cell_of_width


@pytest.fixture
def spec(text, tmp_path):
    return three_alike(text, tmp_path)


@pytest.fixture(scope="module")
def alone(text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    return rows_alone(three_alike(text, folder), folder / "runs")


GPU = WhereSpec(device="cuda")


def test_side_by_side_are_trunks_of_a_gpu_or_as_many_as_told():
    assert not side_by_side(WhereSpec())
    assert side_by_side(PACK)
    assert side_by_side(GPU)
    for alone in ({"pack": 1}, {"distributed": "ddp"}, {"trackers": ["wandb"]}):
        assert not side_by_side(replace(GPU, **alone))
    with pytest.raises(UsageError, match=r"where\.pack must be at least 1"):
        side_by_side(WhereSpec(pack=0))


def test_a_small_trunk_takes_little_of_a_gpu_and_a_large_one_half(spec):
    small = load(spec)[0].cells[0]
    large = cell_of_width(512)
    large = replace(large, optim=replace(large.optim, batch_size=256))
    assert share(small, GPU, 1e15) == 1 / MOST
    assert large.step_flops > FILLING
    assert share(large, GPU, 1e15) == 1 / FEWEST
    assert share(large, GPU, 1.0) == 1.0
    needs = estimated_bytes(small, GPU)
    assert share(small, GPU, 3 * needs) == pytest.approx(1 / 3)
    assert share(small, PACK, 1e15) == 1 / 3


def test_packs_are_even_and_of_a_gpu_each(spec):
    cell = load(spec)[0].cells[0]
    trunks = [[replace(cell, seed=seed)] for seed in range(10)]

    def sizes(where, workers=2):
        return [len(one) for one in packs(trunks, list, where, workers)]

    assert sizes(WhereSpec()) == sizes(WhereSpec(pack=1)) == [1] * 10
    assert sizes(WhereSpec(pack=4)) == [4, 3, 3]
    assert sizes(WhereSpec(pack=99)) == [10]
    assert sizes(GPU) == [5, 5]
    assert sizes(GPU, 99) == [1] * 10
    assert sizes(GPU, None) == [1] * 10  # other machines, a task for each
    assert sizes(replace(GPU, pack=5), None) == [5, 5]
    longest = [replace(cell, steps=50 * cell.steps)]
    first, second = packs([*trunks, longest], list, GPU, 2)
    assert first == [longest]  # as many FLOPs as the others have together, and more
    assert len(second) == 10


def job(name, deaths=0):
    return Job(name, ["a=1", f"where.trunk='{name}'"], (), 2.0, deaths)


def test_a_pack_with_one_try_left_is_taken_apart():
    both = packed(["a=1"], [job("x"), job("y")])
    assert (both.overrides, both.seconds, both.trunk_ids) == (["a=1", "where.trunk='x,y'"], 4.0, ["x", "y"])
    assert jobs.unpacked(both) == [both]
    both.deaths, both.error = MAX_DEATHS - 1, "died"
    assert [(one.trunk_id, one.deaths, one.error) for one in jobs.unpacked(both)] == [
        ("x", 2, "died"),
        ("y", 2, "died"),
    ]
    assert packed(["a=1"], [job("x")]).parts == ()


@pytest.mark.slow
def test_the_one_of_a_pack_that_kills_its_worker_is_found(spec, alone):
    study, _ = load(spec)
    store, culprit, calls = create_store(spec.runs), list(study.trunks)[1], []
    work = in_process(spec, calls)

    def launch(job_overrides, first):
        trunks = [trunk for arguments in job_overrides for trunk in arguments[-1].split("'")[1].split(",")]
        if culprit not in trunks:
            return work(job_overrides, first)
        calls.append([trunks])
        for trunk in trunks:
            for cell in study.trunks[trunk]:
                store.start(sweep.listing(cell, {}))
        raise ConnectionError("a worker was killed")

    assert sweep_with(spec, launch) == 1
    assert sum(any(culprit in trunks for trunks in call) for call in calls) == MAX_DEATHS
    assert all(len(trunks) == 1 for call in calls[2:] for trunks in call)
    table = states(spec)
    assert set(table.loc[table["trunk_id"] == culprit, "state"]) == {"lost"}
    assert (table["state"] == "done").sum() == 4
    check_same(read_runs(spec.runs), alone[alone["trunk_id"] != culprit])


@pytest.mark.slow
def test_a_pack_is_launched_again_for_what_its_worker_left(spec, alone):
    study, _ = load(spec)
    store, calls = create_store(spec.runs), []
    work = in_process(spec, calls)

    def launch(job_overrides, first):
        if calls:
            return work(job_overrides, first)
        calls.append("died")
        for cell in study.cells:
            store.start(sweep.listing(cell, {}))
        raise ConnectionError("a worker was killed")

    assert sweep_with(spec, launch) == 0
    assert [len(trunks) for trunks in calls[1]] == [3]
    assert (states(spec)["attempts"] == 2).all()
    check_same(read_runs(spec.runs), alone)
