"""The runs of a study as they are planned: what each costs, where it may stop, and its rows up to there."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import pandas as pd

from isoflop.scaling.table.schedules.curve_run import CurveRun

FROM = 0.25  # of its steps: where a run may stop at the earliest; before, its curve says little of its end
LEAST_ROWS = 2  # of a curve that an end is forecast from

Extents = Mapping[str, int]  # of each run by its id the steps that it takes; 0 of one that is not begun


@dataclass(frozen=True)
class PlannedRun:
    """A run before it is trained: `run` is its schedule without rows, `measured` the steps behind its warm-up with one.

    It shares its first `branch` steps with the runs of its trunk: all of its steps where it has one of its own.
    `step_flops` is what a step costs, `tokens` what the whole run reads.
    """

    run: CurveRun
    tokens: float
    step_flops: float
    branch: int
    measured: tuple[int, ...]

    @property
    def run_id(self) -> str:
        """The id of the run."""
        return self.run.run_id

    @property
    def steps(self) -> int:
        """Its steps to its planned end."""
        return self.run.horizon

    @property
    def flops(self) -> float:
        """What it costs alone."""
        return self.steps * self.step_flops

    @property
    def marks(self) -> list[int]:
        """The steps before its branch at which it may stop: with a row there, and enough of its curve behind."""
        return [step for step in self.measured[LEAST_ROWS - 1 :] if FROM * self.steps <= step < self.branch]

    def seen(self, rows: pd.DataFrame, extent: int) -> CurveRun:
        """The run with those rows (step, loss, final) of its own that it has after `extent` steps."""
        at = rows["step"].to_numpy(int)
        kept = (at >= (self.measured[0] if self.measured else 1)) & (at <= extent)
        ends = rows["final"].to_numpy(bool)[kept]
        return replace(
            self.run, steps=at[kept] - 1, loss=rows["loss"].to_numpy(float)[kept], ends=ends, done=bool(ends.any())
        )


@dataclass(frozen=True)
class Plan:
    """The runs of a study, and what it costs to take each so far: a trunk is trained once."""

    runs: tuple[PlannedRun, ...]

    @cached_property
    def trunks(self) -> dict[str, list[PlannedRun]]:
        """The runs by trunk, the shortest first."""
        found: dict[str, list[PlannedRun]] = {}
        for one in sorted(self.runs, key=lambda one: (one.steps, one.run_id)):
            found.setdefault(one.run.trunk_id or one.run_id, []).append(one)
        return found

    @property
    def whole(self) -> dict[str, int]:
        """The extents of the study as it is planned."""
        return {one.run_id: one.steps for one in self.runs}

    def flops(self, extents: Extents) -> float:
        """What these extents cost."""
        total = 0.0
        for group in self.trunks.values():
            steps = reach(group, extents) + sum(one.steps - one.branch for one in group if ended(one, extents))
            total += group[0].step_flops * steps
        return total

    def further(self, extents: Extents, run_id: str, step: int) -> dict[str, int]:
        """The extents with one run taken to `step`, the others of its trunk as far as they then come for nothing."""
        found = dict(extents) | {run_id: step}
        (group,) = (group for group in self.trunks.values() if any(one.run_id == run_id for one in group))
        for one in group:
            if not ended(one, found):
                found[one.run_id] = min(one.branch, reach(group, found))
        return found


def reach(group: Sequence[PlannedRun], extents: Extents) -> int:
    """How far a trunk is trained."""
    return max(min(one.branch, extents.get(one.run_id, 0)) for one in group)


def ended(run: PlannedRun, extents: Extents) -> bool:
    """Whether a run is taken to its end."""
    return extents.get(run.run_id, 0) >= run.steps


def curves_so_far(plan: Plan, rows: pd.DataFrame, extents: Extents) -> list[CurveRun]:
    """The curves of all runs with the rows (run_id, step, loss, final) that they have at these extents; some with none.

    Rows beyond are not looked at, so that what is decided of them is the same when they are there.
    """
    by = dict(list(rows.groupby("run_id", sort=False)))
    none = rows.iloc[:0]
    return [one.seen(by.get(one.run_id, none), extents.get(one.run_id, 0)) for one in plan.runs]


def with_rows(runs: Iterable[CurveRun]) -> list[CurveRun]:
    """Those that have any."""
    return [run for run in runs if len(run.loss)]
