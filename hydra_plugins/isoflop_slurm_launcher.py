"""A Hydra launcher that gives trunks to SLURM. The script and the waiting are `experiments.sweep.slurm`."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


@dataclass
class SlurmLauncherConf:
    """The launcher's options, as `hydra.launcher.NAME=` sets them."""

    _target_: str = "hydra_plugins.isoflop_slurm_launcher.SlurmLauncher"
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    time: str | None = None  # a limit per task, [days-]hours:minutes:seconds; at its end the task is queued again
    nodes: int | None = None
    cpus_per_task: int = 1  # as many workers share the trunks of a task, unless where.workers says otherwise
    gres: str | None = None  # gpu:1
    mem: str | None = None  # 8G
    job_name: str = "isoflop"
    more: list[str] = field(default_factory=list)  # further options of sbatch, in quotes: '--exclude=node7'
    setup: list[str] = field(default_factory=list)  # lines of shell that come first on the node: module load cuda
    command: list[str] = field(default_factory=list)  # what runs isoflop there; [] is this Python, -m isoflop
    inner: str = "joblib"  # the launcher inside a task
    trunks_per_task: int = 1
    parallel: int = 100  # tasks of the array at a time
    warn_seconds: int = 30  # before the limit
    max_restarts: int = 50  # of a task, for want of time
    poll_seconds: float = 5.0


ConfigStore.instance().store(group="hydra/launcher", name="slurm", node=SlurmLauncherConf, provider="isoflop")
OPTIONS = ("partition", "account", "qos", "constraint", "time", "nodes", "cpus_per_task", "gres", "mem", "job_name")


class SlurmLauncher(Launcher):
    """Launches one array of tasks and waits for it; a job of a task that failed is returned as failed."""

    remote = True

    def __init__(self, **params: Any) -> None:
        self.params = OmegaConf.create(params)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep the configuration, whose `runs` names the folder of scripts and logs."""
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Submit one array for these jobs and wait for it; a return per job, failed where its task failed."""
        from isoflop.experiments.sweep.slurm import script, submit, wait

        p, folder = self.params, Path(self.config.runs).resolve() / ".hydra" / "slurm"
        tasks = shares(job_overrides, p.trunks_per_task)
        command = list(p.command) or [sys.executable, "-m", "isoflop"]
        text = script(
            [[*command, "run", *arguments, f"hydra/launcher={p.inner}"] for _, arguments in tasks],
            folder=folder, options={name: p[name] for name in OPTIONS}, more=p.more, setup=p.setup,
            parallel=p.parallel, warn_seconds=p.warn_seconds, max_restarts=p.max_restarts,
        )  # fmt: skip
        failures = wait(submit(text, len(tasks), folder), seconds=p.poll_seconds)
        returns = {job: failure for (jobs, _), failure in zip(tasks, failures, strict=True) for job in jobs}
        return [_outcome(returns[job]) for job in range(len(job_overrides))]


def shares(job_overrides: Sequence[Sequence[str]], trunks_per_task: int) -> list[tuple[list[int], list[str]]]:
    """For each task: the numbers of its jobs, and the arguments that launch their trunks.

    Jobs differ in their last argument alone, the trunk, where they come from one set of arguments. They come longest
    first and are dealt out in turn, so that no task gets only long ones.
    """
    sets: dict[tuple[str, ...], list[int]] = {}
    for job, (*common, _) in enumerate(job_overrides):
        sets.setdefault(tuple(common), []).append(job)
    tasks = []
    for shared, jobs in sets.items():
        count = -(-len(jobs) // trunks_per_task)
        for first in range(count):
            trunks = [job_overrides[job][-1].split("'")[1] for job in jobs[first::count]]
            tasks.append((jobs[first::count], [*shared, f"where.trunk='{','.join(trunks)}'"]))
    return tasks


def _outcome(failure: Exception | None) -> JobReturn:
    outcome = JobReturn()
    outcome.status = JobStatus.FAILED if failure else JobStatus.COMPLETED
    outcome.return_value = failure
    return outcome
