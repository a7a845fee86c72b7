"""SIGKILL of a worker and of the parent in mid-sweep, through the real command and its pool of processes."""

import os
import signal
import time
from pathlib import Path

import pytest

from isoflop.experiments.store.store import open_store
from isoflop.scaling.table.runs import read_runs, same_runs
from tests.support.sweep import kills
from tests.support.sweep.process import ARGUMENTS, finish, signal_all, start, worker_at_work, worker_if_any
from tests.support.texts import write_texts

pytestmark = [pytest.mark.process, pytest.mark.slow]
ALONE = "where.workers=1"  # no pool: the command itself trains


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    write_texts(folder / "text", files=20, words=1000)
    return folder


def has_ended(worker):
    deadline = time.monotonic() + 600  # something hangs
    while Path(f"/proc/{worker}").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not Path(f"/proc/{worker}").exists(), "a worker outlived its parent"


@pytest.fixture(scope="module")
def undisturbed(folder, commands):
    """The table of the study on one worker, and the seconds that it took."""
    finish(commands.start(["--version"], cwd=folder))  # the first process has imported
    began = time.monotonic()
    finish(start(folder, "undisturbed", ALONE, commands=commands))
    return read_runs(folder / "undisturbed"), time.monotonic() - began


def test_a_killed_worker_and_a_killed_parent_cost_nothing_but_time(folder, undisturbed, commands):
    process = start(folder, "killed", commands=commands)
    os.kill(worker_at_work(folder, "killed", process), signal.SIGKILL)
    worker = worker_at_work(folder, "killed", process)
    process.kill()
    process.communicate()
    assert "6 cells: 6 done" in finish(start(folder, "killed", ALONE, commands=commands))
    assert same_runs(read_runs(folder / "killed"), undisturbed[0])
    assert 2 <= open_store(folder / "killed").states()["attempts"].max() <= 3
    has_ended(worker)


def interrupted(folder, store, commands, number, times) -> bool:
    """Start the study and send the signal once a worker is at work; False where all of it was trained before."""
    process = start(folder, store, commands=commands)
    worker = worker_if_any(folder, store, process)
    if worker is None:
        finish(process)
        return False
    if number == signal.SIGTERM:
        signal_all(process, signal.SIGSTOP)
        time.sleep(0.3)  # three times as long as it takes a worker to tell of itself
        assert open_store(folder / store).states()["state"].eq("running").any()  # only stopped
        signal_all(process, signal.SIGCONT)
        process.send_signal(number)
    else:
        for _ in range(times):
            signal_all(process, number)
            time.sleep(0.1)
    out, _ = process.communicate(timeout=600)  # something hangs
    has_ended(worker)
    assert times > 1 or "Traceback" not in out  # the third may come while Python ends
    return process.returncode != 0


def test_stopped_ended_interrupted_and_moved_the_same_command_finishes(folder, undisturbed, commands):
    """Stopped for a while and then SIGTERM, Ctrl-C once and three times; the store moved before the last launch.

    A fast machine may have trained all before the last signal: then that is sent to the same study in another store.
    """
    stores = ["ended", "ended-2", "ended-3"]
    for number, times in ((signal.SIGTERM, 1), (signal.SIGINT, 1), (signal.SIGINT, 3)):
        while not interrupted(folder, stores[0], commands, number, times):
            del stores[0]
            assert stores, "signals are passed over"
    (folder / stores[0]).rename(folder / "ended-moved")
    assert "6 cells: 6 done" in finish(start(folder, "ended-moved", ALONE, commands=commands))
    assert same_runs(read_runs(folder / "ended-moved"), undisturbed[0])


def test_two_launches_at_once_train_each_cell_once(folder, undisturbed, commands):
    for process in [start(folder, "both", commands=commands), start(folder, "both", ALONE, commands=commands)]:
        finish(process)
    assert same_runs(read_runs(folder / "both"), undisturbed[0])
    assert (open_store(folder / "both").states()["attempts"] == 1).all()


@pytest.mark.long
def test_kills_at_random_moments_cost_nothing_but_time(folder, undisturbed, commands):
    """What `python -m tests.proofs.kills` does a hundred times, on fewer cells; by this seed most while cells train."""
    whole, seconds = undisturbed
    toll = kills.torture(folder, 4, *ARGUMENTS, seed=10, whole=whole, pause=seconds, commands=commands)
    assert toll.kills == 4
