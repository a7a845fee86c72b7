"""States on disk, and claims that die with their process."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from isoflop.experiments import files
from isoflop.experiments.files import CLAIM_FILE, STALE_SECONDS, UNREADABLE_SECONDS, holder, take
from isoflop.experiments.store.store import COLUMNS, StoreError, create_store, is_over, is_store, open_store
from isoflop.read_json import JsonError
from isoflop.scaling.table.runs import read_runs, write_run
from tests.support.root import RESULTS

CELL = {"run_id": "r1", "trunk_id": "t1", "label": "d8", "steps": 100, "flops": 1e9}


def state_of(store, run_id="r1"):
    return store.states([run_id]).iloc[0]


def claim_from_another_process(folder):
    code = "import sys, time, pathlib; from isoflop.experiments.files import take\n"
    code += f"take(pathlib.Path({str(folder)!r}));"
    process = subprocess.Popen([sys.executable, "-c", code + "print('mine', flush=True); time.sleep(60)"], stdout=-1)
    assert process.stdout.readline() == b"mine\n"
    return process


def test_a_new_folder_becomes_a_store_and_opens_again(tmp_path):
    create_store(tmp_path / "a" / "runs").record("r1", "planned")
    assert state_of(open_store(tmp_path / "a" / "runs"))["state"] == "planned"


def test_a_store_that_another_launch_makes_meanwhile_is_a_store(tmp_path, monkeypatch):
    """It appears with its first trunk between the look for STORE.json and the look for strangers."""
    listed = Path.iterdir

    def made_meanwhile(folder):
        monkeypatch.setattr(Path, "iterdir", listed)
        create_store(folder).record("r1", "planned")
        (folder / "trunks").mkdir(exist_ok=True)
        return listed(folder)

    monkeypatch.setattr(Path, "iterdir", made_meanwhile)
    assert state_of(create_store(tmp_path))["state"] == "planned"


@pytest.mark.parametrize("opener", [open_store, create_store])
def test_a_folder_that_is_no_store_is_refused_and_left_alone(tmp_path, opener):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(StoreError, match="not a runs folder"):
        opener(tmp_path)
    with pytest.raises(StoreError, match=r"it holds 'thesis\.txt' and no STORE\.json"):
        is_store(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_missing_folder_file_and_newer_store_are_refused(tmp_path):
    with pytest.raises(StoreError, match="no such folder"):
        open_store(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="is a file"):
        create_store(tmp_path / "file")
    (tmp_path / "STORE.json").write_text('{"version": 99}')
    with pytest.raises(StoreError, match="store version 99"):
        open_store(tmp_path)
    for version, opens in ((1, True), (2, False)):
        (tmp_path / "STORE.json").write_text(json.dumps({"version": version}))
        if opens:
            assert open_store(tmp_path).root == tmp_path
            assert is_store(tmp_path)
        else:
            with pytest.raises(StoreError, match="this isoflop reads up to 1"):
                open_store(tmp_path)
    assert not is_store(tmp_path / "new")


def test_an_unknown_cell_is_planned(tmp_path):
    row = state_of(create_store(tmp_path))
    assert list(row.index) == list(COLUMNS)
    known = {name: value for name, value in row.items() if value == value}
    assert known == {
        "run_id": "r1", "trunk_id": "", "state": "planned", "label": "", "step": 0, "steps": 0, "branch_step": 0,
        "flops": 0, "attempts": 0, "pid": 0, "launch": "", "error": "", "engine": "",
    }  # fmt: skip


def test_attempts_are_counted_and_fields_kept(tmp_path):
    store = create_store(tmp_path)
    store.start(CELL)
    store.record("r1", "failed", step=7, error="Traceback\nKeyError: 1")
    store.start(CELL)
    assert state_of(store)["step"] == 0
    store.record("r1", "done", step=100)
    row = state_of(store)
    assert (row["state"], row["attempts"], row["step"], row["error"], row["label"]) == ("done", 2, 100, "", "d8")


def test_running_without_a_living_claim_is_lost(tmp_path):
    store = create_store(tmp_path)
    store.start(CELL)
    assert state_of(store)["state"] == "lost"
    assert not store.claimed("t1")
    claim = store.claim("t1")
    assert store.claimed("t1")
    assert state_of(store)["step"] == 0  # it has said nothing of its work yet
    claim.beat(step=42)
    row = state_of(store)
    assert (row["state"], row["step"]) == ("running", 42)
    assert row["heartbeat"] == pytest.approx(time.time(), abs=30)
    claim.release()
    assert state_of(store)["state"] == "lost"


def test_a_claim_is_taken_once_and_again_after_release(tmp_path):
    claim = take(tmp_path)
    assert take(tmp_path) is None
    claim.release()
    assert take(tmp_path) is not None


@pytest.mark.parametrize(
    ("stands_there", "reported"),
    [
        ({"host": "node7/abc"}, "taken over by node7 "),
        ({"pid": 1, "birth": "1"}, "taken over by"),
        (None, "was removed"),
    ],
)
def test_a_claim_that_another_process_has_by_now_is_never_written_over(tmp_path, stands_there, reported):
    claim, path = take(tmp_path), tmp_path / CLAIM_FILE
    if stands_there is None:
        path.unlink()
    else:
        path.write_text(json.dumps(json.loads(path.read_text()) | stands_there))
    before = path.exists() and path.read_bytes()
    for use in (claim.check, claim.beat, lambda: claim.beat(step=3)):
        with pytest.raises(files.ClaimLostError, match=reported):
            use()
    claim.release()
    assert (path.exists() and path.read_bytes()) == before


def test_a_claim_cut_short_is_written_again_by_its_process(tmp_path):
    claim = take(tmp_path)
    (tmp_path / CLAIM_FILE).write_text('{"host"')
    claim.beat(step=3)
    assert holder(tmp_path)["step"] == 3


@pytest.mark.process
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_dead_process_loses_its_claim(tmp_path, how):
    process = claim_from_another_process(tmp_path)
    assert holder(tmp_path)["pid"] == process.pid
    assert take(tmp_path) is None
    process.send_signal(how)
    deadline = time.monotonic() + 600  # something hangs
    while holder(tmp_path) is not None and time.monotonic() < deadline:  # a zombie must not count as alive
        time.sleep(0.02)
    assert take(tmp_path) is not None
    process.communicate()


def test_a_later_process_with_the_same_number_is_not_the_owner(tmp_path):
    take(tmp_path)
    claim = json.loads((tmp_path / CLAIM_FILE).read_text())
    (tmp_path / CLAIM_FILE).write_text(json.dumps(claim | {"birth": "1"}))
    assert holder(tmp_path) is None


@pytest.fixture
def later(monkeypatch):
    """A function that moves this machine's own clock on; `forget=True` as if another command looked then."""
    clock = [1000.0]
    monkeypatch.setattr(files, "_since_boot", lambda: clock[0])
    for memory in ("_seen", "_written"):
        monkeypatch.setattr(files, memory, {})

    def move(seconds, *, forget=False):
        clock[0] += seconds
        if forget:
            files._seen.clear()
            files._written.clear()

    return move


