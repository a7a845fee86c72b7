"""What a launch does around its jobs: expand, drop what is done, order, relaunch what a dead worker left, conclude.

Jobs never raise for a cell's sake, and the store, not a job's return value, says what is missing. A killed worker takes
its whole pool down with it under joblib, so rounds go on until nothing is missing or a trunk has died too often.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra.core.utils import JobReturn, JobStatus

from isoflop.experiments.compose import UsageError, check_overrides
from isoflop.experiments.config import ExperimentConfig, WhereSpec
from isoflop.experiments.cost.cost import Speed, cores, makespan
from isoflop.experiments.cost.memory import available_bytes, check_memory
from isoflop.experiments.cost.shape_key import place
from isoflop.experiments.cost.speed_file import known_speed
from isoflop.experiments.store.store import (
    SETTLED,
    STORE_FILE,
    Store,
    StoreError,
    create_store,
    is_disk_error,
    open_store,
)
from isoflop.experiments.study.cell import Cell
from isoflop.experiments.study.study import Study
from isoflop.experiments.sweep.pool import at_once, check_device, gpus, per_device, pin_threads, time_slices
from isoflop.experiments.sweep.progress import closing_table, live_line
from isoflop.experiments.sweep.queue import MAX_DEATHS, Job, find_jobs, in_order, unpacked
from isoflop.experiments.sweep.train_job import listing, load, wanted
from isoflop.experiments.trackers.sinks import check as check_trackers

NAMED = 3  # cells outside the window that a launch names
WAIT_SECONDS = 0.5  # for trunks that another launch, or a worker about to end, still holds

Launch = Callable[[list[list[str]], int], Sequence[JobReturn]]
ArgumentSet = tuple[list[str], ExperimentConfig]


def run_sweep(sets: Sequence[ArgumentSet], launch: Launch, *, workers: int | None, typed: Sequence[str] = ()) -> int:
    """Train what the studies of these argument sets lack; returns the exit code that the store then gives.

    `workers` is None where the work is done on other machines. `typed` are the arguments of the whole launch, which
    `isoflop retry` repeats. Raises StoreError when the disk refuses to be written.
    """
    began, where = time.monotonic(), sets[0][1].where
    speed = known_speed(place(where), where.threads).with_company(workers or cores(), cores())
    if workers is not None:
        check_device(where.device)
    check_trackers(where.trackers)
    studies = []
    for overrides, spec in sets:
        check_overrides(overrides, spec)
        studies.append((overrides, load(spec)[0]))
    cells = _wanted_cells(studies, where)
    if workers is not None and where.distributed == "none":
        check_memory(
            _unfinished(sets[0][1].runs, cells), where, per_device(where, workers), available_bytes(where.device)
        )
    with readable_disk_errors(sets[0][1].runs):
        store = create_store(sets[0][1].runs)
        jobs = [
            job for overrides, study in studies for job in find_jobs(overrides, study, store, speed, where, workers)
        ]
        _say(studies, cells, jobs, workers, where, speed)
        if where.only is None and where.trunk is None:
            _list(studies, store, typed)
        if jobs:
            pin_threads(where.threads)
            with live_line(store, cells, speed, _parallel(where, workers) or len(jobs)):
                finish(jobs, store, launch)
    print(closing_table(store, cells, time.monotonic() - began))
    return exit_code(store, cells)


def _wanted_cells(studies: list, where: WhereSpec) -> list[Cell]:
    """The cells that this launch is about. Raises UsageError for a run that none of its studies has."""
    cells = {cell.run_id: cell for _, study in studies for cell in study.cells}
    for run_id in where.only or ():
        if run_id not in cells:
            raise UsageError(
                f"run {run_id} is not among the {len(cells)} cells that these arguments give now: the study or its "
                "corpus has changed since it was launched; launch it anew with isoflop run"
            )
    return [cell for cell in cells.values() if wanted(cell, where)]


def _unfinished(runs: str, cells: Sequence[Cell]) -> list[Cell]:
    """Those without a result in the store at `runs`, if there is one yet."""
    if not (Path(runs) / STORE_FILE).exists():
        return list(cells)
    states = open_store(runs).states([cell.run_id for cell in cells])["state"]
    return [cell for cell, state in zip(cells, states, strict=True) if state not in SETTLED]


@contextmanager
def readable_disk_errors(runs: str) -> Iterator[None]:
    """Turn the disk's refusal into one line that says what to do."""
    try:
        yield
    except OSError as error:
        if not is_disk_error(error):
            raise
        told = f"{os.strerror(error.errno).lower()} ({error.filename})" if error.filename else str(error)
        raise StoreError(
            f"runs={runs} cannot be written: {told}; what is finished is safe: make room or name another folder, "
            "and type the same command again"
        ) from error


def exit_code(store: Store, cells: Sequence[Cell]) -> int:
    """0 if every one of these cells is done, 1 if not."""
    return 0 if (store.states([cell.run_id for cell in cells])["state"] == "done").all() else 1


