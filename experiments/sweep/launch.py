"""A launch: what one command trains, made once, then printed by `isoflop plan` or executed by `isoflop run`."""

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from isoflop.experiments.compose.compose import job_overrides
from isoflop.experiments.compose.messages import UsageError
from isoflop.experiments.config import ExperimentConfig, WhereSpec
from isoflop.experiments.cost.cost import Speed, cores, trunk_seconds, trunk_steps, trunks_seconds
from isoflop.experiments.cost.memory import available_bytes, check_memory
from isoflop.experiments.cost.price import Price, check_cap, price, price_of
from isoflop.experiments.cost.shape_key import place
from isoflop.experiments.cost.speed_file import known_speed
from isoflop.experiments.data.corpus import Corpora
from isoflop.experiments.files import check_name, is_disk_error
from isoflop.experiments.store.earlier import changes
from isoflop.experiments.store.rounds import flops_ahead
from isoflop.experiments.store.store import (
    SETTLED,
    STOPPED,
    Store,
    StoreError,
    create_store,
    is_over,
    is_store,
    open_store,
)
from isoflop.experiments.study.cell import Cell
from isoflop.experiments.study.check import checked_study
from isoflop.experiments.study.engine import engine_name
from isoflop.experiments.study.same_runs import same_runs, same_runs_warning, told_apart
from isoflop.experiments.study.study import Study
from isoflop.experiments.sweep.pool import (
    at_once,
    check_device,
    devices_of,
    gpus,
    per_device,
    pin_threads,
    time_slices,
    worker_count,
)
from isoflop.experiments.sweep.progress import closing_table, live_line
from isoflop.experiments.sweep.queue import Job, Start, find_jobs, finish
from isoflop.experiments.sweep.train_job import listing, read_works, wanted, work_key, work_of, write_work
from isoflop.experiments.trackers.sinks import check as check_trackers
from isoflop.experiments.training.initial import begin_from
from isoflop.models.step import native
from isoflop.printable import printable
from isoflop.scaling.table.runs import keep_together

NAMED = 3  # cells outside the window that a launch names


class Part(NamedTuple):
    """One study of a launch."""

    study: Study
    corpora: Corpora
    key: str  # of the files that state the work of its jobs
    where: WhereSpec
    until: Mapping[str, int] = MappingProxyType({})  # by run id, how many steps each takes; none: all go to their ends

    @property
    def due(self) -> Study:
        """The study with the cells that the launch is about."""
        cells = tuple(cell for cell in self.study.cells if self.until.get(cell.run_id))
        return replace(self.study, cells=cells) if self.until else self.study


@dataclass(frozen=True)
class Launch:
    """The studies of one command, the cells that it is about, and the jobs for those without a result."""

    parts: tuple[Part, ...]
    cells: tuple[Cell, ...]  # each once
    states: Mapping[str, str]  # of every cell of the studies by run id, when the launch was made
    jobs: tuple[Job, ...]
    speed: Speed  # of this machine with every core at work
    where: WhereSpec
    runs: str
    workers: int | None  # None: the jobs run on other machines, or this is a plan
    flops_ahead: float = 0.0  # of rounds that may follow
    began: float = field(default_factory=time.monotonic)

    @property
    def studies(self) -> tuple[Study, ...]:
        """The studies, in the order of their sets of arguments."""
        return tuple(part.study for part in self.parts)

    @property
    def unfinished(self) -> list[Cell]:
        """The cells that are to be trained."""
        return [cell for cell in self.cells if self.states[cell.run_id] not in (*SETTLED, STOPPED)]

    @property
    def at_once(self) -> int | None:
        """Workers that do not slow each other down."""
        return self.workers and at_once(self.where, self.workers)

    @property
    def worker_speed(self) -> Speed:
        """The speed of each worker next to the others."""
        return self.speed.with_company(self.workers or cores(), cores())

    def seconds(self, workers: int) -> float:
        """Predicted seconds of so many workers, a core or a GPU each, from the first import to the last cell."""
        return trunks_seconds([job.cells for job in self.alone], workers, self.speed)

    @property
    def alone(self) -> list[Job]:
        """The jobs with every pack taken apart."""
        return [one for job in self.jobs for one in (job.parts or (job,))]