def foreign(folder, **fields):
    """The claim of a machine named elsewhere, with these fields."""
    claim = {"host": "elsewhere", "pid": os.getpid(), "birth": "1", "heartbeat": time.time()} | fields
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CLAIM_FILE).write_text(json.dumps(claim))


@pytest.mark.parametrize("hours", [-1e6, -24, -300 / 3600, 0, 300 / 3600, 24, 1e6])
@pytest.mark.parametrize("forget", [False, True])
def test_another_machines_claim_is_dead_once_this_machine_has_seen_no_change(tmp_path, later, hours, forget):
    """Whatever the other one's clock says, by this machine's own, and whether one command looks or several do."""
    foreign(tmp_path, heartbeat=time.time() + 3600 * hours)
    assert take(tmp_path) is None
    later(STALE_SECONDS - 1, forget=forget)
    assert take(tmp_path) is None
    foreign(tmp_path, heartbeat=time.time() + 3600 * hours + 1)  # it lives
    assert take(tmp_path) is None
    later(STALE_SECONDS - 1, forget=forget)
    assert holder(tmp_path)["host"] == "elsewhere"
    later(2, forget=forget)
    assert holder(tmp_path) is None
    assert take(tmp_path) is not None


def test_to_the_second_a_claim_is_held_and_then_not(tmp_path, later):
    nobody = {"host": "", "pid": 0, "birth": None}
    for folder, content, patience in (("a", None, STALE_SECONDS), ("b", b"{", UNREADABLE_SECONDS)):
        foreign(tmp_path / folder, heartbeat=float("nan"))
        if content:
            (tmp_path / folder / CLAIM_FILE).write_bytes(content)
        assert holder(tmp_path / folder) is not None
        later(patience - 0.5)
        held = holder(tmp_path / folder)
        assert held["host"] == "elsewhere" if content is None else nobody.items() <= held.items()
        later(0.5)
        assert holder(tmp_path / folder) is None


