"""A Hydra sweeper that trains what a study lacks. Hydra's side only: a launch is `experiments.sweep.launch`."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, cast

from hydra.core.config_loader import ConfigLoader
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

if TYPE_CHECKING:
    from isoflop.experiments.config import ExperimentConfig


@dataclass
class IsoflopSweeperConf:
    """The sweeper's place in Hydra's configuration."""

    _target_: str = "hydra_plugins.isoflop_sweeper.IsoflopSweeper"


ConfigStore.instance().store(group="hydra/sweeper", name="isoflop", node=IsoflopSweeperConf, provider="isoflop")


LOCAL = ("hydra_plugins.hydra_joblib_launcher.", "hydra._internal.")  # launchers whose jobs run on this machine
BASIC = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"


class IsoflopSweeper(Sweeper):
    """Launches one job per trunk through any launcher; ends in SystemExit with the exit code that the store gives."""

    # Set by `setup`, before anything reads them. Launchers differ in their attributes: joblib's is replaced.
    config: DictConfig
    hydra_context: HydraContext
    launcher: Any

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Count the workers and make the launcher that starts them."""
        from isoflop.experiments.sweep.pool import check_distributed, gpus, start_worker, worker_count
        from isoflop.experiments.sweep.train_job import job

        self.config, self.hydra_context = config, hydra_context
        here = config.hydra.launcher._target_.startswith(LOCAL)
        self.workers = worker_count(config.where) if here else None
        check_distributed(config.where, here=here)
        self.distributed = here and config.where.distributed != "none"
        with open_dict(config):
            if self.distributed:  # this process and its like do the work themselves
                self.workers, config.hydra.launcher = 1, {"_target_": BASIC}
            if "n_jobs" in config.hydra.launcher:  # joblib
                config.hydra.launcher.n_jobs = self.workers
                config.hydra.launcher.batch_size = "1"
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=HydraContext(cast(ConfigLoader, JobConfigs()), hydra_context.callbacks),
            task_function=job,
            config=config,
        )
        if "n_jobs" in config.hydra.launcher:
            arguments: tuple[Any, ...] = (os.getpid(), config.where.threads, config.where.device)
            if config.where.device == "cuda" and len(names := gpus("cuda")) > 1:
                self.places = TemporaryDirectory(prefix="isoflop-pool-")
                arguments = (*arguments, self.places.name, self.workers, names)
            self.launcher.joblib = {**self.launcher.joblib, "initializer": start_worker, "initargs": arguments}

    def sweep(self, arguments: list[str]) -> Any:
        """Run the studies that the arguments describe. Ends in SystemExit with the exit code."""
        from isoflop.experiments.compose.overrides import split_overrides
        from isoflop.experiments.followup.rounds import run_rounds

        sets = [(one, self._compose(one)) for one in split_overrides(arguments, self.hydra_context.config_loader)]
        if not self.distributed:
            raise SystemExit(run_rounds(sets, self._compose, self._run))
        from isoflop.experiments.parallel.follow import end, together

        end(together(sets[0][1].where, lambda: run_rounds(sets, self._compose, self._run)))

    def _run(self, specs: "Sequence[ExperimentConfig]") -> int:
        from isoflop.experiments.followup.decided import run_decided

        return run_decided(specs, self._launch)

    def _launch(self, specs: "Sequence[ExperimentConfig]", until: Mapping[str, int]) -> int:
        from isoflop.experiments.sweep.pool import begin_helpers

        begin_helpers(specs[0].where, self.workers)
        from isoflop.experiments.sweep.launch import make_launch, run_launch

        typed = [*self.config.hydra.overrides.task, *self.config.hydra.overrides.hydra]
        return run_launch(make_launch(specs, workers=self.workers, until=until), self._start, typed=typed)

    def _compose(self, overrides: list[str]) -> "ExperimentConfig":
        from isoflop.experiments.compose.compose import to_spec
        from isoflop.experiments.compose.overrides import check_overrides

        spec = to_spec(self.hydra_context.config_loader.load_sweep_config(self.config, overrides))
        check_overrides(overrides, spec)
        return spec

    def _start(self, job_overrides: list[list[str]], first: int) -> "Sequence[JobReturn]":
        from isoflop.experiments.training.process import begin

        if "n_jobs" in self.config.hydra.launcher:  # joblib, which starts all its workers at once
            most = min(cast(int, self.workers), max(2, len(job_overrides)))
            self.launcher.joblib = {**self.launcher.joblib, "n_jobs": most}
        elif self.workers is not None:  # this process is the worker
            begin(self.config.where.threads, self.config.where.device)
        return self.launcher.launch(job_overrides, initial_job_idx=first)


class JobConfigs:
    """Makes the configuration of a job of its overrides, in the place of Hydra's loader, which would compose it anew.

    A job needs `where` and `runs` alone: no file of `conf` is read in a worker.
    """

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        """The name and arguments are Hydra's: its launchers call this, most of them in the worker."""
        from isoflop.experiments.compose.compose import job_spec

        spec = job_spec(sweep_overrides)
        config = OmegaConf.masked_copy(master_config, ["hydra"])
        with read_write(config), open_dict(config):
            config.hydra.overrides.task = list(sweep_overrides)
            config.where, config.runs = OmegaConf.structured(spec.where), spec.runs
        return config
