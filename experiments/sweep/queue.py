"""The jobs of a launch: a trunk each, or a pack of them; in which order, and taken apart when they keep dying."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from isoflop.experiments.config import WhereSpec
from isoflop.experiments.cost.cost import Speed, trunk_seconds
from isoflop.experiments.cost.memory import available_bytes
from isoflop.experiments.cost.packs import packs
from isoflop.experiments.store.store import SETTLED, Store
from isoflop.experiments.study.cell import Cell
from isoflop.experiments.study.study import Study
from isoflop.experiments.sweep.pool import per_device
from isoflop.experiments.sweep.train_job import wanted

MAX_DEATHS = 3  # of one trunk in one launch; the last try is without company, so that no other trunk is to blame


@dataclass
class Job:
    """One trunk: the arguments that launch it, its cells, and how often its worker died in this launch.

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
        return self.trunk_id.split(",")


def find_jobs(
    overrides: list[str], study: Study, store: Store, speed: Speed, where: WhereSpec, workers: int | None
) -> list[Job]:
    """What is missing, trunks that go together as one job. Elsewhere the memory is not known, and not heeded."""
    jobs = missing_jobs(overrides, study, store, speed, where)
    if where.pack == 1:
        return jobs
    room = float("inf") if workers is None else available_bytes(where.device) / per_device(where, workers)
    return [packed(overrides, group) for group in packs(jobs, lambda job: job.cells, where, room)]


def packed(overrides: list[str], jobs: Sequence[Job]) -> Job:
    """One job for these. Its seconds are theirs one after the other: nobody has measured the pack."""
    if len(jobs) == 1:
        return jobs[0]
    ids = ",".join(job.trunk_id for job in jobs)
    cells = tuple(cell for job in jobs for cell in job.cells)
    seconds = sum(job.seconds for job in jobs)
    return Job(ids, [*overrides, f"where.trunk='{ids}'"], cells, seconds, parts=tuple(jobs))


def unpacked(job: Job) -> list[Job]:
    """The job, or the trunks of a pack that has but one try left: each gets it alone, so that one is to blame."""
    if not job.parts or job.deaths < MAX_DEATHS - 1:
        return [job]
    return [replace(part, deaths=job.deaths, error=job.error) for part in job.parts]


def missing_jobs(overrides: list[str], study: Study, store: Store, speed: Speed, where: WhereSpec) -> list[Job]:
    """A job for each trunk with a cell that has no result. Cells that failed or were lost before count as missing.

    Raises StoreError if the file of a finished cell cannot be read.
    """
    states = store.states([cell.run_id for cell in study.cells]).set_index("run_id")["state"]
    store.check(run_id for run_id, state in states.items() if state in SETTLED)
    jobs = []
    for trunk_id, cells in study.trunks.items():
        left = tuple(cell for cell in cells if states[cell.run_id] not in SETTLED and wanted(cell, where))
        for cell in left:
            if states[cell.run_id] in ("failed", "lost"):
                store.record(cell.run_id, "planned")
        if left:
            arguments = [*overrides, f"where.trunk='{trunk_id}'"]  # quoted: a hash may read as a number
            jobs.append(Job(trunk_id, arguments, left, trunk_seconds(left, speed)))
    return jobs


def in_order(jobs: Sequence[Job]) -> list[Job]:
    """The cheapest first, as a canary, then the longest: a broken set-up shows early and no worker ends alone."""
    longest = sorted(jobs, key=lambda job: -job.seconds)
    return longest[-1:] + longest[:-1]
