"""The Hydra application: `isoflop run` from the command line and from Python."""

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import hydra
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig

from isoflop.experiments.compose import as_overrides, job_spec, others_hydra_kept, readable_errors, to_spec
from isoflop.experiments.sweep.launch import make_launch, run_launch
from isoflop.experiments.sweep.train_job import train_trunks


def run_study(overrides: Sequence[str]) -> int:
    """Train what a study lacks, as `isoflop run` with these arguments does; returns the exit code: 0 if all is done.

    What other code of this process has set up stays as it was: sys.argv, the environment, logging, and Hydra, which may
    be initialised with another configuration. Raises UsageError for arguments that do not fit the configuration.
    """
    with _restored(), readable_errors():
        os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions reach `readable_errors` instead of Hydra's own printer
        sys.argv = ["isoflop", *as_overrides(overrides)]
        try:
            main()
        except SystemExit as ended:
            return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0


def application(config: DictConfig) -> None:
    """One configuration without the sweeper (hydra.mode=RUN): every job one after the other in this process."""
    raise SystemExit(run_launch(make_launch([to_spec(config)], workers=1), _one_by_one))


main = hydra.main(config_path="pkg://isoflop.conf", config_name="config", version_base="1.3")(application)


def _one_by_one(jobs: Sequence[Sequence[str]], first: int) -> list[JobReturn]:
    outcomes = []
    for overrides in jobs:
        spec = job_spec(overrides)
        outcome = JobReturn(status=JobStatus.COMPLETED)
        try:
            train_trunks(spec.where, spec.runs)
        except Exception as error:
            outcome.status, outcome.return_value = JobStatus.FAILED, error
        outcomes.append(outcome)
    return outcomes


@contextmanager
def _restored() -> Iterator[None]:
    """Put back what a run with Hydra changes in this process."""
    argv, environment, folder = sys.argv, dict(os.environ), os.getcwd()
    root, level, handlers = logging.getLogger(), logging.getLogger().level, logging.getLogger().handlers[:]
    loggers = {name: logger.disabled for name, logger in root.manager.loggerDict.items() if hasattr(logger, "disabled")}
    try:
        with others_hydra_kept():
            yield
    finally:
        sys.argv = argv
        os.environ.clear()
        os.environ.update(environment)
        with suppress(OSError):  # the folder may be gone
            os.chdir(folder)
        root.setLevel(level)
        root.handlers[:] = handlers
        for name, disabled in loggers.items():
            logging.getLogger(name).disabled = disabled