def load(spec: ExperimentConfig) -> tuple[Study, Corpora]:
    """The cells of a configuration, and the corpora they read (prepared if this is the first time).

    A task of a launch (`where.cells`) reads the cells that the launch resolved; anything else expands its study.
    """
    corpora = Corpora(Path(spec.where.corpora).resolve())
    if spec.where.cells is not None:
        works = read_works(open_store(spec.runs), spec.where)
        cells = tuple(cell for work in works for cell in work.cells)
        return Study(works[0].study, cells, hold_out=works[0].hold_out), corpora
    return begin_from(checked_study(spec, corpora), spec.init_from, runs=Path(spec.runs), corpora=corpora), corpora


def make_launch(
    specs: Sequence[ExperimentConfig],
    *,
    workers: int | None,
    speed: Speed | None = None,
    until: Mapping[str, int] | None = None,
) -> Launch:
    """The launch of these configurations, one for each set of arguments; nothing is written but corpora.

    Of several sets the first says how to run. `speed` is by default what was measured on this machine. With `until` the
    launch is about the runs that it names alone, and takes each so many steps and no more. Raises what
    `load` does, and UsageError for a device that is not here or a run that none of the studies has.
    """
    where, runs = _one_place(specs)
    check_trackers(where.trackers)
    if workers is not None:
        check_device(where.device)
    speed = speed or known_speed(place(where), where.threads)
    until = until or {}
    parts = tuple(_part(spec, until) for spec in specs)
    states = _states(runs, [cell.run_id for part in parts for cell in part.study.cells], until)
    each = speed.with_company(workers or cores(), cores())
    jobs = [
        job
        for part in parts
        for job in find_jobs(
            [*job_overrides(part.where, runs), f"where.cells='{part.key}'"], part.due, states, each, where, workers
        )
    ]
    cells = _wanted_cells([part.due for part in parts], where)
    ahead = sum(flops_ahead(spec) for spec in specs)
    return Launch(parts, cells, states, tuple(jobs), speed, where, runs, workers, ahead)


def _part(spec: ExperimentConfig, until: Mapping[str, int]) -> Part:
    study, corpora = load(spec)
    return Part(study, corpora, spec.where.cells or work_key(study, spec.where, until), spec.where, until)


def _one_place(specs: Sequence[ExperimentConfig]) -> tuple[WhereSpec, str]:
    """How and where to run. Raises UsageError where the sets of arguments differ in that: a launch has one store."""
    first = specs[0]
    for other in specs[1:]:
        if other.runs != first.runs:
            raise UsageError(
                f"runs={first.runs},{other.runs}: a launch has one runs folder; a comma in a name is quoted"
            )
        for key, value in asdict(first.where).items():
            if key not in ("precision", "cells") and getattr(other.where, key) != value:
                raise UsageError(f"where.{key}={value},{getattr(other.where, key)}: a launch runs in one way; take one")
    return first.where, first.runs


def _wanted_cells(studies: Sequence[Study], where: WhereSpec) -> tuple[Cell, ...]:
    """The cells that a launch is about. Raises UsageError for a run that none of its studies has."""
    cells = {cell.run_id: cell for study in studies for cell in study.cells}
    for run_id in where.only or ():
        if run_id not in cells:
            raise UsageError(
                f"run {run_id} is not among the {len(cells)} cells that these arguments give now: the study or its "
                "corpus has changed since it was launched; launch it anew with isoflop run"
            )
    trunks = {cell.trunk_id for cell in cells.values()}
    for trunk_id in where.trunk.split(",") if where.trunk is not None else ():
        if trunk_id not in trunks:
            raise UsageError(f"where.trunk={trunk_id}: it is not among the {len(trunks)} trunks of these arguments")
    return tuple(cell for cell in cells.values() if wanted(cell, where))


def _states(runs: str, run_ids: Sequence[str], until: Mapping[str, int]) -> dict[str, str]:
    """State of each run in the store at `runs`; every one is planned where there is no store yet but may be one.

    A run that has stopped is planned where this launch takes it further.
    """
    if not is_store(runs):
        return dict.fromkeys(run_ids, "planned")
    found = open_store(runs).states(run_ids)[["run_id", "state", "step"]].itertuples(index=False)
    return {
        run_id: "planned" if state == STOPPED and not is_over(state, step, until.get(run_id)) else state
        for run_id, state, step in found
    }


