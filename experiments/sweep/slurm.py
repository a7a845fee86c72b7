"""Jobs of a cluster that SLURM schedules: one array, each task of it `isoflop run` again on its share of the trunks.

A task is a command, not a pickled function, so a task that SLURM requeues (a node lost, another job preferred, out of
time) does what repeating a command does: it finds in the store what is finished and goes on from the checkpoints.
No accounting database is needed: the queue says what still runs, a file says how each task ended.
"""

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

LAST_LINES = 3  # of a task's log, quoted in the reason of its failure


class SlurmError(ValueError):
    """SLURM refused a job, or a task of one failed."""

    exit_code = 1


@dataclass(frozen=True)
class Array:
    """A submitted array: its number, its tasks, and the folder of their logs and exit codes."""

    job: str
    tasks: int
    folder: Path

    def log(self, task: int) -> Path:
        """The file of a task's output."""
        return self.folder / f"{self.job}_{task}.log"

    def failure(self, task: int) -> SlurmError | None:
        """Why a task that has left the queue did not end well, None if it did."""
        code = self.folder / f"{self.job}_{task}.exit"
        ended = (
            f"ended with exit code {code.read_text(encoding='utf-8').strip()}"
            if code.exists()
            else "was killed or cancelled"
        )
        if ended.endswith(" 0"):
            return None
        log = self.log(task)
        last = log.read_text(errors="replace").strip().splitlines()[-LAST_LINES:] if log.exists() else []
        return SlurmError(f"SLURM task {self.job}_{task} {ended}; {log} ends: {' | '.join(last) or 'nothing'}")


def script(
    commands: Sequence[Sequence[str]],
    *,
    folder: Path,
    options: Mapping[str, object],
    more: Sequence[str] = (),
    setup: Sequence[str] = (),
    parallel: int = 100,
    warn_seconds: int = 30,
    max_restarts: int = 50,
) -> str:
    """The batch script of an array that runs each of `commands` once.

    `options` are options of sbatch by name, those that are None left out; `more` are further ones as typed. `setup` are
    lines of shell that come first on the node. A task that is warned, `warn_seconds` before its limit, that its time is
    up goes back to the queue, as often as `max_restarts`: a task that never gets anywhere must end.
    """
    header = {
        "array": f"0-{len(commands) - 1}%{parallel}",
        "output": f"{folder}".replace("%", "%%") + "/%A_%a.log",
        "open-mode": "append",
        "signal": f"B:USR1@{warn_seconds}",
        **{name.replace("_", "-"): value for name, value in options.items() if value is not None},
    }
    lines = ["#!/usr/bin/env bash", *(f"#SBATCH --{name}={_quoted(str(value))}" for name, value in header.items())]
    lines += ["#SBATCH --requeue", *(f"#SBATCH {option}" for option in more), *setup]
    lines += ["case $SLURM_ARRAY_TASK_ID in"]
    lines += [f"{task}) set -- {shlex.join(command)} ;;" for task, command in enumerate(commands)]
    lines += ["esac", _RUN.format(folder=shlex.quote(str(folder)), max_restarts=max_restarts)]
    return "\n".join(lines)


def _quoted(value: str) -> str:
    """A value of an #SBATCH line, in quotes where a blank would end it. Raises SlurmError for a line break."""
    if "\n" in value:
        raise SlurmError(f"{value!r}: a line of a batch script cannot hold a line break; name another folder")
    return value if re.fullmatch(r"[^\s\"'\\#]*", value) else '"' + re.sub(r'(["\\])', r"\\\1", value) + '"'


_RUN = """
task="${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID" restarts="${{SLURM_RESTART_COUNT:-0}}"
rm -f {folder}/"$task.exit"
echo "== $(date) on $(hostname), restarts: $restarts"
out_of_time() {{
  [ "$restarts" -ge {max_restarts} ] && echo "== out of time, restarted too often" && return
  echo "== out of time: back to the queue"
  scontrol requeue "$task"
}}
trap out_of_time USR1
"$@" &
while wait $!; code=$?; [ $code -gt 128 ] && kill -0 $! 2>/dev/null; do :; done  # a signal ends wait, not work
echo $code > {folder}/"$task.exit"
exit $code
"""


def submit(text: str, tasks: int, folder: Path) -> Array:
    """Give a batch script to SLURM. Raises SlurmError with its reason if it is refused, or if there is no SLURM."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        done = subprocess.run(["sbatch", "--parsable"], input=text, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise SlurmError("there is no sbatch here; type the command on a machine that submits to SLURM") from error
    if done.returncode:
        raise SlurmError(f"sbatch refused the jobs: {' '.join(done.stderr.split())}")
    return Array(done.stdout.strip().partition(";")[0], tasks, folder)


def wait(array: Array, *, seconds: float, sleep: Callable[[float], None] = time.sleep) -> list[SlurmError | None]:
    """Wait until no task is in the queue; the failure of each task. An interrupt cancels what is left.

    A controller that does not answer is queried again, for as long as it takes: the tasks go on without it.
    """
    silent = False
    try:
        while (jobs := queued()) is None or array.job in jobs:
            if jobs is None and not silent:
                print("warning: SLURM's controller does not answer; the tasks go on, so does asking", file=sys.stderr)
            silent = jobs is None
            sleep(seconds)
    except KeyboardInterrupt:
        subprocess.run(["scancel", array.job], check=False)
        raise
    return [array.failure(task) for task in range(array.tasks)]


def queued() -> set[str] | None:
    """Numbers of this user's jobs that wait or run (of an array, the array's), None if the controller is silent."""
    command = ["squeue", "--noheader", f"--user={os.geteuid()}", "--format=%F"]
    done = subprocess.run(command, capture_output=True, text=True)
    return None if done.returncode else set(done.stdout.split())
