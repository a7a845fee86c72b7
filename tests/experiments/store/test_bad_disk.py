"""A disk that is full, read-only or limited: one line, nothing corrupt, and the same command goes on afterwards."""

import resource
import shutil
import subprocess

import pytest

from isoflop.experiments.store.store import open_store
from isoflop.scaling.table.runs import is_run_table, read_runs, same_runs

STUDY = (
    "study.name=tiny", "study.sizes=[d6,d8]", "study.budgets=[2e8,4e8]", "study.window.min_steps=1",
    "schedule.warmup_steps=3", "data=text", "data.files=[../text/*.txt]", "data.eval_tokens=512",
    "data.held_out_fraction=0.3", "data.context_length=16", "optim.batch_size=32", "hydra/launcher=basic",
    "where.checkpoint_seconds=0",
)  # fmt: skip


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A folder with text and its corpus."""
    folder = tmp_path_factory.mktemp("disk")
    (folder / "text").mkdir()
    for i in range(12):
        content = "".join(f"{i * j % 97} and {j * j % 89}, " for j in range(1600))
        (folder / "text" / f"{i}.txt").write_text(content)
    (folder / "here").mkdir()
    return folder


@pytest.fixture(autouse=True)
def inside(shared, monkeypatch):
    monkeypatch.chdir(shared / "here")


@pytest.fixture
def whole(typed, shared):
    """The table of the study on a good disk."""
    if not (shared / "here" / "whole").exists():
        assert typed("run", *STUDY, "runs=whole")[0] == 0
    return read_runs(shared / "here" / "whole")


@pytest.fixture
def small_disk(shared):
    """A function that mounts a file system of so many kB at `here/disk`, or changes the one there."""
    folder = shared / "here" / "disk"
    folder.mkdir(exist_ok=True)
    if (
        shutil.which("mount") is None
        or subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], capture_output=True).returncode
    ):
        pytest.skip("needs the rights to mount a file system")
    yield lambda options: subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)
    subprocess.run(["umount", folder], check=True)


def refused(message, reason):
    """The command ended with one line of error that says what to do."""
    code, out, err = message
    (line,) = [line for line in err.splitlines() if line.startswith("isoflop: ")]
    assert (code, out) == (2, "")
    assert err.splitlines()[-1] == line
    assert reason in line
    assert "type the same command again" in line
    assert "Traceback" not in err


def nothing_is_corrupt(root):
    """Whatever result is there is whole, and no half-written file lies about."""
    for path in root.glob("cells/*/run.parquet"):
        assert is_run_table(path)
    open_store(root).states()
    assert not list(root.rglob("*.tmp"))


@pytest.mark.slow
def test_a_file_that_may_not_grow_is_named_and_the_sweep_resumes(typed, shared, whole):
    """Refused again where a larger one may be written, in the store of the refusals before."""
    runs = shared / "here" / "limited"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (3_000, 20_000, 60_000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))  # the kernel then says "file too large"
        try:
            message = typed("run", *STUDY, f"runs={runs}")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        refused(message, "file too large")
        nothing_is_corrupt(runs)
    assert typed("run", *STUDY, f"runs={runs}")[0] == 0
    assert same_runs(read_runs(runs), whole)


@pytest.mark.process
def test_a_full_disk_is_one_line_and_the_sweep_resumes(typed, shared, whole, small_disk):
    small_disk("size=100k")
    refused(typed("run", *STUDY, "runs=disk"), "no space left on device")
    nothing_is_corrupt(shared / "here" / "disk")
    small_disk("size=50m")
    assert typed("run", *STUDY, "runs=disk")[0] == 0
    assert same_runs(read_runs(shared / "here" / "disk"), whole)


@pytest.mark.process
def test_a_read_only_disk_is_one_line_and_can_still_be_read(typed, shared, whole, small_disk):
    small_disk("size=50m")
    assert typed("run", *STUDY, "study.sizes=[d6]", "runs=disk")[0] == 0
    small_disk("ro")
    refused(typed("run", *STUDY, "runs=disk"), "read-only file system")
    assert "2 done" not in typed("status", "disk")[1]
    assert typed("status", "disk")[0] == 0
    small_disk("rw")
    assert typed("run", *STUDY, "runs=disk")[0] == 0
    assert same_runs(read_runs(shared / "here" / "disk"), whole)


@pytest.mark.slow
def test_a_folder_that_cannot_be_made_is_one_line(typed, shared):
    code, _, err = typed("run", *STUDY, "runs=/proc/runs")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "/proc/runs" in err
