"""What a process sets once, before it trains."""

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

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
