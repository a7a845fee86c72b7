"""What one launch does with a study, in this process: no pool, a tiny corpus, cells of a fraction of a second."""

from dataclasses import replace
from pathlib import Path

import pytest
from hydra.core.utils import JobReturn, JobStatus

from isoflop.experiments.config import BudgetSpec, ModelSpec, StudySpec
from isoflop.experiments.store.store import StoreError, create_store, open_store
from isoflop.experiments.sweep import queue, repair
from isoflop.experiments.sweep import train_job as sweep
from isoflop.experiments.sweep.launch import load, make_launch, run_launch
from isoflop.experiments.sweep.queue import MAX_DEATHS
from isoflop.experiments.training import trainer
from isoflop.scaling.table import cells
from isoflop.scaling.table.read import read_table
from isoflop.scaling.table.runs import read_config, read_runs, same_runs
from tests.support.sweep.launches import in_process, run, states, sweep_with, two_trunks


@pytest.fixture
def spec(text, tmp_path):
    return two_trunks(text, tmp_path)


def failing(monkeypatch, run_id):
    """Make the trainer raise when it comes to the cooldown of one cell."""
    cool_down = trainer._cool_down

    def broken(learner, cell, *rest):
        if cell.run_id == run_id:
            raise RuntimeError("boom")
        return cool_down(learner, cell, *rest)

    monkeypatch.setattr(trainer, "_cool_down", broken)


@pytest.mark.slow
def test_every_cell_ends_done_with_its_rows_and_configuration(spec, capsys, monkeypatch):
    monkeypatch.setattr(cells, "LOOSE", 1)
    monkeypatch.setattr(cells, "UNSETTLED_NS", -(10**18))
    assert run(spec) == 0
    assert (Path(spec.runs) / cells.SHARD_FILE).is_file()
    assert "4 cells: 4 done" in capsys.readouterr().out
    table = states(spec)
    assert set(table["state"]) == {"done"}
    assert (table["attempts"] == 1).all()
    assert set(read_runs(spec.runs)["run_id"]) == set(table.index)
    config = read_config(create_store(spec.runs).run_file(table.index[0]))
    assert (config["study"], config["what"]["seed"]) == ("tiny", 0)


@pytest.mark.slow
def test_a_second_launch_trains_nothing(spec, monkeypatch):
    assert run(spec) == 0
    monkeypatch.setattr(trainer, "train_trunk", lambda *a, **k: pytest.fail("trained again"))
    assert run(spec) == 0


@pytest.mark.slow
def test_a_cell_that_raises_leaves_the_others_and_is_retried_alone(spec, monkeypatch, capsys):
    study, _ = load(spec)
    bad = study.cells[0].run_id  # the shorter of its trunk: the longer one must go on without it
    with monkeypatch.context() as patched:
        failing(patched, bad)
        assert run(spec) == 1
    table = states(spec)
    assert table["state"].to_dict() == {cell.run_id: "failed" if cell.run_id == bad else "done" for cell in study.cells}
    assert "RuntimeError: boom" in table.loc[bad, "error"]
    assert "Traceback" in table.loc[bad, "error"]
    assert table.loc[bad, "step"] > 0
    assert f"failed   {bad}" in capsys.readouterr().out
    assert run(spec) == 0
    after = states(spec)
    assert after.loc[bad, ["state", "attempts"]].tolist() == ["done", 2]
    assert (after.drop(bad)["attempts"] == 1).all()


@pytest.mark.slow
def test_a_retried_cell_has_the_losses_of_an_undisturbed_one(spec, monkeypatch, tmp_path):
    undisturbed = replace(spec, runs=str(tmp_path / "undisturbed"))
    assert run(undisturbed) == 0
    with monkeypatch.context() as patched:
        failing(patched, load(spec)[0].cells[0].run_id)
        run(spec)
    run(spec)
    assert same_runs(read_runs(spec.runs), read_runs(undisturbed.runs))