def finish(jobs: Sequence[Job], store: Store, launch: Launch) -> None:
    """Launch rounds until every job has settled, or has died MAX_DEATHS times and is recorded as lost.

    Raises StoreError if the launcher's work leaves no trace in the store, time after time.
    """
    launched = untouched = 0
    while open_jobs := [job for job in jobs if _is_open(job, store)]:
        if len(every := [one for job in jobs for one in unpacked(job)]) > len(jobs):
            jobs = every
            continue
        free = [job for job in open_jobs if not all(map(store.claimed, job.trunk_ids))]
        distinct = list({job.trunk_id: job for job in reversed(free)}.values())
        company = [job for job in distinct if job.deaths < MAX_DEATHS - 1]
        batch = in_order(company) or distinct[:1]
        if not batch:
            time.sleep(WAIT_SECONDS)
            continue
        before = _attempts(batch, store)
        _launch_round(batch, store, launch, launched)
        launched += len(batch)
        untouched = untouched + 1 if _is_untouched(batch, store, before) else 0
        if untouched == MAX_DEATHS:
            raise StoreError(
                f"{untouched} times the launcher said that its work was done and nothing of it is in {store.root}: "
                "do its workers see that folder? Launch from one that every machine shares"
            )


def _launch_round(batch: Sequence[Job], store: Store, launch: Launch, first: int) -> None:
    """One call of the launcher. Its exception is a dead worker's if any cell was started, else it is our caller's."""
    before = _attempts(batch, store)
    try:
        returns = launch([job.overrides for job in batch], first)
    except Exception as error:
        if _attempts(batch, store) == before:
            raise
        for job in batch:
            job.error = f"{type(error).__name__}: the worker died"
        return
    for job, outcome in zip(batch, returns, strict=True):
        if outcome.status == JobStatus.FAILED:
            if is_disk_error(outcome._return_value) or _attempts(batch, store) == before:
                raise outcome._return_value  # not a cell's fault
            job.error = repr(outcome._return_value)


def _is_open(job: Job, store: Store) -> bool:
    """Whether a job has cells to train; counts its deaths, and records as lost what died too often."""
    states = store.states([cell.run_id for cell in job.cells])
    died = states.loc[states["state"] == "lost", "run_id"]
    if len(died):
        job.deaths += 1
        for run_id in died:
            final = job.deaths >= MAX_DEATHS
            store.record(run_id, "lost" if final else "planned", **({"error": job.error} if final else {}))
    return job.deaths < MAX_DEATHS and bool(states["state"].isin(["planned", "running", "lost"]).any())


def _is_untouched(batch: Sequence[Job], store: Store, attempts: int) -> bool:
    """Whether nobody began any of these since there were so many attempts at them, nor is about to."""
    claimed = any(store.claimed(trunk_id) for job in batch for trunk_id in job.trunk_ids)
    return _attempts(batch, store) == attempts and not claimed


def _attempts(batch: Sequence[Job], store: Store) -> int:
    return int(store.states([cell.run_id for job in batch for cell in job.cells])["attempts"].sum())


def _say(
    studies: list, cells: list[Cell], jobs: list[Job], workers: int | None, where: WhereSpec, speed: Speed
) -> None:
    threads = where.threads
    for _, study in studies:
        for warning in study.warnings:
            print(f"warning: {warning}", file=sys.stderr)
        if study.dropped:
            print(_left_out(study), file=sys.stderr)
    if workers is not None and workers * threads > cores():
        print(
            f"warning: {workers} workers x {threads} threads on {cores()} cores slow each other down; "
            f"where.workers={max(1, cores() // threads)} would not",
            file=sys.stderr,
        )
    if workers is not None and (note := time_slices(where, workers)):
        print(note, file=sys.stderr)
    left, trunks = sum(len(job.cells) for job in jobs), sum(len(job.trunk_ids) for job in jobs)
    by = "elsewhere" if workers is None else f"{workers} workers x {threads} threads"
    by += f" on {count} GPUs" if workers and (count := len(gpus(where.device))) else ""
    about = (
        f", about {predicted_seconds(jobs, _parallel(where, workers), speed) / 60:.1f} min" if jobs and workers else ""
    )
    print(f"{len(cells)} cells, {left} to train in {trunks} trunks{_packs(jobs)}, {by}{about}", file=sys.stderr)


def _packs(jobs: Sequence[Job]) -> str:
    inside = [len(job.parts) for job in jobs if job.parts]
    return f" ({sum(inside)} of them in {len(inside)} packs)" if inside else ""


def _parallel(where: WhereSpec, workers: int | None) -> int | None:
    return workers and at_once(where, workers)


def _left_out(study: Study) -> str:
    named = "; ".join(f"{d.size} at {d.budget_flops:g}: {d.reason}" for d in study.dropped[:NAMED])
    more = len(study.dropped) - NAMED
    others = f"; and {more} more, which isoflop plan names" if more > 0 else ""
    return f"study.window leaves out {len(study.dropped)} cells of the grid: {named}{others}"


def predicted_seconds(jobs: Sequence[Job], workers: int, speed: Speed) -> float:
    """Of the whole launch, from the first import to the last cell."""
    seconds = {job.trunk_id: job.seconds for job in jobs}
    return makespan(seconds.values(), workers, start=speed.start)


def _list(studies: list, store: Store, typed: Sequence[str]) -> None:
    launch_id = store.write_launch(typed, os.getcwd()) if typed else ""
    by_name: dict[str, list[Study]] = {}
    for _, study in studies:
        by_name.setdefault(study.name, []).append(study)
    for name, group in by_name.items():
        cells = [listing(cell) | {"launch": launch_id} for study in group for cell in study.cells]
        store.write_study(name, cells, hold_out=sorted({flops for study in group for flops in study.hold_out}))