def test_when_a_claim_was_seen_is_written_down_every_half_minute_and_by_no_other_that_knows_it(tmp_path, later):
    def noted():
        holder(tmp_path)
        return json.loads(files._sight_file(tmp_path).read_text())["at"]

    foreign(tmp_path)
    assert noted() == 1000
    for seconds, at in ((29, 1000), (1, 1030), (15, 1030), (20, 1065)):
        later(seconds)
        foreign(tmp_path, heartbeat=float(seconds))  # it changes each time
        assert noted() == at
    later(40, forget=True)
    before = files._sight_file(tmp_path).stat().st_ino
    assert noted() == 1065
    assert files._sight_file(tmp_path).stat().st_ino == before  # nothing new was written


def test_a_claim_is_ours_by_its_machine(tmp_path):
    take(tmp_path / "a")
    foreign(tmp_path / "b")
    assert files.is_ours(holder(tmp_path / "a"))
    assert not files.is_ours(holder(tmp_path / "b"))


def test_the_birth_of_a_process_is_when_it_started_until_it_is_gone():
    before, (reads, writes) = files._since_boot(), os.pipe()
    child = os.fork()
    if not child:
        os.close(writes)
        os.read(reads, 1)
        os._exit(0)
    birth = int(files._birth(child)) / os.sysconf("SC_CLK_TCK")
    assert before - 0.1 <= birth <= files._since_boot() + 0.1
    assert files._birth(os.getpid()) == files._birth(os.getpid()) != files._birth(child)
    os.close(writes)
    os.close(reads)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert files._birth(child) is None  # a zombie
    assert files._exists(child) == files._exists(os.getpid()) == "alive"
    os.waitpid(child, 0)
    assert files._birth(child) is files._exists(child) is None


def test_whether_a_process_exists_is_asked_without_a_signal(monkeypatch):
    sent = []
    monkeypatch.setattr(files.os, "kill", lambda pid, number: sent.append(number))
    assert files._exists(1) == "alive"
    assert sent == [0]


def test_what_a_machine_has_seen_before_it_started_again_does_not_count(tmp_path, later):
    foreign(tmp_path)
    assert take(tmp_path) is None
    later(-900, forget=True)  # its clock begins anew
    assert take(tmp_path) is None
    later(STALE_SECONDS + 1, forget=True)
    assert take(tmp_path) is not None


@pytest.mark.parametrize(
    "content", [b"", b'{"host": "else', b"[]", b"{}", b"null", b'{"host": 5, "pid": 1}', b"\xff\xfe", b"[" * 10**5]
)
def test_a_claim_that_cannot_be_read_is_nobodys_after_a_while(tmp_path, later, content):
    store = create_store(tmp_path)
    store.start(CELL)
    folder = store.trunk_folder("t1")
    folder.mkdir(parents=True)
    (folder / CLAIM_FILE).write_bytes(content)
    assert store.claim("t1") is None
    assert state_of(store)["state"] == "running"
    later(UNREADABLE_SECONDS + 1)
    assert state_of(store)["state"] == "lost"
    claim = store.claim("t1")
    claim.beat(step=3)
    assert holder(folder)["step"] == 3
    (folder / CLAIM_FILE).write_bytes(content)
    claim.release()


@pytest.mark.process
def test_of_many_processes_one_gets_a_stale_claim(tmp_path):
    take(tmp_path)
    claim = json.loads((tmp_path / CLAIM_FILE).read_text())
    (tmp_path / CLAIM_FILE).write_text(json.dumps(claim | {"birth": "1"}))
    code = (
        "import sys, time; from pathlib import Path; from isoflop.experiments.files import take;"
        f"print(take(Path({str(tmp_path)!r})) is not None, flush=True); sys.stdin.read()"
    )
    racers = [subprocess.Popen([sys.executable, "-c", code], stdout=-1, stdin=-1, text=True) for _ in range(4)]
    got = [racer.stdout.readline().strip() for racer in racers]
    for racer in racers:
        racer.communicate()
    assert sorted(got) == ["False", "False", "False", "True"]


def test_a_studys_cells_are_listed_and_single_cells_add_up(tmp_path):
    store = create_store(tmp_path)
    store.write_study("quick", [CELL, {**CELL, "run_id": "r2"}], hold_out=[1e12])
    store.write_study("quick", [CELL], hold_out=[1e12])
    store.write_study("", [{**CELL, "run_id": "r3"}])
    store.write_study("", [{**CELL, "run_id": "r4"}])
    assert store.studies()["quick"]["hold_out"] == [1e12]
    assert list(store.states()["run_id"]) == ["r1", "r3", "r4"]
    for run_id in ("r4", "r0"):
        store.record(run_id, "done")
    states = store.states()
    assert list(states["run_id"]) == ["r1", "r3", "r4", "r0"]
    assert list(states["state"]) == ["planned", "planned", "done", "done"]


