"""Cells as tasks of SLURM: the script and the waiting with a stand-in, the whole command on a real one-node SLURM."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hydra_plugins.isoflop_slurm_launcher import shares
from isoflop.experiments.store.store import open_store
from isoflop.experiments.sweep import slurm
from isoflop.experiments.sweep.slurm import Array, SlurmError, script, submit, wait
from isoflop.scaling.table.runs import read_runs, same_runs
from tests.support.root import ROOT
from tests.support.texts import write_texts

NODE = ROOT / "tests" / "support" / "sweep" / "slurm_node.sh"
PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "squeue")
DEADLINE = 600  # seconds without what is waited for: something hangs


def test_a_task_takes_every_nth_trunk_of_one_set_of_arguments():
    jobs = [["a=1", f"where.trunk='{trunk}'"] for trunk in "pqrst"] + [["a=2", "where.trunk='u'"]]
    assert shares(jobs, 2) == [
        ([0, 3], ["a=1", "where.trunk='p,s'"]),
        ([1, 4], ["a=1", "where.trunk='q,t'"]),
        ([2], ["a=1", "where.trunk='r'"]),
        ([5], ["a=2", "where.trunk='u'"]),
    ]


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("plain", "#SBATCH --output=/x/plain/%A_%a.log"),
        ("two words", '#SBATCH --output="/x/two words/%A_%a.log"'),
        ('a "b"', '#SBATCH --output="/x/a \\"b\\"/%A_%a.log"'),
        ("100%", "#SBATCH --output=/x/100%%/%A_%a.log"),
        ("it's", '#SBATCH --output="/x/it\'s/%A_%a.log"'),
        ("a#b", '#SBATCH --output="/x/a#b/%A_%a.log"'),
    ],
)
def test_a_folder_of_any_name_is_one_word_of_the_batch_script(name, line):
    lines = script([["true"]], folder=Path("/x") / name, options={"time": "1:00"}).splitlines()
    assert line in lines
    assert "#SBATCH --time=1:00" in lines
    with pytest.raises(SlurmError, match="cannot hold a line break"):
        script([["true"]], folder=Path("/x") / f"{name}\n#SBATCH --wrap=x", options={})


def run_script(folder, command, *, out_of_time=False, **options):
    """Run a script as SLURM would, with a `scontrol` that notes what it is asked; (exit code, output, asked).

    One out of time gets SLURM's signal once the command makes a file `begun`, and a file `end` once it has said so.
    """
    (folder / "scontrol").write_text(f"#!/bin/sh\necho $@ >> {folder}/requested\n")
    (folder / "scontrol").chmod(0o755)
    text = script([["false"], command], folder=folder, options={"time": "1:00", "qos": None}, **options)
    environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "SLURM_ARRAY_JOB_ID": "7"}
    environment |= {"SLURM_ARRAY_TASK_ID": "1"}
    process = subprocess.Popen(["bash", "-c", text], env=environment, stdout=-1, text=True)
    said = []
    if out_of_time:
        while not (folder / "begun").exists():
            time.sleep(0.01)
        process.send_signal(signal.SIGUSR1)
        for line in process.stdout:
            said.append(line)
            if "out of time" in line:
                break
        (folder / "end").touch()
    out, _ = process.communicate()
    requested = folder / "requested"
    return process.returncode, "".join(said) + out, requested.read_text() if requested.exists() else ""


@pytest.mark.process
def test_a_task_runs_its_command_with_every_quote_in_place_and_keeps_its_exit_code(tmp_path):
    code, out, _ = run_script(tmp_path, ["sh", "-c", 'echo "$0"; exit 3', "data.files=['a b','$c']"])
    assert (code, "data.files=['a b','$c']" in out) == (3, True)
    (tmp_path / "7_1.log").write_text("one\nisoflop: no such study\n")
    message = str(Array("7", 2, tmp_path).failure(1))
    assert "task 7_1 ended with exit code 3" in message
    assert "isoflop: no such study" in message


def until_the_end(folder):
    """A command that ends some time after the file, or by itself."""
    waits = 'touch "$0/begun"; for i in $(seq 60); do sleep 0.3; [ -e "$0/end" ] && break; done; sleep 0.3'
    return ["sh", "-c", waits, str(folder)]


@pytest.mark.process
def test_a_task_out_of_time_asks_to_be_queued_again_and_does_not_die_of_the_signal(tmp_path):
    code, _, requested = run_script(tmp_path, until_the_end(tmp_path), out_of_time=True)
    assert (code, requested) == (0, "requeue 7_1\n")


@pytest.mark.process
def test_a_task_that_was_restarted_too_often_is_not_queued_again(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_RESTART_COUNT", "4")
    _, out, requested = run_script(tmp_path, until_the_end(tmp_path), out_of_time=True, max_restarts=4)
    assert (requested, "restarted too often" in out) == ("", True)


def test_options_that_are_not_set_are_not_in_the_script(tmp_path):
    text = script([["x"]], folder=tmp_path, options={"qos": None, "cpus_per_task": 2}, more=["--exclusive"])
    assert "#SBATCH --cpus-per-task=2\n" in text
    assert "#SBATCH --exclusive\n" in text
    assert "qos" not in text


def test_a_task_that_left_no_exit_code_was_killed(tmp_path):
    assert "killed or cancelled" in str(Array("7", 1, tmp_path).failure(0))
    (tmp_path / "7_0.exit").write_text("0\n")
    assert Array("7", 1, tmp_path).failure(0) is None


def test_a_silent_controller_is_asked_again(tmp_path, monkeypatch, capsys):
    answers = iter([{"7"}, None, None, {"7", "8"}, {"8"}])
    monkeypatch.setattr(slurm, "queued", lambda: next(answers))
    (tmp_path / "7_0.exit").write_text("0\n")
    assert wait(Array("7", 1, tmp_path), seconds=0, sleep=lambda s: None) == [None]
    assert capsys.readouterr().err.count("does not answer") == 1


def test_without_slurm_the_reason_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SlurmError, match="no sbatch here"):
        submit("", 1, tmp_path)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A running SLURM of one node."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing or os.getuid() != 0:
        pytest.skip(
            f"needs SLURM and its rights: root, and {', '.join(PROGRAMS)} of slurmctld slurmd slurm-client munge"
        )
    folder = tmp_path_factory.mktemp("slurm")
    subprocess.run([NODE, "start", folder], check=True)
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    yield folder
    subprocess.run([NODE, "stop", folder], check=True)
    del os.environ["SLURM_CONF"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cells")
    write_texts(folder / "text", files=20, words=2000)
    return folder


def start(folder: Path, runs: str, *more: str) -> subprocess.Popen:
    arguments = (
        "study.name=cells", "study.sizes=[d6,d8,d12]", "study.budgets=[5e9,1e11]", "study.window.min_steps=1",
        "schedule.warmup_steps=5", "data=text", f"data.files=[{folder}/text/*.txt]", "data.eval_tokens=2048",
        "data.max_epochs=1e4", "where.checkpoint_seconds=0.2", f"runs={runs}", *more,
    )  # fmt: skip
    command = [sys.executable, "-m", "isoflop", "run", *arguments]
    return subprocess.Popen(
        command, cwd=folder, stdout=-1, stderr=subprocess.STDOUT, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # as in a terminal; background jobs ignore it
    )  # fmt: skip


def finish(process: subprocess.Popen) -> str:
    out, _ = process.communicate()
    assert process.returncode == 0, out
    return out


@pytest.fixture(scope="module")
def undisturbed(folder):
    """The table of the study without SLURM."""
    finish(start(folder, "undisturbed"))
    return read_runs(folder / "undisturbed")


SLURM = ("hydra/launcher=slurm", "hydra.launcher.poll_seconds=0.5")


def queue() -> dict[str, str]:
    """State of each of our tasks that waits or runs."""
    done = subprocess.run(["squeue", "--noheader", "--array", "--format=%i %T"], capture_output=True, text=True)
    return dict(line.split() for line in done.stdout.splitlines())


def until(found, what: str):
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        if value := found():
            return value
        time.sleep(0.1)
    pytest.fail(f"{what}: waited in vain")


def busy(root: Path) -> list:
    """Cells that have taken some steps and are not finished."""
    if not (root / "STORE.json").exists():
        return []
    states = open_store(root).states()
    return list(states[(states["state"] == "running") & (states["step"] > 0)].itertuples())


def logs(root: Path) -> str:
    return "".join(path.read_text() for path in (root / ".hydra" / "slurm").glob("*.log"))


@pytest.mark.slurm
def test_a_preempted_task_and_a_killed_worker_leave_the_same_table(cluster, folder, undisturbed):
    """The urgent job takes the whole node: what runs goes back to the queue. Afterwards a worker is killed, too."""
    process = start(folder, "preempted", *SLURM)
    until(lambda: busy(folder / "preempted"), "a cell at work")
    subprocess.run(["sbatch", "--partition=urgent", "--exclusive", "--output=/dev/null", "--wrap=sleep 1"], check=True)
    until(lambda: "restarts: 1" in logs(folder / "preempted"), "a task that starts again")
    os.kill(until(lambda: busy(folder / "preempted"), "a cell at work")[0].pid, signal.SIGKILL)
    assert "6 cells: 6 done" in finish(process)
    assert same_runs(read_runs(folder / "preempted"), undisturbed)
    assert open_store(folder / "preempted").states()["attempts"].max() >= 2


@pytest.mark.slurm
def test_a_task_told_that_its_time_is_up_is_queued_again_and_goes_on(cluster, folder, undisturbed):
    """One task with two workers for all three trunks, one of which a node that is gone had claimed."""
    store = folder / "late"
    trunk = undisturbed["trunk_id"].iloc[0]
    subprocess.run([sys.executable, "-c", _FOREIGN_CLAIM, store / "trunks" / trunk], check=True)
    process = start(folder, "late", *SLURM, "hydra.launcher.trunks_per_task=3", "hydra.launcher.cpus_per_task=2")
    until(lambda: busy(store), "a cell at work")
    subprocess.run(["scancel", "--batch", "--signal=USR1", next(iter(queue()))], check=True)
    assert "6 cells: 6 done" in finish(process)
    assert "back to the queue" in logs(store)
    assert "2 workers x 1 threads" in logs(store)
    assert same_runs(read_runs(store), undisturbed)


_FOREIGN_CLAIM = """
import json, sys, time
from pathlib import Path
from isoflop.experiments import files as claims
from isoflop.experiments.store.store import create_store
folder = Path(sys.argv[1])
create_store(folder.parents[1])
folder.mkdir(parents=True)
claim = {"host": "gone", "pid": 1, "birth": "1", "heartbeat": time.time() - claims.STALE_SECONDS + 15}
(folder / claims.CLAIM_FILE).write_text(json.dumps(claim))
"""


@pytest.mark.slurm
def test_an_interrupt_cancels_the_tasks(cluster, folder):
    process = start(folder, "interrupted", *SLURM)
    until(queue, "tasks")
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate()
    assert (process.returncode, "the same command goes on" in out) == (130, True)
    until(lambda: not queue(), "an empty queue")


@pytest.mark.slurm
def test_what_slurm_refuses_and_what_fails_at_once_are_told_in_one_line(cluster, folder):
    for option, message in (("partition=nowhere", "invalid partition"), ("setup=[exit 9]", "was killed or cancelled")):
        process = start(folder, "refused", *SLURM, f"hydra.launcher.{option}")
        out, _ = process.communicate()
        last = out.strip().splitlines()[-1]
        assert (process.returncode, last.startswith("isoflop: "), message in last) == (1, True, True), out
