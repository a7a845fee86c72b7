"""A small sweep as a user starts it: the command in a process of its own, on the pool of worker processes.

With `commands` the interpreter of the command and of its workers has been started and has imported before.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from isoflop.experiments.store.store import StoreError, open_store
from tests.support.forked import Commands, Forked

DEADLINE = 600.0  # seconds without an end: something hangs
ARGUMENTS = (
    "study.name=kill", "study.sizes=[d8,d12,d16]", "study.budgets=[2e9,6e9]", "study.window.min_steps=1",
    "schedule.warmup_steps=5", "data=text", "data.eval_tokens=2048", "data.max_epochs=1e4",
    "where.checkpoint_seconds=0.2", "where.workers=2",
)  # fmt: skip
Started = subprocess.Popen | Forked


def start(folder: Path, runs: str, *more: str, commands: Commands | None = None) -> Started:
    """`isoflop run` on the files in `folder`/text, into `folder`/`runs`; `more` are overrides."""
    words = ["run", *ARGUMENTS, f"data.files=[{folder}/text/*.txt]", f"runs={runs}", *more]
    if commands is not None:
        return commands.start(words, cwd=folder)
    return subprocess.Popen(
        [sys.executable, "-m", "isoflop", *words], cwd=folder, stdout=-1, stderr=subprocess.STDOUT, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # as in a terminal; background jobs ignore it
    )  # fmt: skip


def signal_all(process: Started, number: int) -> None:
    """Send a signal to the command and its workers, as a terminal does."""
    for pid in [process.pid, *workers_of(process.pid)]:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue  # ended since


def finish(process: Started) -> str:
    """What it printed, once it has ended well."""
    out, _ = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, out
    return out


def worker_at_work(folder: Path, runs: str, process: Started | None = None) -> int:
    """Process number of a worker, of this command where one is given, that has taken some steps of a cell."""
    worker = worker_if_any(folder, runs, process)
    if worker is None:
        pytest.fail("the command ended before a worker was seen at work")
    return worker


def worker_if_any(folder: Path, runs: str, process: Started | None) -> int | None:
    """The same; None where the command ends before a worker is seen at work."""
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        try:
            states = open_store(folder / runs).states()
        except StoreError:
            states = None  # not made yet
        if states is not None:
            busy = states[(states["state"] == "running") & (states["step"] > 0)]["pid"].astype(int).tolist()
            own = busy if process is None else sorted({*busy} & {*workers_of(process.pid)})
            if own:
                return own[0]
        if process is not None and process.poll() is not None:
            return None
        time.sleep(0.05)
    pytest.fail("no worker got to work")


def workers_of(parent: int) -> list[int]:
    """Process numbers of the pool's workers."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            of = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            command = (entry / "cmdline").read_text()
        except OSError:
            continue  # gone since
        if of == parent and ("popen_loky" in command or "tests.support.forked" in command):
            found.append(int(entry.name))
    return found