def test_cells_of_a_part_of_a_study_are_added_and_those_listed_stay_as_they_are(tmp_path):
    store = create_store(tmp_path)
    store.write_study("quick", [{**CELL, "launch": "a"}], hold_out=[1e12], whole=False)
    store.write_study("quick", [{**CELL, "run_id": "r2", "launch": "b"}, {**CELL, "launch": "b"}], whole=False)
    listed = store.studies()["quick"]
    assert [(cell["run_id"], cell["launch"]) for cell in listed["cells"]] == [("r1", "a"), ("r2", "b")]
    assert listed["hold_out"] == [1e12]
    store.write_study("quick", [{**CELL, "launch": "c"}])
    assert [cell["launch"] for cell in store.studies()["quick"]["cells"]] == ["c"]


def test_what_was_typed_is_found_again_by_an_id_that_stays(tmp_path):
    store = create_store(tmp_path)
    assert store.write_launch(["experiment=quick"], "/home/me") == "fe708258d6a7"
    assert store.read_launch("fe708258d6a7") == (["experiment=quick"], "/home/me")
    assert store.read_launch("") is store.read_launch("0" * 12) is None


@pytest.mark.parametrize("state", ["planned", "running", "failed", "lost"])
def test_what_has_no_result_is_not_over(state):
    assert not is_over(state, 10, 10)


def test_what_has_a_result_is_over_and_what_stopped_where_it_was_to():
    assert is_over("done", 0, None)
    assert is_over("diverged", 0, 10)
    found = [is_over("stopped", step, until) for step, until in ((9, 10), (10, 10), (11, 10), (10, None))]
    assert found == [False, True, True, False]


def test_a_truncated_run_file_is_named(tmp_path):
    store = create_store(tmp_path)
    store.run_file("r1").parent.mkdir(parents=True)
    store.run_file("r1").write_bytes(b"PAR1 and no more")
    with pytest.raises(StoreError, match=r"r1/run\.parquet: missing, truncated or not a run table; delete"):
        store.check(["r1"])


@pytest.mark.parametrize("content", [b"", b'{"run_id": ', b"\x00" * 50])
def test_a_state_that_was_cut_short_is_lost_and_can_be_trained_again(tmp_path, content):
    store = create_store(tmp_path)
    store.record("r1", "planned")
    store.state_file("r1").write_bytes(content)
    row = state_of(store)
    assert (row["state"], row["error"]) == (
        "lost",
        f"{tmp_path}/cells/r1/state.json was cut short: the cell is trained again",
    )
    assert store.cut_short() == ["r1"]
    store.start(CELL)
    assert state_of(store)["attempts"] == 1
    assert store.cut_short() == []


def test_a_state_that_was_cut_short_is_what_the_last_row_of_its_run_says(tmp_path):
    store, rows = create_store(tmp_path), read_runs(RESULTS / "quick.parquet")
    run_id = str(rows["run_id"].iloc[0])
    rows = rows[rows["run_id"] == run_id]
    assert len(rows) > 2
    write_run(store.run_file(run_id), rows.to_dict("records"), {})
    store.state_file(run_id).write_bytes(b"")
    row, last = state_of(store, run_id), rows.iloc[-1]
    assert row["state"] == "done"
    assert (row["step"], row["seconds"], row["trunk_id"]) == (last["step"], last["wall_seconds"], last["trunk_id"])


def test_a_state_that_is_no_file_is_named_and_not_taken_for_one_that_was_cut_short(tmp_path):
    store = create_store(tmp_path)
    store.state_file("r1").mkdir(parents=True)
    with pytest.raises(JsonError, match=r"state\.json"):
        state_of(store)
    assert store.cut_short() == []


def test_nothing_of_a_store_that_was_deleted_is_made_again(tmp_path):
    store = create_store(tmp_path / "runs")
    claim = store.claim("t1")
    kept = (store.root / "STORE.json").rename(tmp_path / "kept")
    with pytest.raises(StoreError, match="no runs folder any more"):
        store.check_there()
    kept.rename(store.root / "STORE.json")
    store.check_there()
    shutil.rmtree(store.root)
    for write in (lambda: store.record("r1", "done"), lambda: store.start(CELL), lambda: store.claim("t1")):
        with pytest.raises(StoreError, match=r"runs: no runs folder any more .its STORE.json is gone.: it was deleted"):
            write()
    with pytest.raises(FileNotFoundError):
        claim.beat(step=1)
    claim.release()
    assert not store.root.exists()
