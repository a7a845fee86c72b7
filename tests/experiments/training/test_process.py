"""What a process sets once, before it trains."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from isoflop.experiments.training.process import configure_process, torch_as_new
from tests.support.root import ROOT

HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage")
HEAP = """
from pathlib import Path
from isoflop.experiments.training.process import keep_freed_memory

keep_freed_memory()
in_heap = False
for line in Path("/proc/self/smaps").read_text().splitlines():
    if not line.split()[0].endswith(":"):
        in_heap = line.endswith("[heap]")
        begin, end = (int(address, 16) for address in line.split()[0].split("-"))
    elif in_heap and line.startswith("VmFlags:"):
        print(end - begin, "hg" in line.split())
"""


@pytest.mark.skipif(
    not (HUGE_PAGES.exists() and hasattr(ctypes.CDLL(None), "mallopt")), reason="needs Linux's huge pages and glibc"
)
def test_the_next_part_of_the_heap_is_in_huge_pages():
    done = subprocess.run([sys.executable, "-c", HEAP], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    parts = [line.split() for line in done.stdout.splitlines()]
    assert sum(int(size) for size, huge in parts if huge == "True") >= 120 * 2**20


AMBIENT = {  # what a session may have set, what it is then, and how it is undone
    "type": (lambda: torch.set_default_dtype(torch.float64), torch.get_default_dtype,
             lambda: torch.set_default_dtype(torch.float32)),
    "device": (lambda: torch.set_default_device("meta"), torch.get_default_device,
               lambda: torch.set_default_device(None)),
    "gradients": (lambda: torch.set_grad_enabled(False), torch.is_grad_enabled,
                  lambda: torch.set_grad_enabled(True)),
    "precision": (lambda: torch.set_float32_matmul_precision("medium"), torch.get_float32_matmul_precision,
                  lambda: torch.set_float32_matmul_precision("highest")),
    "autocast": (lambda: torch.set_autocast_enabled("cpu", True), lambda: torch.is_autocast_enabled("cpu"),
                 lambda: torch.set_autocast_enabled("cpu", False)),
}  # fmt: skip


@pytest.mark.parametrize("name", AMBIENT)
def test_what_a_session_has_set_of_torch_does_not_reach_its_runs_and_is_there_again_afterwards(name):
    change, get, undo = AMBIENT[name]
    new = get()
    change()
    try:
        changed = get()
        assert changed != new
        with torch_as_new():
            assert get() == new
            weights = torch.ones(2, requires_grad=True)
            (weights.dot(weights) * 2).backward()
            assert weights.grad.tolist() == [4.0, 4.0]
            assert weights.dtype == torch.float32
        assert get() == changed
    finally:
        undo()


def test_threads_and_arithmetic_are_a_sessions_own_again_after_its_runs():
    threads, tf32 = torch.get_num_threads(), torch.backends.cudnn.allow_tf32
    try:
        torch.set_num_threads(3)
        torch.backends.cudnn.allow_tf32 = True
        with torch_as_new():
            configure_process(1)
            assert (torch.get_num_threads(), torch.backends.cudnn.allow_tf32) == (1, False)
        assert (torch.get_num_threads(), torch.backends.cudnn.allow_tf32) == (3, True)
    finally:
        torch.set_num_threads(threads)
        torch.backends.cudnn.allow_tf32 = tf32


LATER = """
import os, sys
from isoflop.experiments.training import process
with process.torch_as_new():
    assert "torch" not in sys.modules
    os.environ["OMP_NUM_THREADS"] = "1"
    process.configure_process(1)
import torch
assert not process.configured
print(torch.get_num_threads())
"""


def test_torch_that_a_run_has_loaded_has_the_threads_that_it_would_have_had():
    environment = {**os.environ, "OMP_NUM_THREADS": "3"}
    done = subprocess.run([sys.executable, "-c", LATER], cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE)
    assert done.stdout.strip() == b"3"