def run_launch(launch: Launch, start: Start, *, typed: Sequence[str] = ()) -> int:
    """Train what a launch lacks, `start` being what runs jobs; returns the exit code that the store then gives.

    `typed` are the arguments of the whole launch, which `isoflop retry` repeats. Raises UsageError or TooLargeError for
    what cannot work, StoreError when the disk refuses to be written or the file of a finished cell cannot be read.
    """
    where = launch.where
    if "tensorboard" in where.trackers:  # an arm is part of the folder of its curves
        for arm in {cell.arm for cell in launch.cells if cell.arm}:
            check_name(arm, "arm")
    if launch.workers is not None and where.distributed == "none":
        check_memory(launch.unfinished, where, per_device(where, launch.workers), available_bytes(where.device))
    if where.max_dollars is not None:
        check_cap(launch_price(launch), where, rounds_price(launch, here=launch.workers is not None))
    with readable_disk_errors(launch.runs):
        store = create_store(launch.runs)
        store.check(run_id for run_id, state in launch.states.items() if state in SETTLED)
        _print_summary(launch)
        _print_changes(launch, store)
        _write(launch, store, typed)
        if launch.jobs:
            pin_threads(where.threads)
            if launch.workers is not None and (where.device, where.threads) == ("cpu", 1):
                native.build_for_workers()
            _warn_of_mixing(launch, store)
            with live_line(store, launch.cells, launch.worker_speed, launch.at_once or len(launch.jobs)):
                finish(launch.jobs, store, start)
            keep_together(store.root)
    print(printable(closing_table(store, launch.cells, time.monotonic() - launch.began)))
    # A task of another machine trains what a launch wrote down, which may be to stop.
    return exit_code(store, launch.cells, stops=where.cells is not None or any(part.until for part in launch.parts))


def _warn_of_mixing(launch: Launch, store: Store) -> None:
    """A line where cells that this launch trains would stand beside those of another engine. On stderr."""
    if launch.workers is None:  # other machines have their own compilers: the closing table tells
        return
    kernels = native.library() is not None
    mine = {engine_name(cell, launch.where, kernels=kernels) for cell in launch.unfinished}
    states = store.states([cell.run_id for study in launch.studies for cell in study.cells])
    others = states.loc[~states["engine"].isin({*mine, ""}), "engine"].value_counts()
    if len(others):
        before = ", ".join(f"{count} by {name}" for name, count in others.items())
        print(
            f"warning: {before} are finished; this launch trains by {' and '.join(sorted(mine))}: rounding differs "
            "and grows, so that one run may end elsewhere by some tenths of a percent; isoflop fit names such a table",
            file=sys.stderr,
        )


def launch_price(launch: Launch) -> Price:
    """What the jobs of a launch cost; those on other machines hold the devices of a worker as long as they take."""
    if launch.workers is None and launch.jobs:
        seconds = sum(job.seconds + launch.speed.start for job in launch.alone)
        return price(seconds, devices_of(launch.where, 1), launch.where)
    return _price_here([job.cells for job in launch.alone], launch)


def rounds_price(launch: Launch, *, here: bool) -> Price | None:
    """What the rounds that may follow a launch cost at most, at the price of a FLOP of its study; None for none.

    They are trained `here`, or on other machines.
    """
    if not launch.flops_ahead:
        return None
    trunks = whole_trunks(launch)
    if not here:
        seconds = sum(trunk_seconds(trunk, launch.speed) + launch.speed.start for trunk in trunks)
        whole = price(seconds, devices_of(launch.where, 1), launch.where)
    else:
        whole = _price_here(trunks, launch)
    return whole.times(launch.flops_ahead / trained_flops(trunks))


def whole_trunks(launch: Launch) -> list[tuple[Cell, ...]]:
    """Every trunk of the studies, finished or not."""
    return [trunk for study in launch.studies for trunk in study.trunks.values()]


def trained_flops(trunks: Sequence[Sequence[Cell]]) -> float:
    """FLOPs of these trunks, each step once, as a round counts its budget."""
    return float(sum(trunk_steps(trunk) * trunk[0].step_flops for trunk in trunks))


def _price_here(trunks: Sequence[Sequence[Cell]], launch: Launch) -> Price:
    """What these trunks cost by the workers of this machine."""
    workers = launch.workers or worker_count(launch.where)
    return price_of(trunks, workers, devices_of(launch.where, workers), launch.where, launch.speed)


def exit_code(store: Store, cells: Sequence[Cell], *, stops: bool = False) -> int:
    """0 if every one of these cells is done, or stopped where a launch `stops` some; 1 if not."""
    good = ["done", *([STOPPED] if stops else [])]
    return 0 if store.states([cell.run_id for cell in cells])["state"].isin(good).all() else 1


@contextmanager
def readable_disk_errors(runs: str) -> Iterator[None]:
    """Turn the disk's refusal into a StoreError of one line that names the remedy."""
    try:
        yield
    except OSError as error:
        if not is_disk_error(error):
            raise
        reason = os.strerror(error.errno).lower() if error.errno else str(error)
        reason += f" ({error.filename})" if error.filename else ""
        raise StoreError(
            f"runs={runs} cannot be written: {reason}; what is finished is safe: make room or name another folder, "
            "and type the same command again"
        ) from error


