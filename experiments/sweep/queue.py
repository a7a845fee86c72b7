"""The jobs of a launch, a trunk each or a pack of trunks: which are missing, in which order, and until when they go on.

Jobs never raise for a cell's sake, and the store, not a job's return value, says what is missing. A killed worker takes
its whole pool down with it under joblib, so rounds go on until nothing is missing or a trunk has died too often.
"""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from hydra.core.utils import JobReturn, JobStatus

from isoflop.experiments.config import WhereSpec
from isoflop.experiments.cost.cost import Speed, trunk_seconds
from isoflop.experiments.cost.packs import packs
from isoflop.experiments.files import STALE_SECONDS, host_name, is_disk_error, is_ours
from isoflop.experiments.store.store import SETTLED, STOPPED, Store, StoreError
from isoflop.experiments.study.cell import Cell
from isoflop.experiments.study.study import Study
from isoflop.experiments.sweep.train_job import wanted
from isoflop.printable import printable

MAX_DEATHS = 3  # of one trunk in one launch; the last try is without company, so that no other trunk is to blame
WAIT_SECONDS = 0.5  # for trunks that another launch, or a worker about to end, still holds
QUIET_SECONDS = 3.0  # of waiting, before a line says for whom

Start = Callable[[list[list[str]], int], Sequence[JobReturn]]  # Hydra's launcher: overrides of jobs, the first's number


@dataclass
class Job:
    """One trunk: the overrides that its worker is given, its cells, and how often its worker died in this launch.

    Or a pack of trunks, their ids by commas, whose `parts` are the jobs that they would be alone.
    """

    trunk_id: str
    overrides: list[str]
    cells: tuple[Cell, ...]
    seconds: float
    deaths: int = 0
    error: str = ""
    parts: "tuple[Job, ...]" = ()

    @property
    def trunk_ids(self) -> list[str]:
        """The ids of the trunks of a pack, or the one."""
        return self.trunk_id.split(",")


def find_jobs(
    overrides: list[str], study: Study, states: Mapping[str, str], speed: Speed, where: WhereSpec, workers: int | None
) -> list[Job]:
    """A job for each trunk of a study with cells to train, neither settled nor stopped where they were to.

    Those that are trained side by side are one job.

    `overrides` are common to the jobs, `states` those of all cells by run id. With `workers` None the jobs run on other
    machines.
    """
    jobs = []
    for trunk_id, cells in study.trunks.items():
        left = tuple(cell for cell in cells if states[cell.run_id] not in (*SETTLED, STOPPED) and wanted(cell, where))
        if left:
            jobs.append(Job(trunk_id, _of_trunks(overrides, trunk_id), left, trunk_seconds(left, speed)))
    return [packed(overrides, group) for group in packs(jobs, lambda job: job.cells, where, workers)]


def packed(overrides: list[str], jobs: Sequence[Job]) -> Job:
    """One job for these. Its seconds are theirs one after the other."""
    if len(jobs) == 1:
        return jobs[0]  # equivalent: the one
    ids = ",".join(job.trunk_id for job in jobs)
    cells = tuple(cell for job in jobs for cell in job.cells)
    seconds = sum(job.seconds for job in jobs)
    return Job(ids, _of_trunks(overrides, ids), cells, seconds, parts=tuple(jobs))


def _of_trunks(overrides: list[str], ids: str) -> list[str]:
    return [*overrides, f"where.trunk='{ids}'"]  # the last one; quoted, since a hash may read as a number


def unpacked(job: Job) -> list[Job]:
    """The job, or the trunks of a pack that has but one try left: each gets it alone, so that one is to blame."""
    if not job.parts or job.deaths < MAX_DEATHS - 1:
        return [job]
    return [replace(part, deaths=job.deaths, error=job.error) for part in job.parts]


def in_order(jobs: Sequence[Job]) -> list[Job]:
    """The cheapest first, as a canary, then the longest: a broken set-up shows early and no worker ends alone."""
    longest = sorted(jobs, key=lambda job: -job.seconds)
    return longest[-1:] + longest[:-1]


def finish(jobs: Sequence[Job], store: Store, start: Start) -> None:
    """Launch rounds until every job has settled, or has died MAX_DEATHS times and is recorded as lost.

    Raises StoreError if the launcher's work leaves no trace in the store, time after time.
    """
    launched = untouched = 0
    waiting: float | None = None  # since when, while every open trunk is another's
    reported: set[str] = set()
    while open_jobs := [job for job in jobs if _is_open(job, store)]:
        if len(every := [one for job in jobs for one in unpacked(job)]) > len(jobs):
            jobs = every
            continue
        free = [job for job in open_jobs if not all(map(store.claimed, job.trunk_ids))]
        distinct = list({job.trunk_id: job for job in reversed(free)}.values())
        company = [job for job in distinct if job.deaths < MAX_DEATHS - 1]
        batch = in_order(company) or distinct[:1]
        if not batch:
            waiting = waiting or time.monotonic()
            if time.monotonic() - waiting >= QUIET_SECONDS:
                _say_who_holds(open_jobs, store, reported)
            time.sleep(WAIT_SECONDS)
            continue
        waiting = None
        before = _attempts(batch, store)
        _start_round(batch, store, start, launched)
        launched += len(batch)
        untouched = untouched + 1 if _is_untouched(batch, store, before) else 0
        if untouched == MAX_DEATHS:
            raise StoreError(
                f"{untouched} times the launcher reported that its work was done and nothing of it is in {store.root}: "
                "do its workers see that folder? Launch from one that every machine shares"
            )


def _say_who_holds(jobs: Sequence[Job], store: Store, reported: set[str]) -> None:
    """A line on stderr for each trunk that a launch waits for, unless it was `reported` already."""
    for trunk_id in sorted({trunk_id for job in jobs for trunk_id in job.trunk_ids} - reported):
        if (claim := store.holder(trunk_id)) is None:
            continue
        reported.add(trunk_id)
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(claim.get("since", claim["heartbeat"])))
        what = "this launch waits for it"
        if not is_ours(claim):
            what += f", and takes it over once the claim has not changed for {STALE_SECONDS:.0f} s here"
        print(f"trunk {trunk_id} is held by {printable(host_name(claim))} since {since}: {what}", file=sys.stderr)


def _start_round(batch: Sequence[Job], store: Store, start: Start, first: int) -> None:
    """One call of the launcher. Its exception is a dead worker's if any cell was started, else it is our caller's."""
    before = _attempts(batch, store)
    try:
        returns = start([job.overrides for job in batch], first)
    except Exception as error:
        store.check_there()
        if _attempts(batch, store) == before:
            raise
        for job in batch:
            job.error = f"{type(error).__name__}: the worker died"
        return
    store.check_there()
    for job, outcome in zip(batch, returns, strict=True):
        if outcome.status == JobStatus.FAILED:
            if is_disk_error(outcome._return_value) or _attempts(batch, store) == before:
                raise outcome._return_value  # not a cell's fault
            job.error = repr(outcome._return_value)


def _is_open(job: Job, store: Store) -> bool:
    """Whether a job has cells to train; counts its deaths, and records as lost what died too often."""
    store.check_there()
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
