"""A Hydra sweeper that trains what a study lacks. Hydra's side only: what a launch does is `sweep.launch`."""

import os
from dataclasses import dataclass
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict


@dataclass
class IsoflopSweeperConf:
    _target_: str = "hydra_plugins.isoflop_sweeper.IsoflopSweeper"


ConfigStore.instance().store(group="hydra/sweeper", name="isoflop", node=IsoflopSweeperConf, provider="isoflop")


LOCAL = ("hydra_plugins.hydra_joblib_launcher.", "hydra._internal.")  # launchers whose jobs run on this machine
BASIC = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"


class IsoflopSweeper(Sweeper):
    """Launches one job per trunk through any launcher; ends in SystemExit with the exit code that the store gives."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from isoflop.experiments.sweep.pool import begin_worker, check_distributed, end_with, gpus, worker_count

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
            hydra_context=hydra_context, task_function=task_function, config=config
        )
        if "n_jobs" in config.hydra.launcher:
            begin, arguments = end_with, (os.getpid(),)
            if config.where.device == "cuda" and len(names := gpus("cuda")) > 1:
                self.places = TemporaryDirectory(prefix="isoflop-pool-")
                begin, arguments = begin_worker, (os.getpid(), self.places.name, self.workers, names)
            self.launcher.joblib = {**self.launcher.joblib, "initializer": begin, "initargs": arguments}

    def sweep(self, arguments: list[str]) -> Any:
        from isoflop.experiments.compose import split_overrides
        from isoflop.experiments.followup.rounds import run_rounds
        from isoflop.experiments.sweep.launch import run_sweep

        sets = [(one, self._compose(one)) for one in split_overrides(arguments, self.hydra_context.config_loader)]
        typed = [*self.config.hydra.overrides.task, *self.config.hydra.overrides.hydra]
        run = partial(run_sweep, launch=self._launch, workers=self.workers, typed=typed)
        if not self.distributed:
            raise SystemExit(run_rounds(sets, self._compose, run))
        from isoflop.experiments.parallel.follow import end, together

        end(together(sets[0][1].where, lambda: run_rounds(sets, self._compose, run)))

    def _compose(self, overrides: list[str]) -> Any:
        from isoflop.experiments.compose import to_spec

        return to_spec(self.hydra_context.config_loader.load_sweep_config(self.config, overrides))

    def _launch(self, job_overrides: list[list[str]], first: int) -> Any:
        return self.launcher.launch(job_overrides, initial_job_idx=first)
