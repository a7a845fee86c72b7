"""SIGKILL of a worker and of the parent in mid-sweep, through the real command and its pool of processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from isoflop.experiments.store.store import StoreError, open_store
from isoflop.scaling.table.runs import read_runs, same_runs
from tests.proofs import kills as prove_kills

ARGUMENTS = (
    "study.name=kill", "study.sizes=[d8,d12,d16]", "study.budgets=[2e9,3e10]", "study.window.min_steps=1",
    "schedule.warmup_steps=5", "data=text", "data.eval_tokens=2048", "data.max_epochs=1e4",
    "where.checkpoint_seconds=0.2", "where.workers=2",
)  # fmt: skip
DEADLINE = 200


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    (folder / "text").mkdir()
    for i in range(20):
        (folder / "text" / f"{i}.txt").write_text("".join(f"{i * j % 97} and {j * j % 89}, " for j in range(2000)))
    return folder


def start(folder: Path, runs: str, *more: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "isoflop", "run", *ARGUMENTS, f"data.files=[{folder}/text/*.txt]", f"runs={runs}"]
    return subprocess.Popen([*command, *more], cwd=folder, stdout=-1, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen) -> str:
    out, _ = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, out
    return out


def a_worker_at_work(folder: Path, runs: str) -> int:
    """Process number of a worker that has taken some steps of a cell."""
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        try:
            states = open_store(folder / runs).states()
        except StoreError:
            states = None  # not made yet
        if states is not None and len(busy := states[(states["state"] == "running") & (states["step"] > 0)]):
            return int(busy["pid"].iloc[0])
        time.sleep(0.05)
    pytest.fail("no worker got to work")


@pytest.fixture(scope="module")
def undisturbed(folder):
    """The table of the study on one worker."""
    finish(start(folder, "undisturbed", "where.workers=1"))
    return read_runs(folder / "undisturbed")


@pytest.mark.slow
def test_a_killed_worker_costs_nothing_but_time(folder, undisturbed):
    process = start(folder, "worker")
    os.kill(a_worker_at_work(folder, "worker"), signal.SIGKILL)
    assert "6 cells: 6 done" in finish(process)
    assert same_runs(read_runs(folder / "worker"), undisturbed)
    assert open_store(folder / "worker").states()["attempts"].max() == 2


@pytest.mark.slow
def test_after_a_killed_parent_the_same_command_finishes(folder, undisturbed):
    process = start(folder, "parent")
    worker = a_worker_at_work(folder, "parent")
    process.kill()
    process.communicate()
    assert "6 cells: 6 done" in finish(start(folder, "parent"))
    assert same_runs(read_runs(folder / "parent"), undisturbed)
    deadline = time.monotonic() + 10
    while Path(f"/proc/{worker}").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not Path(f"/proc/{worker}").exists(), "a worker outlived its parent"


@pytest.mark.slow
def test_two_launches_at_once_train_each_cell_once(folder, undisturbed):
    for process in [start(folder, "both"), start(folder, "both")]:
        finish(process)
    assert same_runs(read_runs(folder / "both"), undisturbed)
    assert (open_store(folder / "both").states()["attempts"] == 1).all()


@pytest.mark.slow
def test_kills_at_random_moments_cost_nothing_but_time(tmp_path):
    """What `python -m tests.proofs.kills` does a hundred times."""
    prove_kills.write_text(tmp_path)
    whole, seconds = prove_kills.undisturbed(tmp_path)
    toll = prove_kills.torture(tmp_path, 4, seed=1, whole=whole, pause=seconds / 2)
    assert toll.kills == 4
