"""How many workers, each on which GPU, and what is said of them. No GPU is needed: their number is faked."""

import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import BrokenExecutor
from dataclasses import replace
from types import SimpleNamespace

import pytest

from isoflop.experiments.compose.messages import UsageError
from isoflop.experiments.config import WhereSpec
from isoflop.experiments.cost.cost import REFERENCE, cores, trunk_seconds, trunks_seconds
from isoflop.experiments.store.store import open_store
from isoflop.experiments.sweep import pool, train_job
from isoflop.experiments.sweep.pool import (
    at_once,
    at_work,
    begin_helpers,
    devices_of,
    elsewhere,
    gpus,
    helpers,
    mps_runs,
    per_device,
    start_worker,
    time_slices,
    worker_count,
)
from isoflop.experiments.training import process as settings
from tests.support.sweep.launches import in_process, sweep_with, two_trunks
from tests.support.sweep.studies import cell_of_width

CUDA = WhereSpec(device="cuda")


@pytest.fixture(autouse=True)
def four(monkeypatch, tmp_path):
    """A machine of four GPUs without MPS."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path / "mps"))
    monkeypatch.setattr(pool, "device_count", lambda: 4)


def test_workers_are_of_cores_on_cpu_and_of_gpus_on_cuda():
    assert worker_count(WhereSpec()) == cores()
    assert worker_count(WhereSpec(workers_per_gpu=9)) == cores()
    assert worker_count(CUDA) == 4
    assert worker_count(replace(CUDA, workers_per_gpu=3)) == 12
    assert worker_count(replace(CUDA, device="cuda:1", workers_per_gpu=3)) == 3
    assert worker_count(replace(CUDA, workers=5, workers_per_gpu=3)) == 5


def test_a_machine_without_a_gpu_is_left_to_the_check_of_the_device(monkeypatch):
    monkeypatch.setattr(pool, "device_count", lambda: 0)
    assert worker_count(CUDA) == 1
    assert at_once(CUDA, 3) == 1


@pytest.mark.parametrize("key", ["workers", "threads", "workers_per_gpu"])
def test_an_impossible_number_is_refused(key):
    with pytest.raises(UsageError, match=rf"where\.{key} must be at least 1"):
        worker_count(replace(CUDA, **{key: 0}))


def test_gpus_are_those_that_this_process_sees(monkeypatch):
    assert gpus("cpu") == []
    assert gpus("cuda") == ["0", "1", "2", "3"]
    assert gpus("cuda:1") == ["1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-ab12")
    assert gpus("cuda") == ["5", "GPU-ab12"]
    assert gpus("cuda:1") == ["GPU-ab12"]
    assert worker_count(replace(CUDA, workers_per_gpu=2)) == 4


def test_memory_is_shared_by_the_workers_of_one_device():
    assert per_device(WhereSpec(), 6) == 6
    assert per_device(CUDA, 4) == 1
    assert per_device(CUDA, 6) == 2  # not even: the fullest
    assert per_device(replace(CUDA, device="cuda:2"), 6) == 6


def test_mps_is_found_by_its_process(tmp_path):
    folder = tmp_path / "mps"
    folder.mkdir()
    assert not mps_runs()
    (folder / "nvidia-cuda-mps-control.pid").write_text(str(os.getpid()))
    assert mps_runs()
    (folder / "nvidia-cuda-mps-control.pid").write_text("999999999")
    (folder / "control").touch()  # what a daemon that died leaves
    assert not mps_runs()
    (folder / "nvidia-cuda-mps-control.pid").unlink()
    assert mps_runs()


def test_workers_that_share_a_gpu_are_told_of_mps_once_and_not_held_up(tmp_path):
    assert time_slices(WhereSpec(), 8) == time_slices(CUDA, 4) == ""
    message = time_slices(CUDA, 8)
    assert message.startswith("2 workers share a GPU by time slices")
    assert "nvidia-cuda-mps-control -d" in message
    assert "\n" not in message
    assert (at_once(CUDA, 8), at_once(CUDA, 2), at_once(WhereSpec(), 99)) == (4, 2, cores())
    (tmp_path / "mps").mkdir()
    (tmp_path / "mps" / "control").touch()
    assert time_slices(CUDA, 8) == ""
    assert at_once(CUDA, 8) == 8


def worker(folder, workers=4, names="0,1"):
    """A process that begins as a pool's worker and tells which GPU it sees; it ends when its input does."""
    code = (
        "import os, sys; from isoflop.experiments.sweep import pool; pool.PATIENCE_SECONDS = 1.0; "
        f"pool.begin_worker(os.getppid(), {str(folder)!r}, {workers}, {names.split(',')!r}); "
        "print(os.environ['CUDA_VISIBLE_DEVICES'], 'torch' in sys.modules, flush=True); sys.stdin.read()"
    )
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True)
    return process, *process.stdout.readline().split()


@pytest.mark.process
def test_every_worker_has_a_gpu_and_its_successor_the_same(tmp_path):
    workers = [worker(tmp_path) for _ in range(4)]
    try:
        assert sorted(name for _, name, _ in workers) == ["0", "0", "1", "1"]
        assert {loaded for *_, loaded in workers} == {"False"}  # torch would have counted the GPUs already
        victim, name, _ = workers[2]
        victim.kill()
        victim.communicate()
        workers[2] = worker(tmp_path)
        assert workers[2][1] == name
        workers.append(worker(tmp_path))  # one too many gets a GPU all the same
        assert workers[-1][1] in ("0", "1")
    finally:
        for process, *_ in workers:
            process.communicate()


