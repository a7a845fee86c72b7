"""States on disk, and claims that die with their process."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from isoflop.experiments.files import CLAIM_FILE, STALE_SECONDS, holder, take
from isoflop.experiments.store.store import COLUMNS, StoreError, create_store, open_store

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


@pytest.mark.parametrize("opener", [open_store, create_store])
def test_a_folder_that_is_no_store_is_refused_and_left_alone(tmp_path, opener):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(StoreError, match="not a runs folder"):
        opener(tmp_path)
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


def test_an_unknown_cell_is_planned(tmp_path):
    row = state_of(create_store(tmp_path))
    assert (row["state"], row["attempts"]) == ("planned", 0)
    assert list(row.index) == list(COLUMNS)


def test_attempts_are_counted_and_fields_kept(tmp_path):
    store = create_store(tmp_path)
    store.start(CELL)
    store.record("r1", "failed", step=7, error="Traceback\nKeyError: 1")
    store.start(CELL)
    store.record("r1", "done", step=100)
    row = state_of(store)
    assert (row["state"], row["attempts"], row["step"], row["error"], row["label"]) == ("done", 2, 100, "", "d8")


def test_running_without_a_living_claim_is_lost(tmp_path):
    store = create_store(tmp_path)
    store.start(CELL)
    assert state_of(store)["state"] == "lost"
    claim = store.claim("t1")
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


def test_another_machines_claim_is_stale_when_its_heartbeat_is_old(tmp_path):
    take(tmp_path)
    claim = json.loads((tmp_path / CLAIM_FILE).read_text()) | {"host": "elsewhere", "pid": os.getpid()}
    (tmp_path / CLAIM_FILE).write_text(json.dumps(claim))
    assert take(tmp_path) is None
    (tmp_path / CLAIM_FILE).write_text(json.dumps(claim | {"heartbeat": time.time() - STALE_SECONDS - 1}))
    assert take(tmp_path) is not None


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


def test_a_truncated_run_file_is_named(tmp_path):
    store = create_store(tmp_path)
    store.run_file("r1").parent.mkdir(parents=True)
    store.run_file("r1").write_bytes(b"PAR1 and no more")
    with pytest.raises(StoreError, match=r"r1/run\.parquet: missing, truncated or not a run table; delete"):
        store.check(["r1"])


def test_a_damaged_state_file_is_named(tmp_path):
    store = create_store(tmp_path)
    store.record("r1", "planned")
    (tmp_path / "cells" / "r1" / "state.json").write_text('{"run_id": ')
    with pytest.raises(ValueError, match=r"r1/state\.json: not readable as JSON"):
        store.states(["r1"])
