"""What extents of runs cost where trunks are shared, and which rows they show."""

import pandas as pd
import pytest

from isoflop.scaling.stopping.planned_run import curves_so_far, reach
from tests.support.fits.planned import plan_of_trunk

ROWS = pd.DataFrame({
    "run_id": ["long"] * 4, "step": [64, 128, 512, 1000], "loss": [3.0, 2.9, 2.8, 2.5], "final": [False] * 3 + [True],
})  # fmt: skip


def test_a_trunk_is_paid_for_once_and_each_cooldown_by_itself():
    plan = plan_of_trunk()
    assert plan.flops(plan.whole) == 10.0 * (800 + 200 + 100)
    assert plan.flops({"long": 512}) == 10.0 * 512
    assert plan.flops({"short": 500, "long": 400}) == 10.0 * (400 + 100)
    assert plan.flops({}) == 0


def test_others_of_a_trunk_come_along_as_far_as_it_goes():
    plan = plan_of_trunk()
    assert plan.further({}, "long", 256) == {"long": 256, "short": 256}
    assert plan.further({}, "long", 1000) == {"long": 1000, "short": 400}
    assert plan.further({"long": 256, "short": 256}, "short", 500) == {"long": 400, "short": 500}
    assert reach(plan.trunks["trunk"], {"long": 1000, "short": 400}) == 800


def test_a_run_may_stop_at_a_row_with_enough_of_its_curve_behind():
    short, long = plan_of_trunk().runs
    assert short.marks == [128, 181, 256, 362]
    assert long.marks == [256, 362, 512, 724]


@pytest.mark.parametrize(("extent", "seen"), [(0, 0), (127, 1), (128, 2), (999, 3), (1000, 4)])
def test_rows_beyond_an_extent_are_not_seen(extent, seen):
    curve = curves_so_far(plan_of_trunk(), ROWS, {"long": extent})[1]
    assert list(curve.loss) == list(ROWS["loss"][:seen])
    assert curve.done == (extent == 1000)
