"""What is known of ends that are ahead, against the same by the joint covariance of every row of a plan."""

import numpy as np
import pytest

from isoflop.scaling.prediction.curves.curve_model import CurveModel, curve_model, knots_of
from isoflop.scaling.stopping.ahead import NO_CURVE, Ahead
from isoflop.scaling.stopping.planned_run import curves_so_far, with_rows
from tests.support.fits.planned import plan_of_grid, rows_of

PLAN = plan_of_grid(sizes=(3e3, 1.2e4, 5e4), budgets=(4e10, 4e11))
ROWS = rows_of(PLAN, np.random.default_rng(3))
TRUNKS = list(PLAN.trunks.values())


class Known(CurveModel):
    """A model of which every coordinate is known a little beforehand."""

    @property
    def precision(self):
        return super().precision + 100 * np.eye(len(super().precision))


@pytest.fixture(scope="module")
def ahead():
    """The ends of a model with a shared misfit."""
    every = with_rows(curves_so_far(PLAN, ROWS, PLAN.whole))
    first = curve_model(every, n_starts=1)
    return Ahead(Known(first.fit, first.runs, first.deviation, knots_of(every)), TRUNKS)


def by_force(ahead, extents):
    """The covariance of the ends that are ahead, of all rows at once."""
    design = np.concatenate([trunk.design for trunk in ahead.trunks])
    joint, seen, requested, first = design @ np.linalg.inv(ahead.model.precision) @ design.T, [], [], 0
    for trunk in ahead.trunks:
        its = slice(first, first + len(trunk.design))
        joint[its, its] += trunk.covariance
        far = max(min(one.branch, extents[one.run_id]) for one in trunk.group)
        seen += [first + i for i, step in enumerate(trunk.measured) if step <= far]
        for i, one in enumerate(trunk.group, first + len(trunk.measured)):
            (seen if extents[one.run_id] >= one.steps else requested).append(i)
        first = its.stop
    weights = np.linalg.solve(joint[np.ix_(seen, seen)], joint[np.ix_(seen, requested)])
    return joint[np.ix_(requested, requested)] - joint[np.ix_(requested, seen)] @ weights


def extents_of(longest):
    """The short runs at their ends, the long ones so far."""
    return {one.run_id: one.steps if one is not group[-1] else longest(one) for group in TRUNKS for one in group}


def test_ends_are_known_as_well_as_all_rows_together_say(ahead):
    extents = extents_of(lambda one: one.marks[0])
    run_ids, found = ahead.covariance(extents)
    assert run_ids == [group[-1].run_id for group in TRUNKS]
    np.testing.assert_allclose(found, by_force(ahead, extents), rtol=1e-6)
    sd = np.sqrt(np.diag(found))
    assert (found / np.outer(sd, sd))[np.triu_indices(3, 1)].max() > 0.2  # they err together


def test_a_long_run_that_ends_tells_of_the_other_long_ones(ahead):
    before = extents_of(lambda one: one.marks[0])
    middle = TRUNKS[1][-1]
    first, last = TRUNKS[0][-1].run_id, TRUNKS[2][-1].run_id
    run_ids, found = ahead.covariance(before | {middle.run_id: middle.steps})
    assert run_ids == [first, last]
    assert (np.diag(found) < 0.97 * np.diag(ahead.covariance(before)[1])[[0, 2]]).all()


def test_a_run_that_is_not_begun_is_known_by_nothing(ahead):
    plan = extents_of(lambda one: one.marks[0])
    alone = TRUNKS[0]
    run_ids, found = ahead.covariance(plan | {one.run_id: 0 for one in alone})
    mine = [run_ids.index(one.run_id) for one in alone]
    np.testing.assert_array_equal(found[np.ix_(mine, mine)], NO_CURVE**2 * np.eye(len(alone)))
    assert not np.delete(found[mine], mine, axis=1).any()


def test_at_their_ends_nothing_is_ahead(ahead):
    run_ids, found = ahead.covariance(PLAN.whole)
    assert (run_ids, found.shape) == ([], (0, 0))