@pytest.mark.slow
def test_a_cell_that_diverges_is_a_row_and_is_never_retried(spec, monkeypatch):
    hot = replace(spec, optim=replace(spec.optim, learning_rate=1e38))
    assert run(hot) == 1
    table = states(hot)
    assert set(table["state"]) == {"diverged"}
    assert table["error"].str.contains("loss is nan at step").all()
    assert set(read_runs(hot.runs)["state"]) == {"diverged"}
    monkeypatch.setattr(trainer, "train_trunk", lambda *a, **k: pytest.fail("trained again"))
    assert run(hot) == 1


@pytest.mark.slow
def test_a_diverged_cell_is_left_alone_when_its_trunk_is_trained_again(spec):
    cell = load(spec)[0].cells[0]
    store = create_store(spec.runs)
    assert run(spec) == 0
    for other in load(spec)[0].trunks[cell.trunk_id]:
        store.record(other.run_id, "diverged" if other.run_id == cell.run_id else "failed")
    assert run(spec) == 1
    assert states(spec).loc[cell.run_id, ["state", "attempts"]].tolist() == ["diverged", 1]


@pytest.mark.slow
def test_a_single_cell_shares_the_store_with_the_sweep(spec, tmp_path):
    single = replace(spec, study=StudySpec(), model=ModelSpec(d_model=8, n_head=1), budget=BudgetSpec(flops=4e8))
    assert run(single) == 0
    assert run(spec) == 0
    attempts = states(spec)["attempts"]
    assert (attempts == 1).all()
    assert len(attempts) == 4
    whole = replace(spec, runs=str(tmp_path / "whole"))
    run(whole)
    assert same_runs(read_runs(spec.runs), read_runs(whole.runs))


@pytest.mark.slow
def test_runs_chosen_of_a_study_are_listed_with_it_and_can_be_retried(spec):
    study, _ = load(spec)
    first, second = study.cells[0].run_id, study.cells[-1].run_id
    spec = replace(spec, study=replace(spec.study, hold_out=[4e8]))
    for part in ({"only": [first]}, {"only": [first, second]}, {"trunk": study.cells[0].trunk_id}):
        some = replace(spec, where=replace(spec.where, **part))
        assert run_launch(make_launch([some], workers=1), in_process(some), typed=["model=d8"]) == 0
    store = open_store(spec.runs)
    listed = [cell["run_id"] for cell in store.studies()["tiny"]["cells"]]
    assert set(listed) == {first, second, *(cell.run_id for cell in study.trunks[study.cells[0].trunk_id])}
    assert store.studies()["tiny"]["hold_out"] == [4e8]
    assert set(read_table(spec.runs, study="tiny")["run_id"]) == {*listed}
    store.record(second, "failed")
    (again,) = repair.relaunches(store, repair.choose(store, ["failed"], None))
    assert again.run_ids == (second,)


@pytest.mark.slow
def test_a_larger_budget_later_goes_on_from_the_trunk(spec, tmp_path):
    first = replace(spec, study=replace(spec.study, budgets=[2e8]))
    run(first)
    run(spec)
    whole = replace(spec, runs=str(tmp_path / "whole"))
    run(whole)
    assert same_runs(read_runs(spec.runs), read_runs(whole.runs))


def dies(spec, trunk, times):
    """A launcher whose worker dies on one trunk: cells say running, nobody holds the claim, the pool raises."""
    store, calls, work = create_store(spec.runs), [], in_process(spec)
    study, _ = load(spec)

    def launcher(job_overrides, first):
        trunks = [arguments[-1].split("'")[1] for arguments in job_overrides]
        calls.append(trunks)
        if trunk in trunks and sum(trunk in call for call in calls) <= times:
            for cell in study.trunks[trunk]:
                store.start(sweep.listing(cell, {}))
            raise ConnectionError("a worker was killed")
        return work(job_overrides, first)

    return launcher, calls


