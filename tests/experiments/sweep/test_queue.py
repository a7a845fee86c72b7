"""What a launch does while others hold its trunks, and when its store is taken away."""

import json
import shutil
import time
from types import SimpleNamespace

import pytest
from hydra.core.utils import JobReturn, JobStatus

from isoflop.experiments import files as claims
from isoflop.experiments.store.store import StoreError, create_store, open_store
from isoflop.experiments.sweep import queue
from isoflop.experiments.sweep.queue import MAX_DEATHS, Job, find_jobs, finish, in_order, packed, unpacked
from tests.support.sweep.launches import run, two_trunks


@pytest.fixture
def quick(monkeypatch):
    """Waiting takes no time: this machine's own clock goes on by ten seconds at each look."""
    clock = [0.0]

    def look():
        clock[0] += 10
        return clock[0]

    monkeypatch.setattr(claims, "_since_boot", look)
    monkeypatch.setattr(claims, "_seen", {})
    monkeypatch.setattr(queue, "WAIT_SECONDS", 0.001)
    monkeypatch.setattr(queue, "QUIET_SECONDS", 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("content", ["a day ahead", "cut short"])
def test_a_claim_of_a_dead_machine_is_named_waited_for_and_taken(text, tmp_path, quick, capsys, content):
    spec, trunks = two_trunks(text, tmp_path), []
    assert run(spec, before=trunks.append) == 0
    shutil.rmtree(tmp_path / "runs")
    folder = create_store(tmp_path / "runs").trunk_folder(trunks[0])
    folder.mkdir(parents=True)
    claim = {"host": "node7/abc", "pid": 1, "birth": "1", "heartbeat": time.time() + 86400, "since": 0.0}
    (folder / claims.CLAIM_FILE).write_text(json.dumps(claim) if content == "a day ahead" else '{"host"')
    capsys.readouterr()
    assert run(spec) == 0
    reported = [line for line in capsys.readouterr().err.splitlines() if line.startswith("trunk ")]
    if content == "a day ahead":
        (line,) = reported
        assert line.startswith(f"trunk {trunks[0]} is held by node7 since 19")
        assert line.endswith(
            ": this launch waits for it, and takes it over once the claim has not changed for 120 s here"
        )
    assert set(open_store(tmp_path / "runs").states()["state"]) == {"done"}
    assert not list((tmp_path / "runs").rglob(".seen*"))


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before the first trunk", "before the second trunk"])
def test_a_store_that_is_deleted_at_work_ends_the_launch_and_is_not_made_again(text, tmp_path, when):
    seen = []

    def delete(trunk):
        seen.append(trunk)
        if len(seen) == (1 if when == "before the first trunk" else 2):
            shutil.rmtree(tmp_path / "runs")

    with pytest.raises(
        StoreError, match=r"its STORE.json is gone.: it was deleted or moved while a launch was at work"
    ):
        run(two_trunks(text, tmp_path), before=delete)
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_store_that_is_deleted_while_a_cell_trains(text, tmp_path, monkeypatch):
    from isoflop.experiments.training import trainer

    cool_down = trainer._cool_down

    def then_delete(*args, **kwargs):
        shutil.rmtree(tmp_path / "runs", ignore_errors=True)
        return cool_down(*args, **kwargs)

    monkeypatch.setattr(trainer, "_cool_down", then_delete)
    with pytest.raises(StoreError, match="no runs folder any more"):
        run(two_trunks(text, tmp_path))
    assert not (tmp_path / "runs").exists()


def job(trunk, seconds=1.0, cells=1, **fields):
    made = tuple(SimpleNamespace(run_id=f"{trunk}-{i}", trunk_id=trunk) for i in range(cells))
    return Job(trunk, [f"trunk={trunk}"], made, seconds, **fields)


class Launcher:
    """Stands in for Hydra's: it remembers each round and does what `does` says with every job, by default all of it."""

    def __init__(self, store, jobs, does=None):
        self.store, self.rounds, self.does = store, [], does or self.done
        self.trunks = {one.overrides[0]: one for one in jobs}

    def begin(self, one):
        for cell in one.cells:
            self.store.start({"run_id": cell.run_id, "trunk_id": cell.trunk_id})

    def done(self, one):
        self.begin(one)
        for cell in one.cells:
            self.store.record(cell.run_id, "done")

    def __call__(self, overrides, first):
        self.rounds.append(([o[0] for o in overrides], first))
        returned = []
        for own in overrides:
            outcome = JobReturn()
            outcome.status, outcome.return_value = JobStatus.COMPLETED, None
            try:
                self.does(self.trunks[own[0]])
            except ArithmeticError as error:  # what a job raises; all else is the launcher's
                outcome.status, outcome.return_value = JobStatus.FAILED, error
            returned.append(outcome)
        return returned


def states_of(store, one):
    return [(r.state, r.error) for r in store.states([c.run_id for c in one.cells]).itertuples()]


def test_the_cheapest_goes_first_and_then_the_longest():
    jobs = [job(t, s) for t, s in (("a", 3.0), ("b", 1.0), ("c", 2.0), ("d", 5.0))]
    assert [one.trunk_id for one in in_order(jobs)] == ["b", "d", "a", "c"]
    assert in_order([]) == []
    assert in_order(jobs[:1]) == jobs[:1]


def test_a_launch_is_one_round_in_order_and_leaves_what_is_settled(tmp_path):
    store, jobs = create_store(tmp_path), [job("a", 3.0, cells=2), job("b", 1.0), job("c", 2.0), job("d", 9.0)]
    store.record("d-0", "done")
    launcher = Launcher(store, jobs)
    finish(jobs, store, launcher)
    assert launcher.rounds == [(["trunk=b", "trunk=a", "trunk=c"], 0)]
    assert set(store.states()["state"]) == {"done"}
    finish([*jobs, jobs[0]], store, launcher)
    assert len(launcher.rounds) == 1


def test_a_trunk_that_is_listed_twice_is_started_once(tmp_path):
    store, jobs = create_store(tmp_path), [job("a", 1.0), job("b", 2.0), job("a", 1.0)]
    launcher = Launcher(store, jobs)
    finish(jobs, store, launcher)
    assert launcher.rounds == [(["trunk=a", "trunk=b"], 0)]


def test_what_kills_its_worker_is_tried_three_times_the_last_time_alone_and_recorded_as_lost(tmp_path):
    store, jobs = create_store(tmp_path), [job("bad", 1.0), job("slow", 5.0)]

    def does(one):
        launcher.begin(one)
        if one.trunk_id == "slow":
            if len(launcher.rounds) <= 2:
                raise OSError("the pool died")
            store.record("slow-0", "done")

    launcher = Launcher(store, jobs, does)
    finish(jobs, store, launcher)
    assert MAX_DEATHS == 3
    assert [sorted(names) for names, _ in launcher.rounds[:2]] == [["trunk=bad", "trunk=slow"]] * 2
    assert [len(names) for names, _ in launcher.rounds] == [2, 2, 1, 1]
    assert [first for _, first in launcher.rounds] == [0, 2, 4, 5]
    assert states_of(store, jobs[0]) == [("lost", "OSError: the worker died")]
    assert states_of(store, jobs[1]) == [("done", "")]
    assert store.states(["bad-0"])["attempts"].tolist() == [3]


def test_a_cell_that_died_is_planned_again_before_its_last_try(tmp_path):
    store, one = create_store(tmp_path), job("bad")
    seen = []

    def does(it):
        seen.append(states_of(store, it)[0][0])
        launcher.begin(it)

    launcher = Launcher(store, [one], does)
    finish([one], store, launcher)
    assert seen == ["planned"] * 3
    assert (one.deaths, states_of(store, one)) == (3, [("lost", "")])


def test_a_fault_of_the_launcher_is_its_own_and_not_a_cells(tmp_path):
    store, one = create_store(tmp_path), job("a")

    def refuse(it):
        raise OSError("no queue")

    with pytest.raises(OSError, match="no queue"):
        finish([one], store, Launcher(store, [one], refuse))
    assert one.deaths == 0


@pytest.mark.parametrize("begun", [True, False])
def test_what_a_job_raises_is_a_cells_fault_only_once_it_has_begun(tmp_path, begun):
    store, one = create_store(tmp_path), job("a")

    def does(it):
        if begun:
            launcher.begin(it)
        raise ArithmeticError("overflow")

    launcher = Launcher(store, [one], does)
    if begun:
        finish([one], store, launcher)
        assert states_of(store, one) == [("lost", "ArithmeticError('overflow')")]
    else:
        with pytest.raises(ArithmeticError, match="overflow"):
            finish([one], store, launcher)


def test_a_full_disk_ends_the_launch_although_a_cell_had_begun(tmp_path, monkeypatch):
    store, one = create_store(tmp_path), job("a")

    def does(it):
        launcher.begin(it)
        raise ArithmeticError("stands for a full disk")

    launcher = Launcher(store, [one], does)
    monkeypatch.setattr(queue, "is_disk_error", lambda error: "full disk" in str(error))
    with pytest.raises(ArithmeticError, match="full disk"):
        finish([one], store, launcher)
    assert len(launcher.rounds) == 1


def test_a_launcher_that_does_nothing_is_refused_after_three_rounds(tmp_path):
    store, one = create_store(tmp_path), job("a")
    launcher = Launcher(store, [one], lambda it: None)
    with pytest.raises(StoreError, match="3 times the launcher reported"):
        finish([one], store, launcher)
    assert [first for _, first in launcher.rounds] == [0, 1, 2]


def test_rounds_of_which_something_came_count_afresh(tmp_path):
    store, jobs = create_store(tmp_path), [job("a"), job("b", 2.0)]

    def does(it):
        if (len(launcher.rounds), it.trunk_id) in ((3, "a"), (6, "b")):
            launcher.done(it)

    launcher = Launcher(store, jobs, does)
    finish(jobs, store, launcher)
    assert [len(names) for names, _ in launcher.rounds] == [2, 2, 2, 1, 1, 1]


def test_three_rounds_for_nothing_end_a_launch_also_after_one_that_was_not(tmp_path):
    store, jobs = create_store(tmp_path), [job("a"), job("b", 2.0)]
    launcher = Launcher(store, jobs, lambda it: launcher.done(it) if it.trunk_id == "a" else None)
    with pytest.raises(StoreError, match="nothing of it is in"):
        finish(jobs, store, launcher)
    assert [len(names) for names, _ in launcher.rounds] == [2, 1, 1, 1]


def test_a_launcher_that_does_not_answer_for_every_job_is_no_launcher(tmp_path):
    with pytest.raises(ValueError, match="shorter"):
        finish([job("a")], create_store(tmp_path), lambda overrides, first: [])


def test_a_round_that_another_launch_is_at_work_on_is_not_for_nothing(tmp_path, monkeypatch):
    """Nothing was begun in three rounds, but a living process holds the trunk each time: it is about to."""
    store, one, held = create_store(tmp_path), job("a"), []

    def does(it):
        if len(launcher.rounds) <= MAX_DEATHS:
            held.append(store.claim("a"))
        else:
            launcher.done(it)

    launcher = Launcher(store, [one], does)
    monkeypatch.setattr(queue.time, "sleep", lambda seconds: held.pop().release())
    finish([one], store, launcher)
    assert len(launcher.rounds) == MAX_DEATHS + 1


def test_a_round_is_touched_by_whoever_holds_one_of_its_trunks(tmp_path):
    store, batch = create_store(tmp_path), [job("a"), job("b")]
    assert queue._is_untouched(batch, store, 0)
    assert not queue._is_untouched(batch, store, 1)
    store.claim("b")
    assert not queue._is_untouched(batch, store, 0)


def test_a_trunk_of_which_one_cell_is_left_is_started(tmp_path):
    store, one = create_store(tmp_path), job("a", cells=2)
    store.record("a-0", "done")
    launcher = Launcher(store, [one])
    finish([one], store, launcher)
    assert launcher.rounds == [(["trunk=a"], 0)]
    assert states_of(store, one) == [("done", "")] * 2


def test_a_launch_waits_for_trunks_that_are_held_and_says_for_whom_once(tmp_path, monkeypatch, capsys):
    store, jobs = create_store(tmp_path), [job("b", 2.0), job("a", 1.0), job("free", 1.0)]
    holders = {"a": {"host": "h1/x", "heartbeat": 0.0, "since": 90061.0}, "b": {"host": "h2/y", "heartbeat": 172800.0}}
    clock, slept = [100.0], []

    def sleep(seconds):
        slept.append(seconds)
        clock[0] += 1.5
        if len(slept) == 4:
            holders.clear()

    monkeypatch.setattr(queue, "time", SimpleNamespace(
        monotonic=lambda: clock[0], sleep=sleep, strftime=time.strftime, localtime=time.gmtime,
    ))  # fmt: skip
    monkeypatch.setattr(type(store), "holder", lambda self, trunk: holders.get(trunk))
    monkeypatch.setattr(queue, "is_ours", lambda claim: claim["host"] == "h2/y")
    launcher = Launcher(store, jobs)
    said_after = []
    say = queue._say_who_holds
    monkeypatch.setattr(queue, "_say_who_holds", lambda *args: said_after.append(len(slept)) or say(*args))
    finish(jobs, store, launcher)
    assert [names for names, _ in launcher.rounds] == [["trunk=free"], ["trunk=a", "trunk=b"]]
    assert slept == [queue.WAIT_SECONDS] * 4
    assert said_after == [2, 3]  # once 3.0 seconds have gone, which are QUIET_SECONDS
    assert capsys.readouterr().err.splitlines() == [
        "trunk a is held by h1 since 1970-01-02 01:01:01: this launch waits for it, and takes it over once the claim "
        "has not changed for 120 s here",
        "trunk b is held by h2 since 1970-01-03 00:00:00: this launch waits for it",
    ]


def test_who_let_go_meanwhile_is_not_named(tmp_path, capsys):
    queue._say_who_holds([job("a")], create_store(tmp_path), message := set())
    assert (capsys.readouterr().err, message) == ("", set())


def test_a_pack_is_one_job_until_its_last_try_and_then_its_trunks(tmp_path):
    parts = [job("a", 2.0, cells=2), job("b", 3.0)]
    pack = packed(["x=1"], parts)
    assert (pack.trunk_id, pack.trunk_ids, pack.seconds) == ("a,b", ["a", "b"], 5.0)
    assert [cell.run_id for cell in pack.cells] == ["a-0", "a-1", "b-0"]
    assert pack.overrides == ["x=1", "where.trunk='a,b'"]
    assert packed(["x=1"], parts[:1]) is parts[0]
    pack.deaths = MAX_DEATHS - 2
    assert unpacked(pack) == [pack]
    pack.deaths, pack.error = MAX_DEATHS - 1, "died"
    assert [(one.trunk_id, one.deaths, one.error) for one in unpacked(pack)] == [("a", 2, "died"), ("b", 2, "died")]
    lone = job("c", deaths=MAX_DEATHS - 1)
    assert unpacked(lone) == [lone]


def test_a_pack_with_a_trunk_that_is_free_is_started_and_one_that_keeps_dying_is_taken_apart(tmp_path, monkeypatch):
    store, parts = create_store(tmp_path), [job("a"), job("b", 2.0)]
    pack = packed([], parts)

    def does(one):
        (launcher.begin if "a" in one.trunk_id else launcher.done)(one)

    launcher = Launcher(store, [pack, *parts], does)
    held = lambda self, trunk: {"host": "h"} if trunk == "b" and not launcher.rounds else None  # noqa: E731
    monkeypatch.setattr(type(store), "holder", held)
    monkeypatch.setattr(queue, "_is_untouched", lambda *args: False)
    finish([pack], store, launcher)
    assert [names[0] for names, _ in launcher.rounds] == ["where.trunk='a,b'"] * 2 + ["trunk=b", "trunk=a"]
    assert (states_of(store, parts[0])[0][0], states_of(store, parts[1])[0][0]) == ("lost", "done")


@pytest.mark.parametrize("together", [False, True])
def test_jobs_are_the_trunks_with_cells_to_train(monkeypatch, together):
    """Settled cells and those that are not wanted are left out."""
    cells = {t: [SimpleNamespace(run_id=f"{t}{i}", seconds=i + 1.0) for i in range(3)] for t in ("a", "b", "c")}
    states = dict.fromkeys([c.run_id for own in cells.values() for c in own], "planned")
    states |= {"a0": "done", "a1": "diverged", "b0": "done", "b1": "done", "b2": "failed", "c2": "lost"}
    monkeypatch.setattr(queue, "wanted", lambda cell, where: cell.run_id != "b2")
    monkeypatch.setattr(queue, "trunk_seconds", lambda left, speed: speed * sum(c.seconds for c in left))
    known = []

    def packs(jobs, cells_of, where, workers):
        known.append(workers)
        assert [cells_of(one) for one in jobs] == [one.cells for one in jobs]
        return [jobs] if together else [[one] for one in jobs]

    monkeypatch.setattr(queue, "packs", packs)
    found = find_jobs(["x=1"], SimpleNamespace(trunks=cells), states, 2.0, SimpleNamespace(), 3)
    parts = found[0].parts if together else found
    assert [(one.trunk_id, [c.run_id for c in one.cells], one.seconds) for one in parts] == [
        ("a", ["a2"], 6.0), ("c", ["c0", "c1", "c2"], 12.0),
    ]  # fmt: skip
    assert [one.overrides for one in parts] == [["x=1", "where.trunk='a'"], ["x=1", "where.trunk='c'"]]
    assert known == [3]


def test_order_is_the_cheapest_then_the_longest():
    jobs = [Job(str(s), [], (), float(s)) for s in (3, 9, 1, 5)]
    assert [job.seconds for job in in_order(jobs)] == [1, 9, 5, 3]


def test_finish_does_nothing_without_jobs(tmp_path):
    finish([], create_store(tmp_path), lambda *a: pytest.fail("launched"))
