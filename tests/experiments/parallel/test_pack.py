"""Trunks of one shape in one step: what each would have written alone, to rounding, whatever befalls the others."""

import math
import os
import signal
from dataclasses import replace

import pytest
import torch

from isoflop.experiments.parallel import pack
from isoflop.experiments.parallel.pack import train_pack
from isoflop.experiments.parallel.pack_step import PackedStep
from isoflop.experiments.store.models import find_trained
from isoflop.experiments.store.store import create_store, open_store
from isoflop.experiments.sweep import train_job as sweep
from isoflop.experiments.sweep.launch import load
from isoflop.experiments.training import cuda_graph, trainer
from isoflop.experiments.training.learner import Learner
from isoflop.experiments.training.trainer import train_trunk
from isoflop.scaling.table.runs import read_runs
from tests.support.sweep.launches import check_same, rows_alone, run, states, three_alike, unpacked
from tests.support.sweep.process import finish, start, worker_at_work
from tests.support.texts import write_texts
from tests.support.training import tape


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


def learners(spec, **changes):
    """Of the three trunks, with rates and decays of their own."""
    study, corpora = load(spec)
    cells = [cells[-1] for cells in study.trunks.values()]
    optims = [
        replace(cell.optim, learning_rate=rate, weight_decay=decay, **({"beta2": 0.99} | changes))  # rounding stays so
        for cell, rate, decay in zip(cells, (0.01, 0.02, 0.04), (0.0, 0.1, 0.5), strict=True)
    ]
    corpus = corpora(cells[0].data)
    return [Learner(replace(c, optim=o), corpus, "cpu") for c, o in zip(cells, optims, strict=True)]


def advance(learners, until):
    PackedStep(learners).advance(learners, until, 400)


@pytest.mark.slow
def test_losses_are_those_of_the_models_alone(spec):
    together, lone = learners(spec), learners(spec)
    step = PackedStep(together)
    for until in range(1, 51):
        step.advance(together, until, 400)
        for learner in lone:
            learner.advance(until, 400)
        for a, b in zip(together, lone, strict=True):
            assert a.loss_sum.item() == pytest.approx(b.loss_sum.item(), rel=1e-5)
    weights = [learner.optimizer.weights for learner in together]
    assert min((weights[0] - weights[i]).abs().max() for i in (1, 2)) > 0.1
    for a, b in zip(together, lone, strict=True):
        torch.testing.assert_close(a.optimizer.tensors(), b.optimizer.tensors(), rtol=1e-3, atol=3e-3)


@pytest.mark.parametrize("kind", ["unclipped", "layernorm", "tied"])
def test_of_every_kind_that_is_packed(spec, kind):
    if kind == "layernorm":
        spec.study.sizes = ["gpt2-d16"]
    if kind == "tied":
        spec.model.tied = True
    changes = {"clip_norm": 0.0} if kind == "unclipped" else {}
    together, lone = learners(spec, **changes), learners(spec, **changes)
    advance(together, 20)
    for a, b in zip(together, lone, strict=True):
        b.advance(20, 400)
        assert a.loss_sum.item() == pytest.approx(b.loss_sum.item(), rel=1e-5)


def test_one_stack_serves_other_learners_later(spec):
    first, second, lone = learners(spec), learners(spec)[::-1], learners(spec)[::-1]
    step = PackedStep(first)
    step.advance(first, 10, 400)
    step.advance(second, 10, 400)
    for a, b in zip(second, lone, strict=True):
        b.advance(10, 400)
        assert a.loss_sum.item() == pytest.approx(b.loss_sum.item(), rel=1e-5)


@pytest.mark.slow
def test_rows_checkpoints_and_models_are_those_of_lone_runs(spec, alone, lone_store, capsys):
    calls = []
    assert run(spec, calls) == 0
    assert "6 cells, 6 to train in 3 trunks (3 of them in 1 packs)" in capsys.readouterr().err
    assert [len(trunks) for trunks in calls[0]] == [3]
    rows = read_runs(spec.runs)
    check_same(rows, alone)
    assert (states(spec)["attempts"] == 1).all()
    assert rows["device"].str.endswith("3 trunks in one step").all()
    assert not alone["device"].str.contains("one step").any()
    stores = create_store(spec.runs), lone_store
    for run_id in set(rows["run_id"]):
        a, b = (dict(find_trained(store, run_id).model.named_parameters()) for store in stores)
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
    for folder in stores[1].root.glob("trunks/*/branch-*.pt"):
        name = folder.name.rsplit("-", 1)[0]
        (ours,) = (stores[0].root / "trunks" / folder.parent.name).glob(f"{name}-*.pt")
        a, b = (torch.load(path, weights_only=True) for path in (ours, folder))
        assert a["step"] == b["step"]
        assert a["optimizer"].keys() == b["optimizer"].keys()
        torch.testing.assert_close(a["optimizer"], b["optimizer"], rtol=1e-3, atol=1e-3)


