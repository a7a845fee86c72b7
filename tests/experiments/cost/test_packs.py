"""Which trunks go into a pack, how large it may be, and what becomes of one whose worker dies."""

from dataclasses import replace

import pytest

from isoflop.experiments.compose.messages import UsageError
from isoflop.experiments.config import OptimSpec, WhereSpec
from isoflop.experiments.cost.packs import pack_bytes, pack_key, packs
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
    run,
    states,
    sweep_with,
    three_alike,
)


@pytest.fixture
def spec(text, tmp_path):
    return three_alike(text, tmp_path)


@pytest.fixture(scope="module")
def alone(text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    return rows_alone(three_alike(text, folder), folder / "runs")


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"optim": OptimSpec(name="muon")}, {}),
        ({"precision": "bfloat16"}, {}),
        ({}, {"micro_batch": 2}),
        ({}, {"activation_checkpointing": True}),
        ({}, {"compile": True}),
        ({}, {"distributed": "ddp"}),
        ({}, {"trackers": ["wandb"]}),
    ],
)
def test_what_no_stacked_step_is_written_for_is_trained_alone(spec, change, where):
    study, _ = load(spec)
    cells = [replace(cell, **change) for cell in study.cells[:1]]
    assert pack_key(study.cells[:1], PACK) is not None
    assert pack_key(cells, replace(PACK, **where)) is None


def test_a_pack_is_of_one_shape_and_one_schedule(spec):
    cell = load(spec)[0].cells[0]
    alike = [
        replace(cell, seed=7),
        replace(cell, arm="b"),
        replace(cell, optim=replace(cell.optim, learning_rate=0.5, weight_decay=0.1)),
    ]
    different = [
        replace(cell, model=replace(cell.model, d_model=16)),
        replace(cell, steps=cell.steps + 1),
        replace(cell, optim=replace(cell.optim, batch_size=16)),
        replace(cell, optim=replace(cell.optim, parametrization="standard")),
        replace(cell, schedule=replace(cell.schedule, warmup_steps=3)),
        replace(cell, corpus_id="other"),
        replace(cell, model=replace(cell.model, experts=3)),
        replace(cell, model=replace(cell.model, family="lstm")),
    ]
    trunks = [[one] for one in (cell, *different, *alike)]
    found = packs(trunks, list, WhereSpec(pack=9))
    assert [len(pack) for pack in found] == [4] + [1] * len(different)


def test_packs_are_even_and_no_larger_than_told_or_than_fits(spec):
    cell = load(spec)[0].cells[0]
    trunks = [[replace(cell, seed=seed)] for seed in range(10)]

    def sizes(pack, **options):
        return [len(one) for one in packs(trunks, list, WhereSpec(pack=pack), **options)]

    assert sizes(1) == [1] * 10
    assert sizes(None) == [1] * 10  # on CPU
    assert sizes(4) == [4, 3, 3]
    assert sizes(99) == [10]
    assert [len(one) for one in packs(trunks, list, WhereSpec(pack=None, device="cuda"))] == [10]
    assert sizes(99, room=pack_bytes(cell, PACK, 6)) == [5, 5]
    assert sizes(99, room=1.0) == [1] * 10
    with pytest.raises(UsageError, match=r"where\.pack must be at least 1"):
        sizes(0)


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
                store.start(sweep.listing(cell))
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
            store.start(sweep.listing(cell))
        raise ConnectionError("a worker was killed")

    assert sweep_with(spec, launch) == 0
    assert [len(trunks) for trunks in calls[1]] == [3]
    assert (states(spec)["attempts"] == 2).all()
    check_same(read_runs(spec.runs), alone)


@pytest.mark.slow
def test_the_launch_says_how_much_memory_a_pack_may_take(spec, monkeypatch):
    cell = load(spec)[0].cells[0]
    monkeypatch.setattr(jobs, "available_bytes", lambda device: 1.01 * pack_bytes(cell, spec.where, 2))
    calls = []
    assert run(spec, calls) == 0
    assert sorted(len(trunks) for trunks in calls[0]) == [1, 2]
