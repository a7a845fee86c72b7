"""The Hydra application: `isoflop run` from the command line and from Python."""

import logging
import multiprocessing
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import hydra
import pandas as pd
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig

from isoflop.arguments import POSITIVE, check
from isoflop.experiments.compose.compose import as_overrides, compose_all, job_spec, to_spec
from isoflop.experiments.compose.hydra_state import others_hydra_kept
from isoflop.experiments.compose.messages import UsageError, readable_errors
from isoflop.experiments.store.store import SETTLED, STOPPED, open_store
from isoflop.experiments.sweep.launch import load, make_launch, run_launch
from isoflop.experiments.sweep.plan import plan as plan_launch
from isoflop.experiments.sweep.plan import speed_for
from isoflop.experiments.sweep.plan import status as store_status
from isoflop.experiments.sweep.train_job import train_trunks
from isoflop.experiments.training.process import torch_as_new
from isoflop.scaling.table.read import as_table
from isoflop.scaling.table.runs import Listed, of_study, read_runs
from isoflop.scaling.table.studies.listing import read_study


class RunError(RuntimeError):
    """Cells of a study ended without a result; what was finished is in the store."""

    exit_code = 1


def run(study: str = "", overrides: Sequence[str] = ()) -> pd.DataFrame:
    """Train what a study lacks, as `isoflop run experiment=STUDY ...` does, and return the table of its runs,
    those of its rounds among them.

    `study` is a file of conf/experiment, or of the folder given by --config-dir among the `overrides`; without one the
    overrides describe the cells. Interrupt it and call it again: it goes on from there. Works in a notebook, any number
    of times, also beside code that has initialised Hydra. Raises UsageError for a configuration that does not fit, and
    RunError naming the cells that have no result.

    >>> import isoflop
    >>> table = isoflop.run("smoke", overrides=["study.sizes=[d8]", "study.budgets=[1e9]", "where.workers=1"])
    1 cells: 1 done ...
    >>> bool(table["loss"].iloc[-1] < 6)
    True
    """
    arguments = [*([f"experiment={study}"] if study else []), *overrides]
    code = run_study(arguments)
    specs = compose_all(arguments)
    store = open_store(specs[0].runs)
    cells: dict[str, Listed] = {cell.run_id: cell for spec in specs for cell in load(spec)[0].cells}
    for spec in specs:
        if spec.study.rounds.count and spec.study.name in store.studies():
            cells = {**read_study(store.root, spec.study.name).runs, **cells}
    states = store.states(cells).set_index("run_id")["state"]
    stops = any(spec.study.stop for spec in specs)
    missing = states[~states.isin([*SETTLED, *([STOPPED] if stops else [])])]
    if code or len(missing):
        listed = ", ".join(f"{run_id} {state}" for run_id, state in missing.head(3).items())
        raise RunError(
            f"{len(missing)} of {len(cells)} cells have no result ({listed or f'exit code {code}'}); "
            f"isoflop.status({str(store.root)!r}) says why, and the same call goes on"
        )
    return as_table(of_study(read_runs(store.root), cells), store.root, {}, None, [], is_study=True)


def plan(
    study: str = "",
    overrides: Sequence[str] = (),
    *,
    calibrate: bool | None = None,
    card: str | None = None,
    minutes: float | None = None,
    dollars: float | None = None,
) -> dict[str, Any]:
    """Cells, FLOPs, predicted minutes and price of a study, as `isoflop plan --json` prints them. Trains nothing.

    `calibrate` times the study's shapes on this machine first: always, never, or (None) those that were never
    timed, which takes about 10 s. `card` names a GPU that is not here, whose rates are shipped. `minutes` and
    `dollars` choose the runs that they pay for (key affordable). Raises UsageError for a configuration that does
    not fit, and above where.max_dollars, ValueError for numbers that mean nothing.

    >>> import isoflop
    >>> planned = isoflop.plan("smoke", calibrate=False)
    >>> len(planned["studies"][0]["cells"])
    8
    """
    check(POSITIVE, minutes=minutes, dollars=dollars)
    specs = compose_all([*([f"experiment={study}"] if study else []), *overrides])
    launch = make_launch(specs, workers=None, speed=speed_for(specs, calibrate, card))
    return plan_launch(launch, minutes=minutes, dollars=dollars)


def status(runs: str | Path = "runs") -> dict[str, Any]:
    """States and progress of the studies in a runs folder, as `isoflop status --json` prints them.

    Raises StoreError for a folder that `isoflop run` has not written.

    >>> import isoflop
    >>> isoflop.status("elsewhere")
    Traceback (most recent call last):
    isoflop.experiments.store.store.StoreError: ...elsewhere: no such folder; ...
    """
    return store_status(open_store(runs))


def run_study(overrides: Sequence[str]) -> int:
    """Train what a study lacks, as `isoflop run` with these arguments does; returns the exit code: 0 if all is done.

    What other code of this process has set up does not reach the runs, and stays as it was: sys.argv, the environment,
    logging, torch, how processes are started, and Hydra, which may be initialised with another configuration. Threads
    take turns. Raises UsageError for arguments that do not fit the configuration.
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
    spec = to_spec(config)
    if spec.study.stop:
        raise UsageError(f"study.stop={spec.study.stop} trains in several launches: leave out hydra.mode=RUN")
    raise SystemExit(run_launch(make_launch([spec], workers=1), _one_by_one))


main = hydra.main(config_path="pkg://isoflop.conf", config_name="config", version_base="1.3")(application)


def _one_by_one(jobs: Sequence[Sequence[str]], first: int) -> list[JobReturn]:
    from isoflop.experiments.training.process import begin

    specs, outcomes = [job_spec(overrides) for overrides in jobs], []
    begin(specs[0].where.threads, specs[0].where.device)
    for spec in specs:
        outcome = JobReturn(status=JobStatus.COMPLETED)
        try:
            train_trunks(spec.where, spec.runs)
        except Exception as error:
            outcome.status, outcome.return_value = JobStatus.FAILED, error
        outcomes.append(outcome)
    return outcomes


@contextmanager
def _restored() -> Iterator[None]:
    """Put back what a run with Hydra changes in this process; of several threads one after the other."""
    with others_hydra_kept(), torch_as_new():
        argv, environment, folder = sys.argv, dict(os.environ), os.getcwd()
        root, level, handlers = logging.getLogger(), logging.getLogger().level, logging.getLogger().handlers[:]
        loggers = {n: logger.disabled for n, logger in root.manager.loggerDict.items() if hasattr(logger, "disabled")}
        start_method = multiprocessing.get_start_method(allow_none=True)
        try:
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
            multiprocessing.set_start_method(start_method, force=True)  # joblib settles it