@pytest.mark.slow
def test_what_a_killed_worker_left_is_launched_again(spec):
    trunk = next(iter(load(spec)[0].trunks))
    launcher, calls = dies(spec, trunk, times=1)
    assert sweep_with(spec, launcher) == 0
    assert [len(call) for call in calls] == [2, 2]
    assert sorted(states(spec)["attempts"]) == [1, 1, 2, 2]


@pytest.mark.slow
def test_a_trunk_that_keeps_dying_ends_alone_and_lost(spec, capsys):
    trunk = next(iter(load(spec)[0].trunks))
    launcher, calls = dies(spec, trunk, times=99)
    assert sweep_with(spec, launcher) == 1
    assert sum(trunk in call for call in calls) == MAX_DEATHS
    assert calls[-1] == [trunk]
    table = states(spec)
    assert table.groupby("trunk_id")["state"].first().to_dict()[trunk] == "lost"
    assert (table["state"] == "done").sum() == 2
    assert "ConnectionError" in table.loc[table["state"] == "lost", "error"].iloc[0]
    assert sweep_with(spec, in_process(spec)) == 0  # the next launch tries it again


def test_a_launcher_that_cannot_start_anything_is_the_callers_error(spec):
    def launcher(job_overrides, first):
        raise OSError("sinfo: not found")

    with pytest.raises(OSError, match="sinfo"):
        sweep_with(spec, launcher)


def test_a_job_that_fails_before_its_first_cell_is_the_callers_error(spec):
    def full(trunk):
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space left"):
        run(spec, before=full)


@pytest.mark.slow
def test_a_trunk_that_another_launch_holds_is_waited_for(spec, monkeypatch):
    store = create_store(spec.runs)
    study, corpora = load(spec)
    trunk, cells = next(iter(study.trunks.items()))
    claim, waits = store.claim(trunk), []

    def sleep(seconds):
        waits.append(seconds)
        claim.release()
        sweep.train_claimed(
            sweep.work_of(study, cells, spec.where), corpora, store, spec.where
        )  # the other launch finishes it

    monkeypatch.setattr(queue.time, "sleep", sleep)
    assert run(spec) == 0
    assert len(waits) == 1
    assert (states(spec)["attempts"] == 1).all()


def test_nothing_is_written_for_a_study_that_is_refused(spec, tmp_path):
    wrong = replace(spec, study=replace(spec.study, budgets=[-1.0]))
    with pytest.raises(ValueError, match="must be a positive number"):
        run(wrong)
    assert not (tmp_path / "runs").exists()


def completed() -> JobReturn:
    message = JobReturn()
    message.status, message.return_value = JobStatus.COMPLETED, None
    return message


def test_workers_that_see_another_folder_are_noticed(spec):
    rounds = []

    def elsewhere(job_overrides, first):
        rounds.append(first)
        return [completed() for _ in job_overrides]

    with pytest.raises(StoreError, match=f"nothing of it is in {spec.runs}: do its workers see that folder"):
        sweep_with(spec, elsewhere, workers=None)
    assert len(rounds) == 3


@pytest.mark.slow
def test_another_launch_that_is_at_work_is_no_such_case(spec):
    study, corpora = load(spec)
    store, trunks, calls = create_store(spec.runs), list(study.trunks.values()), []

    def beaten(job_overrides, first):  # the other launch has begun the trunks when our jobs look
        calls.append(first)
        if len(calls) > 4:
            sweep.train_claimed(sweep.work_of(study, trunks[len(calls) - 5], spec.where), corpora, store, spec.where)
        else:
            store.start(sweep.listing(trunks[0][0], {}))
            store.record(trunks[0][0].run_id, "planned")
        return [completed() for _ in job_overrides]

    assert sweep_with(spec, beaten, workers=None) == 0
    assert len(calls) == 4 + len(trunks)