@pytest.mark.process
def test_workers_of_a_real_pool_keep_their_gpus_from_job_to_job():
    code = """
import json, os, sys, tempfile, time
from joblib import Parallel, delayed
from isoflop.experiments.sweep.pool import begin_worker
def job(i):
    time.sleep(0.05)
    return os.getpid(), os.environ["CUDA_VISIBLE_DEVICES"]
with tempfile.TemporaryDirectory() as folder:
    seen = Parallel(n_jobs=2, batch_size=1, initializer=begin_worker, initargs=(os.getpid(), folder, 2, ["3", "7"]))(
        delayed(job)(i) for i in range(20)
    )
print(json.dumps(seen))
"""
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    seen = {tuple(pair) for pair in json.loads(done.stdout)}
    assert len(seen) == len({pid for pid, _ in seen}) == 2
    assert {name for _, name in seen} == {"3", "7"}


@pytest.mark.slow
def test_the_launch_says_its_workers_and_gpus(text, tmp_path, monkeypatch, capsys):
    spec = two_trunks(text, tmp_path)
    monkeypatch.setattr("isoflop.experiments.sweep.launch.check_device", lambda device: None)
    monkeypatch.setattr("isoflop.experiments.sweep.launch.available_bytes", lambda device: 1e12)
    where = replace(spec.where, device="cuda", workers_per_gpu=2)

    def launch(job_overrides, first):  # on CPU, as nothing else is here
        return in_process(replace(spec, where=replace(where, device="cpu")))(job_overrides, first)

    assert sweep_with(replace(spec, where=where), launch, workers=8) == 0
    message = capsys.readouterr().err
    assert "4 cells, 4 to train in 2 trunks, 8 workers x 1 threads on 4 GPUs, about " in message
    assert message.count("by time slices") == 1
    assert (open_store(spec.runs).states()["state"] == "done").all()


def test_minutes_are_of_the_workers_that_do_not_share():
    trunks = [[replace(cell_of_width(16), seed=seed)] for seed in range(8)]
    each = trunk_seconds(trunks[0], REFERENCE)
    for device, in_a_row in (("cuda", 2), ("cuda:0", 8)):
        workers = at_once(replace(CUDA, device=device), 8)
        assert trunks_seconds(trunks, workers, REFERENCE) == pytest.approx(REFERENCE.start + in_a_row * each)


def test_devices_are_cores_or_the_gpus_that_workers_share():
    assert devices_of(WhereSpec(threads=2), 3) == 6
    assert devices_of(CUDA, 8) == 4
    assert devices_of(CUDA, 2) == 2
    assert devices_of(WhereSpec(device="cuda:1"), 8) == 1


def test_a_pools_worker_without_a_parent_ends_also_when_idle(monkeypatch):
    ended = threading.Event()
    monkeypatch.setattr(settings, "LOOK_SECONDS", 0.01)
    parents = iter([10, 10, 10, 1])
    monkeypatch.setattr(pool.os, "getppid", lambda: next(parents, 1))
    monkeypatch.setattr(pool.os, "_exit", lambda code: ended.set())
    pool.end_with(10)  # no trunk, no claim
    assert ended.wait(600)


@pytest.mark.process
def test_a_helper_does_what_would_hold_up_the_steps_and_an_error_comes_back(tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "HELPERS", 1)  # each loads torch
    elsewhere(1, os.mkdir, tmp_path / "made")
    assert (tmp_path / "made").is_dir()
    with pytest.raises(FileExistsError):
        elsewhere(1, os.mkdir, tmp_path / "made")
    helpers(1).shutdown()
    helpers.cache_clear()


def test_helpers_begin_with_a_launch_that_trains_on_a_gpu_that_is_there(tmp_path, monkeypatch):
    begun = []
    monkeypatch.setattr(pool, "helpers", begun.append)
    monkeypatch.setattr(pool, "CARD", (str(tmp_path / "card"),))
    begin_helpers(CUDA, 1)
    assert not begun  # the check of the device will say so
    (tmp_path / "card").touch()
    for where, workers in ((WhereSpec(), 1), (CUDA, 2), (CUDA, None), (replace(CUDA, threads=3), 1)):
        begin_helpers(where, workers)
    assert begun == [3]


def test_where_helpers_cannot_be_started_the_process_does_it_itself(monkeypatch):
    class Broken:
        def submit(self, *call):
            raise BrokenExecutor

    done = []
    monkeypatch.setattr(pool, "helpers", lambda threads: Broken())
    elsewhere(1, done.append, "here")
    assert done == ["here"]


def test_an_interrupt_ends_a_job_and_between_jobs_nothing(monkeypatch):
    """Between jobs a worker would print where in joblib it was; the launch ends it."""
    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(pool, "end_with", lambda parent: None)
    monkeypatch.setattr(pool, "begin", lambda threads, device: None)
    at_work.clear()
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        start_worker(os.getpid(), 1, "cpu")
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN  # begun in the background of a shell
        signal.signal(signal.SIGINT, signal.default_int_handler)
        start_worker(os.getpid(), 1, "cpu")
        signal.raise_signal(signal.SIGINT)
        at_work.append("a trunk")
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    finally:
        at_work.clear()
        signal.signal(signal.SIGINT, before)


def test_a_job_is_at_work_while_it_trains(monkeypatch):
    seen = []
    monkeypatch.setattr(train_job, "_go_to", lambda folder: seen.append(list(at_work)))
    monkeypatch.setattr(train_job.HydraConfig, "get", lambda: SimpleNamespace(runtime=SimpleNamespace(cwd=".")))
    with pytest.raises(AttributeError):
        train_job.job(SimpleNamespace())
    assert len(seen[0]) == 1
    assert not at_work