def kill_at(step):
    def on_progress(progress):
        if progress["step"] >= step:
            raise KeyboardInterrupt

    return on_progress


@pytest.mark.slow
def test_members_at_different_steps_catch_up_and_go_on_together(spec, alone, monkeypatch):
    """Each trunk was interrupted elsewhere, alone: one before its first checkpoint, one in a cooldown.

    A step is reported before it is saved: what stops one lost nothing but what came after the last report.
    """
    study, corpora = load(spec)
    store, together = create_store(spec.runs), []
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
    monkeypatch.setattr(pack.Pack, "_advance_together", _listening(together))
    assert run(spec) == 0
    check_same(read_runs(spec.runs), alone)
    assert {2, 3} <= {size for size, _ in together}
    assert min(step for size, step in together if size == 2) == 91
    assert min(step for size, step in together if size == 3) > 100


def _listening(groups):
    take = pack.Pack._advance_together

    def listened(self, group, request):
        groups.append((len(group), request.begin))
        return take(self, group, request)

    return listened


@pytest.mark.slow
def test_an_interrupted_member_of_a_pack_goes_on_alone(spec, alone, monkeypatch):
    cool_down = trainer._cool_down

    def broken(learner, *rest):
        if learner.step > 120:  # of the longer cell
            raise RuntimeError("boom")
        return cool_down(learner, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(trainer, "_cool_down", broken)
        assert run(spec) == 1
    assert sorted(states(spec)["state"]) == ["done"] * 3 + ["failed"] * 3
    assert run(replace(spec, where=replace(spec.where, pack=1))) == 0
    check_same(read_runs(spec.runs), alone)


@pytest.mark.slow
def test_one_that_fails_leaves_the_others(spec, alone, monkeypatch):
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
    assert run(spec) == 0
    check_same(read_runs(spec.runs), alone)


@pytest.mark.slow
def test_one_that_diverges_does_not_disturb_the_others(spec, tmp_path):
    spec.study.seeds, spec.study.vary = [0], {"optim.learning_rate": [0.001, 0.002, 1e30]}
    lone = unpacked(spec, tmp_path / "alone")
    assert run(spec) == run(lone) == 1
    assert sorted(states(spec)["state"]) == ["diverged"] * 2 + ["done"] * 4
    a, b = read_runs(spec.runs), read_runs(lone.runs)
    check_same(a[a["state"] == "done"], b[b["state"] == "done"])
    hot, cold = a[a["state"] == "diverged"], b[b["state"] == "diverged"]
    assert list(hot["step"]) == list(cold["step"])
    assert hot["loss"].isna().tolist() == cold["loss"].isna().tolist()


@pytest.mark.slow
def test_one_that_is_claimed_elsewhere_is_left_out(spec, alone, monkeypatch):
    study, corpora = load(spec)
    store = create_store(spec.runs)
    trunk = list(study.trunks)[1]
    claim, sizes = store.claim(trunk), []
    monkeypatch.setattr(pack.Pack, "_advance_together", _listening(sizes))
    works = [sweep.work_of(study, cells, spec.where) for cells in study.trunks.values()]
    sweep.train_together(works, corpora, store, spec.where)
    assert {size for size, _ in sizes} == {2}
    table = store.states([cell.run_id for cell in study.cells]).set_index("run_id")
    assert set(table.loc[[cell.run_id for cell in study.trunks[trunk]], "state"]) == {"planned"}
    assert (table["state"] == "done").sum() == 4
    claim.release()
    assert run(spec) == 0
    check_same(read_runs(spec.runs), alone)


@pytest.mark.slow
def test_out_of_memory_takes_them_one_by_one(spec, alone, monkeypatch, caplog):
    take, calls = PackedStep.train_step, []

    def hungry(self, *inputs):
        calls.append(1)
        if len(calls) == 70:  # in the middle of some steps
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
        return take(self, *inputs)

    monkeypatch.setattr(PackedStep, "train_step", hungry)
    assert run(spec) == 0
    assert "3 trunks in one step are too many" in caplog.text
    assert len(calls) == 70
    check_same(read_runs(spec.runs), alone)


def test_a_step_that_raises_is_the_failure_of_all_that_took_it(spec, monkeypatch):
    def broken(self, *inputs):
        raise RuntimeError("boom")

    monkeypatch.setattr(PackedStep, "train_step", broken)
    assert run(spec) == 1
    table = states(spec)
    assert set(table["state"]) == {"failed"}
    assert table["error"].str.contains("boom").all()


def test_what_the_disk_refuses_is_raised_by_the_job(spec):
    def refuse(make):
        raise OSError(28, "No space left on device")

    done = []
    with pytest.raises(OSError, match="No space"):
        train_pack([refuse, lambda make: done.append(make)])
    assert len(done) == 1


@pytest.mark.slow
def test_the_step_is_played_without_its_python(spec, monkeypatch):
    """As a CUDA graph does: recorded op by op, no value read by the host, every tensor at its address."""

    def on_tape(self, run):
        cuda_graph._warm_up(run)
        return tape.record(run).play

    class Taped(cuda_graph.GraphedStep):
        def __init__(self, step, example, state):
            self._inputs = [tensor.clone() for tensor in example]
            before = [tensor.clone() for tensor in state]
            self._replay = on_tape(self, lambda: step(*self._inputs))
            for tensor, was in zip(state, before, strict=True):
                tensor.copy_(was)

    monkeypatch.setattr("isoflop.experiments.parallel.pack_step.GraphedStep", Taped)
    taped, plain = learners(spec), learners(spec)
    step, other = PackedStep(taped), PackedStep(plain)
    step.engine = replace(step.engine, graph=True)
    addresses = {name: stack.data_ptr() for name, stack in step.stacks.items()}
    for until in (30, 60):  # two runs of steps on one recording
        step.advance(taped, until, 60)
        other.advance(plain, until, 60)
    for a, b in zip(taped, plain, strict=True):
        assert a.loss_sum.item() == b.loss_sum.item()
        torch.testing.assert_close(a.optimizer.tensors(), b.optimizer.tensors(), rtol=0, atol=0)
    assert {name: stack.data_ptr() for name, stack in step.stacks.items()} == addresses


@pytest.mark.process
@pytest.mark.slow
def test_a_killed_pack_goes_on_through_the_real_command(tmp_path):
    """SIGKILL of the worker that holds three trunks, in the middle of them."""
    write_texts(tmp_path / "text", files=20, words=2000)
    more = ["study.sizes=[d8]", "study.seeds=[0,1,2]", "study.budgets=[2e9,8e9]", "optim.learning_rate=0.0005"]
    finish(start(tmp_path, "lone", *more, "where.workers=1"))
    process = start(tmp_path, "packed", *more, "where.pack=3")
    victim = worker_at_work(tmp_path, "packed")
    trunks = open_store(tmp_path / "packed").states()
    assert set(trunks["pid"]) == {victim}
    os.kill(victim, signal.SIGKILL)
    told = finish(process)
    assert "3 trunks (3 of them in 1 packs)" in told
    assert "6 cells: 6 done" in told
    rows = read_runs(tmp_path / "packed")
    assert rows["device"].str.endswith("3 trunks in one step").all()
    assert open_store(tmp_path / "packed").states()["attempts"].max() == 2
    check_same(rows, read_runs(tmp_path / "lone"), rel=1e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a card")
def test_on_cuda_a_graph_of_the_packed_step_trains_alike(spec):
    spec = replace(spec, where=replace(spec.where, device="cuda"))
    study, corpora = load(spec)
    cells = [cells[-1] for cells in study.trunks.values()]
    corpus = corpora(cells[0].data)
    together, lone = ([Learner(cell, corpus, "cuda") for cell in cells] for _ in range(2))
    assert together[0].engine.graph
    step = PackedStep(together)
    for until in (30, 60):
        step.advance(together, until, 60)
    for a, b in zip(together, lone, strict=True):
        b.advance(60, 60)
        assert math.isclose(a.loss_sum.item(), b.loss_sum.item(), rel_tol=1e-4)
