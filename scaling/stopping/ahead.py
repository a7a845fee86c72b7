"""The ends of runs before they are reached: how far each may lie from its forecast, and how they err together.

Under a model of whole curves with its deviations, ends err together in two ways: runs of one trunk share its level, and
all of them share what is not known of the law and of what it misses. A run that ends, or goes on, therefore tells of
the ends of others. Nothing here depends on a loss that is yet to come.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from isoflop.scaling.laws.law import Array
from isoflop.scaling.prediction.curves.curve_model import CurveModel
from isoflop.scaling.stopping.planned_run import LEAST_ROWS, Extents, PlannedRun, ended, reach
from isoflop.scaling.table.schedules.curve_run import CurveRun

NO_CURVE = 1.0  # standard deviation of ln loss at the end of a run of which nothing is known


class Ends(NamedTuple):
    """The ends (m,) of a trunk that are ahead, by run id: how they depend on the coordinates of the model (m, P), their
    covariance (m, m) beside that, and what the rows up to there tell of the coordinates, as a precision (P, P)."""

    run_ids: list[str]
    slopes: Array
    own: Array
    information: Array


class Ahead:
    """The ends of planned runs under a model of their curves; `trunks` holds the runs of each, the shortest first."""

    def __init__(self, model: CurveModel, trunks: Sequence[Sequence[PlannedRun]]) -> None:
        self.model = model
        self.trunks = [_Trunk(model, group) for group in trunks]

    def covariance(self, extents: Extents) -> tuple[list[str], Array]:
        """The ids of the runs (m,) that have not ended at these extents, and the covariance (m, m) of ln loss at their
        ends, given the rows up to there. It holds the noise of seeds and evaluations."""
        ahead = [trunk.ends(extents) for trunk in self.trunks]
        of_law = _inverse(self.model.precision + sum(one.information for one in ahead))
        slopes = np.concatenate([one.slopes for one in ahead])
        found, first = slopes @ of_law @ slopes.T, 0
        for one in ahead:
            its = slice(first, first := first + len(one.run_ids))
            found[its, its] += one.own
        return [run_id for one in ahead for run_id in one.run_ids], found


class _Trunk:
    """One trunk: its rows and ends to come, and what of them is known by how far its runs are taken."""

    def __init__(self, model: CurveModel, group: Sequence[PlannedRun]) -> None:
        self.group = group
        self.measured = np.array(sorted({step for one in group for step in one.measured}), dtype=int)
        requested = [_bare(group[-1].run, self.measured - 1, ends=False)]
        requested += [_bare(one.run, np.array([one.steps - 1]), ends=True) for one in group]
        self.design, self.covariance = model.planned(*requested)
        self.known: dict[tuple[int, ...], Ends] = {}

    def ends(self, extents: Extents) -> Ends:
        """The ends that are ahead at these extents."""
        done = [ended(one, extents) for one in self.group]
        key = (reach(self.group, extents), *done)
        if key not in self.known:
            self.known[key] = self._ends(key[0], np.array(done))
        return self.known[key]

    def _ends(self, far: int, done: Array) -> Ends:
        seen = np.flatnonzero(np.concatenate([self.measured <= far, done]))
        requested = len(self.measured) + np.flatnonzero(~done)
        run_ids = [one.run_id for one, its in zip(self.group, done, strict=True) if not its]
        rows, cross = self.design[seen], self.covariance[np.ix_(seen, requested)]
        solved = np.linalg.solve(self.covariance[np.ix_(seen, seen)], np.column_stack([rows, cross]))
        inner, weights = np.split(solved, [rows.shape[1]], axis=1)
        slopes, own = (
            self.design[requested] - weights.T @ rows,
            self.covariance[np.ix_(requested, requested)] - cross.T @ weights,
        )
        if np.sum(self.measured <= far) < LEAST_ROWS:
            slopes, own = np.zeros_like(slopes), NO_CURVE**2 * np.eye(len(requested))
        return Ends(run_ids, slopes, own, rows.T @ inner)


def _inverse(precision: Array) -> Array:
    """The covariance of coordinates; of what nothing tells of, zero."""
    scale = np.sqrt(np.where(np.diag(precision) > 0, np.diag(precision), 1.0))
    scaled = precision / np.outer(scale, scale)
    return np.linalg.pinv(scaled, rcond=1e-12, hermitian=True) / np.outer(scale, scale)


def _bare(run: CurveRun, steps: Array, ends: bool) -> CurveRun:
    """A run with rows without a loss at these steps."""
    return replace(run, steps=steps, loss=np.ones(len(steps)), ends=np.full(len(steps), ends))