def _write(launch: Launch, store: Store, typed: Sequence[str]) -> None:
    """What the jobs read, and what `isoflop status` and `isoflop retry` know of the launch."""
    waiting = {trunk_id for job in launch.jobs for trunk_id in job.trunk_ids}
    apart = told_apart(cell for study in launch.studies for cell in study.cells)
    for part in launch.parts:
        for trunk_id, trunk in part.due.trunks.items():
            if (
                trunk_id in waiting and part.key != part.where.cells
            ):  # else written by the launch that this is a task of
                work = work_of(part.study, trunk, part.where, part.until, apart)
                write_work(store, work, part.corpora(trunk[0].data), part.key)
    states = store.states([cell.run_id for cell in launch.cells])
    further = (states["state"] == STOPPED) & (states["run_id"].map(launch.states) == "planned")
    for run_id in states.loc[states["state"].isin(["failed", "lost"]) | further, "run_id"]:
        store.record(run_id, "planned")
    if launch.where.cells is not None:  # a task: the launch that it is of has listed them
        return
    whole = launch.where.only is None and launch.where.trunk is None
    launch_id = store.write_launch(typed, os.getcwd()) if typed else ""
    by_name: dict[str, list[Study]] = {}
    for study in launch.studies:
        by_name.setdefault(study.name, []).append(study)
    for name, group in by_name.items():
        due = [cell for study in group for cell in study.cells if whole or wanted(cell, launch.where)]
        if due:
            held = {flops for study in group for flops in study.hold_out}
            listed = [listing(cell, apart) | {"launch": launch_id} for cell in due]
            store.write_study(name, listed, hold_out=held, whole=whole)


def _print_changes(launch: Launch, store: Store) -> None:
    """Notes on what the studies of a launch were before it. On stderr."""
    if launch.where.only is not None or launch.where.trunk is not None or launch.where.cells is not None:
        return
    arms: dict[str, dict[str, str]] = {}
    for study in launch.studies:
        arms.setdefault(study.name, {}).update({cell.run_id: cell.arm for cell in study.cells})
    for name, of_runs in arms.items():
        for line in changes(store, name, of_runs):
            print(f"note: {printable(line)}", file=sys.stderr)


def _print_summary(launch: Launch) -> None:
    """Warnings, cells outside the window, and one line: cells, jobs, workers, predicted minutes. On stderr."""
    where, workers, threads = launch.where, launch.workers, launch.where.threads
    if same := same_runs(cell for study in launch.studies for cell in study.cells):  # of several sets of arguments
        print(f"warning: {printable(same_runs_warning(same))}", file=sys.stderr)
    for study in launch.studies:
        for warning in study.warnings:
            print(f"warning: {printable(warning)}", file=sys.stderr)
        if study.dropped:
            print(printable(_left_out(study)), file=sys.stderr)
    if workers is not None and workers * threads > cores():
        print(
            f"warning: {workers} workers x {threads} threads on {cores()} cores slow each other down; "
            f"where.workers={max(1, cores() // threads)} would not",
            file=sys.stderr,
        )
    if workers is not None and (note := time_slices(where, workers)):
        print(note, file=sys.stderr)
    left, trunks = sum(len(job.cells) for job in launch.jobs), sum(len(job.trunk_ids) for job in launch.jobs)
    by = "elsewhere" if workers is None else f"{workers} workers x {threads} threads"
    by += f" on {count} GPUs" if workers and (count := len(gpus(where.device))) else ""
    minutes = f", about {launch.seconds(launch.at_once) / 60:.1f} min" if launch.jobs and launch.at_once else ""
    jobs = f"{left} to train in {trunks} trunks{_packs(launch)}"
    print(f"{len(launch.cells)} cells, {jobs}, {by}{minutes}", file=sys.stderr)


def _packs(launch: Launch) -> str:
    inside = [len(job.parts) for job in launch.jobs if job.parts]
    return f" ({sum(inside)} of them side by side in {len(inside)} processes)" if inside else ""


def _left_out(study: Study) -> str:
    named = "; ".join(f"{d.size} at {d.budget_flops:g}: {d.reason}" for d in study.dropped[:NAMED])
    more = len(study.dropped) - NAMED
    others = f"; and {more} more, which isoflop plan names" if more > 0 else ""
    return f"study.window leaves out {len(study.dropped)} cells of the grid: {named}{others}"
