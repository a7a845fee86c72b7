"""Trunks side by side on one device: what each would have written alone, to the bit on CPU, whatever befalls others."""

import os
import signal
import threading
from dataclasses import replace

import pytest
import torch

from isoflop.experiments.config import WhereSpec
from isoflop.experiments.parallel.pack import AHEAD, Pack, Request, train_pack
from isoflop.experiments.store.models import find_trained
from isoflop.experiments.store.store import create_store, open_store
from isoflop.experiments.sweep import train_job as sweep
from isoflop.experiments.sweep.launch import load
from isoflop.experiments.training import trainer
from isoflop.experiments.training.learner import Learner
from isoflop.experiments.training.trainer import train_trunk
from isoflop.scaling.table.runs import read_runs
from tests.support.sweep.launches import CURVE, check_same, rows_alone, run, states, three_alike, unpacked
from tests.support.sweep.process import finish, start, worker_at_work
from tests.support.texts import write_texts


@pytest.fixture
def spec(text, tmp_path):
    return three_alike(text, tmp_path)


@pytest.fixture(scope="module")
def lone_store(text, tmp_path_factory):
    """The same study with every trunk for itself."""
    folder = tmp_path_factory.mktemp("alone")
    rows_alone(three_alike(text, folder), folder / "runs")
    return create_store(folder / "runs")


@pytest.fixture
def alone(lone_store):
    return read_runs(lone_store.root)


def check_equal(rows, alone):
    """To the bit."""
    check_same(rows, alone)
    order = ["run_id", "step"]
    a, b = (table.sort_values(order)[CURVE].to_numpy() for table in (rows, alone))
    assert (a == b).all()


@pytest.mark.slow
def test_rows_checkpoints_and_models_are_those_of_lone_runs(spec, alone, lone_store, capsys):
    calls = []
    assert run(spec, calls) == 0
    assert "6 cells, 6 to train in 3 trunks (3 of them side by side in 1 processes)" in capsys.readouterr().err
    assert [len(trunks) for trunks in calls[0]] == [3]
    rows = read_runs(spec.runs)
    check_equal(rows, alone)
    assert (states(spec)["attempts"] == 1).all()
    assert set(rows["device"]) == set(alone["device"])
    assert (rows["wall_seconds"] > 0).all()
    stores = create_store(spec.runs), lone_store
    for run_id in set(rows["run_id"]):
        a, b = (dict(find_trained(store, run_id).model.named_parameters()) for store in stores)
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def kill_at(step):
    def on_progress(progress):
        if progress["step"] >= step:
            raise KeyboardInterrupt

    return on_progress


@pytest.mark.slow
def test_members_that_stand_at_different_steps_end_alike(spec, alone):
    """Each trunk was interrupted elsewhere, alone: one before its first checkpoint, one in a cooldown."""
    study, corpora = load(spec)
    store = create_store(spec.runs)
    for stop, seconds, cells in zip((64, 92, 129), (1e9, 0.0, 0.0), study.trunks.values(), strict=True):
        with pytest.raises(KeyboardInterrupt):
            for _ in train_trunk(
                cells,
                corpora(cells[0].data),
                folder=store.trunk_folder(cells[0].trunk_id),
                where=replace(spec.where, checkpoint_seconds=seconds),
                on_progress=kill_at(stop),
            ):
                pass  # fmt: skip
    assert 91 < study.cells[0].branch_step < 128 < study.cells[0].steps
    assert run(spec) == 0
    check_equal(read_runs(spec.runs), alone)


