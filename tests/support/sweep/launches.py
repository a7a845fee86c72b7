"""Sweeps of tiny studies in this process: no pool, a small corpus, cells of a fraction of a second."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from hydra.core.utils import JobReturn, JobStatus

from isoflop.experiments.compose.compose import job_spec
from isoflop.experiments.config import (
    DataSpec,
    ExperimentConfig,
    OptimSpec,
    ScheduleSpec,
    StudySpec,
    WhereSpec,
    WindowSpec,
)
from isoflop.experiments.store.store import create_store
from isoflop.experiments.sweep.launch import make_launch, run_launch
from isoflop.experiments.sweep.train_job import train_trunks
from isoflop.scaling.table.runs import read_runs

Launcher = Callable[[Sequence[Sequence[str]], int], list[JobReturn]]
PACK = WhereSpec(pack=3)
CURVE = ["loss", "train_loss", "loss_se", "accuracy", "learning_rate"]
EXACT = ["run_id", "step", "tokens", "phase", "final", "state", "trunk_id"]


def short_windows(text: Path, **more: float) -> DataSpec:
    """The files in `text`, in windows of 16 tokens: the sample of a cell, a window, would be most of its work."""
    sizes = {"eval_tokens": 512, "held_out_fraction": 0.3, "context_length": 16} | more
    return DataSpec(name="t", source="files", files=[f"{text}/*.txt"], **sizes)


def two_trunks(text: Path, folder: Path) -> ExperimentConfig:
    """Four cells in two trunks, on the files in `text`, into `folder`/runs."""
    return ExperimentConfig(
        data=short_windows(text),
        optim=OptimSpec(batch_size=32),
        schedule=ScheduleSpec(warmup_steps=3),
        study=StudySpec(name="tiny", sizes=["d6", "d8"], budgets=[2e8, 4e8], window=WindowSpec(min_steps=1)),
        where=WhereSpec(corpora=str(text.parent / "corpora"), checkpoint_seconds=0.0),
        runs=str(folder / "runs"),
    )


def three_alike(text: Path, folder: Path) -> ExperimentConfig:
    """Six cells in three trunks that differ in seed alone, so that they may be packed, on the files in `text`."""
    return ExperimentConfig(
        data=short_windows(text, max_epochs=99.0),
        optim=OptimSpec(learning_rate=0.002, batch_size=32),  # larger rates and more steps let rounding grow
        schedule=ScheduleSpec(warmup_steps=10),
        study=StudySpec(
            name="tiny", sizes=["d8"], budgets=[1.75e9, 2.1e9], window=WindowSpec(min_steps=1), seeds=[0, 1, 2]
        ),
        where=replace(PACK, corpora=str(text.parent / "corpora"), checkpoint_seconds=0.0),
        runs=str(folder / "runs"),
    )


def in_process(
    spec: ExperimentConfig,
    calls: list[list[list[str]]] | None = None,
    *,
    before: Callable[[str], object] = lambda trunk: None,
) -> Launcher:
    """A launcher that runs each job here, as Hydra's basic launcher does.

    `calls` gets, at every launch, the trunks of each of its jobs; `before` is called with each trunk of a job.
    """

    def launcher(job_overrides, first):
        jobs = [job_spec(arguments) for arguments in job_overrides]
        if calls is not None:
            calls.append([job.where.trunk.split(",") for job in jobs])
        return [one(job.where) for job in jobs]

    def one(where):
        outcome = JobReturn()
        try:
            for trunk in where.trunk.split(","):
                before(trunk)
            train_trunks(replace(where, device=spec.where.device), spec.runs)
            outcome.return_value, outcome.status = None, JobStatus.COMPLETED
        except Exception as error:
            outcome.return_value, outcome.status = error, JobStatus.FAILED
        return outcome

    return launcher


def run(spec: ExperimentConfig, calls: list[list[list[str]]] | None = None, **options) -> int:
    """Exit code of a sweep whose jobs run in this process; `calls` and `options` as of `in_process`."""
    return sweep_with(spec, in_process(spec, calls, **options))


def sweep_with(spec: ExperimentConfig, launcher: Launcher, workers: int | None = 1) -> int:
    """Exit code of a sweep whose jobs this launcher runs; `workers` None: on other machines."""
    return run_launch(make_launch([spec], workers=workers), launcher)


def unpacked(spec: ExperimentConfig, folder: Path) -> ExperimentConfig:
    """The same study into `folder`, every trunk for itself."""
    return replace(spec, runs=str(folder), where=replace(spec.where, pack=1))


def rows_alone(spec: ExperimentConfig, folder: Path) -> pd.DataFrame:
    """The rows of the same study with every trunk for itself, trained into `folder`."""
    lone = unpacked(spec, folder)
    assert run(lone) == 0
    return read_runs(lone.runs)


def states(spec: ExperimentConfig) -> pd.DataFrame:
    """What the store records of every cell, by run id."""
    return create_store(spec.runs).states().set_index("run_id")


def check_same(runs: pd.DataFrame, other: pd.DataFrame, rel: float = 1e-4) -> None:
    """Assert that two tables hold the same runs: what identifies them exactly, their curves up to rounding."""
    order = ["run_id", "step"]
    a, b = (t.sort_values(order).reset_index(drop=True) for t in (runs, other))
    pd.testing.assert_frame_equal(a[EXACT], b[EXACT])
    for name in CURVE:
        tolerance = {"rtol": rel, "atol": 3 / 512 if name == "accuracy" else 1e-6}  # a target on the edge may tip
        np.testing.assert_allclose(a[name], b[name], **tolerance, err_msg=name)