@pytest.mark.slow
def test_one_that_fails_leaves_the_others_and_goes_on_alone(spec, alone, monkeypatch):
    study, _ = load(spec)
    bad, cool_down = study.cells[0].run_id, trainer._cool_down

    def broken(learner, cell, *rest):
        if cell.run_id == bad:
            raise RuntimeError("boom")
        return cool_down(learner, cell, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(trainer, "_cool_down", broken)
        assert run(spec) == 1
    table = states(spec)
    assert table["state"].to_dict() == {cell.run_id: "failed" if cell.run_id == bad else "done" for cell in study.cells}
    assert "RuntimeError: boom" in table.loc[bad, "error"]
    assert run(replace(spec, where=replace(spec.where, pack=1))) == 0
    check_equal(read_runs(spec.runs), alone)


@pytest.mark.slow
def test_a_step_that_raises_is_the_failure_of_its_own_cell(spec, monkeypatch):
    study, _ = load(spec)
    step = Learner.train_step

    def broken(self, *inputs):
        if self.cell.seed == 1 and self.step == 30:
            raise RuntimeError("boom")
        return step(self, *inputs)

    monkeypatch.setattr(Learner, "train_step", broken)
    assert run(spec) == 1
    table = states(spec)
    seeds = {cell.run_id: cell.seed for cell in study.cells}
    assert {seeds[run_id] for run_id in table.index[table["state"] == "failed"]} == {1}
    assert (table["state"] == "done").sum() == 4


@pytest.mark.slow
def test_one_that_diverges_does_not_disturb_the_others(spec, tmp_path):
    spec.study.seeds, spec.study.vary = [0], {"optim.learning_rate": [0.001, 0.002, 1e30]}
    lone = unpacked(spec, tmp_path / "alone")
    assert run(spec) == run(lone) == 1
    assert sorted(states(spec)["state"]) == ["diverged"] * 2 + ["done"] * 4
    a, b = read_runs(spec.runs), read_runs(lone.runs)
    check_equal(a[a["state"] == "done"], b[b["state"] == "done"])
    assert list(a[a["state"] == "diverged"]["step"]) == list(b[b["state"] == "diverged"]["step"])


@pytest.mark.slow
def test_one_that_is_claimed_elsewhere_is_left_out(spec, alone):
    study, corpora = load(spec)
    store = create_store(spec.runs)
    trunk = list(study.trunks)[1]
    claim = store.claim(trunk)
    works = [sweep.work_of(study, cells, spec.where) for cells in study.trunks.values()]
    sweep.train_together(works, corpora, store, spec.where)
    table = store.states([cell.run_id for cell in study.cells]).set_index("run_id")
    assert set(table.loc[[cell.run_id for cell in study.trunks[trunk]], "state"]) == {"planned"}
    assert (table["state"] == "done").sum() == 4
    claim.release()
    assert run(spec) == 0
    check_equal(read_runs(spec.runs), alone)


def test_what_the_disk_refuses_is_raised_by_the_job():
    def refuse(make, aside):
        raise OSError(28, "No space left on device")

    done = []
    with pytest.raises(OSError, match="No space"):
        train_pack([(0.5, refuse), (0.5, lambda make, aside: done.append(make))], "cpu")
    assert len(done) == 1


class Taking:
    """A learner that notes its steps."""

    def __init__(self, name, message):
        self.name, self.message, self.seconds, self.stream = name, message, 0.0, None

    def grains(self, until, steps):
        for step in range(until):
            self.message.append((self.name, step))
            yield


def test_steps_are_taken_in_turn_by_as_many_as_share_the_device():
    message, pack = [], Pack("cpu")
    both_wait = threading.Barrier(2)

    def train(name, wait=False):
        def of_pack(make, aside):
            learner = Taking(name, message)
            if wait:
                with aside():
                    both_wait.wait(10)
            pack.advance(learner, 3, 3)
            assert learner.seconds > 0
            message.append((name, "end"))

        return of_pack

    pack.conduct([(0.5, train("a", True)), (0.5, train("b", True)), (0.6, train("c"))])
    assert {name for name, _ in message[: message.index(("c", 0))]} == {"a", "b"}  # no room for the third beside two
    steps = [one for one in message if one[1] != "end"]
    assert sorted(steps) == [(name, step) for name in "abc" for step in range(3)]
    between = [name for name, step in steps if name != "c"]
    assert between not in (["a"] * 3 + ["b"] * 3, ["b"] * 3 + ["a"] * 3)


def test_one_that_takes_more_than_the_device_is_trained_alone():
    message = []

    def train(name):
        def of_pack(make, aside):
            message.append(name)
            with aside():
                pass
            message.append(name)

        return of_pack

    train_pack([(5.0, train("a")), (1.0, train("b"))], "cpu")
    assert message == ["a", "a", "b", "b"]


class Event:
    def __init__(self):
        self.ended = False

    def query(self):
        return self.ended


def test_no_more_than_a_few_grains_are_queued_ahead(monkeypatch):
    """On CUDA, whose queue blocks when it is full; events tell what has ended."""
    events = []

    class Stream:
        def record_event(self):
            events.append(Event())
            return events[-1]

    class Entered:
        def __init__(self, stream): ...
        def __enter__(self): ...
        def __exit__(self, *error): ...

    monkeypatch.setattr(torch.cuda, "stream", Entered)
    request = Request(iter(range(AHEAD + 2)), Stream())
    assert [request.queue() for _ in range(AHEAD + 1)] == [True] * AHEAD + [False]
    events[0].ended = events[1].ended = True
    assert [request.queue() for _ in range(3)] == [True, True, False]
    assert not request.done
    for event in events:
        event.ended = True
    assert request.queue()  # it hears that there is no more
    assert not request.queue()
    assert request.done


@pytest.mark.process
@pytest.mark.slow
def test_a_killed_pack_goes_on_through_the_real_command(tmp_path, commands):
    """SIGKILL of the worker that holds three trunks, in the middle of them."""
    write_texts(tmp_path / "text", files=20, words=1000)
    more = ["study.sizes=[d8]", "study.seeds=[0,1,2]", "study.budgets=[2e9,4e9]", "optim.learning_rate=0.0005"]
    finish(start(tmp_path, "lone", *more, "where.workers=1", commands=commands))
    process = start(tmp_path, "packed", *more, "where.pack=3", commands=commands)
    victim = worker_at_work(tmp_path, "packed")
    trunks = open_store(tmp_path / "packed").states()
    assert set(trunks["pid"]) == {victim}
    os.kill(victim, signal.SIGKILL)
    message = finish(process)
    assert "3 trunks (3 of them side by side in 1 processes)" in message
    assert "6 cells: 6 done" in message
    assert open_store(tmp_path / "packed").states()["attempts"].max() == 2
    check_equal(read_runs(tmp_path / "packed"), read_runs(tmp_path / "lone"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a card")
@pytest.mark.parametrize("pack", [None, 1])
def test_on_cuda_trunks_of_several_sizes_side_by_side_end_as_alone(spec, tmp_path, pack):
    spec.study.sizes = ["d8", "d12"]
    lone = rows_alone(replace(spec, where=replace(spec.where, pack=1)), tmp_path / "alone")
    spec = replace(spec, where=replace(spec.where, device="cuda", pack=pack))
    assert run(spec) == 0
    rows = read_runs(spec.runs)
    assert set(rows["engine"]) == {"cuda-fused"}
    check_same(rows, lone, rel=1e-3)


def test_by_itself_a_cpu_trains_one_trunk_at_a_time():
    assert WhereSpec().pack is None
