"""A cell comes back from JSON field by field, or is refused; the learning rates of every schedule."""

import json
import math
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path

import pytest

from isoflop.experiments.config import DataSpec, HubSpec, OptimSpec, ScheduleSpec
from isoflop.experiments.study.cell import Cell, Initial, from_plain, to_plain
from isoflop.scaling.table.schedules.schedule import SCHEDULES, cooldown_start, learning_rate
from tests.support.sweep.studies import cell_of_width

WSD = ScheduleSpec(name="wsd", warmup_steps=10)
COSINE = ScheduleSpec(name="cosine", warmup_steps=10, final_fraction=0.1)


def special() -> Cell:
    """A cell with something other than the default in every kind of field."""
    data = DataSpec(files=["a/*.txt", "it's.txt"], hub=HubSpec(name="x", max_bytes=3), clean=["strip"], unique_tokens=9)
    initial = Initial(Path("/some/where"), "0123", "")
    optim = OptimSpec(learning_rate=0.1 + 0.2, batch_size=8, beta2=0.999)
    return replace(
        cell_of_width(16), data=data, optim=optim, budget_flops=1e9 / 3, initial=initial, precision="bfloat16"
    )


@pytest.mark.parametrize("cell", [cell_of_width(8), special()], ids=["plain", "special"])
def test_every_field_comes_back(cell):
    other = from_plain(json.loads(json.dumps(to_plain(cell))))
    assert (other.run_id, other.trunk_id) == (cell.run_id, cell.trunk_id)
    assert math.isnan(other.budget_flops) == math.isnan(cell.budget_flops)
    assert replace(other, budget_flops=0.0) == replace(cell, budget_flops=0.0)
    assert repr(asdict(other)) == repr(asdict(cell))  # types too: 1.0 is not 1


def test_settings_that_are_not_those_of_the_run_are_refused():
    plain = to_plain(cell_of_width(8))
    with pytest.raises(ValueError, match=rf"its run {plain['run_id']} has the settings of run"):
        from_plain(plain | {"seed": 5})
    with pytest.raises(TypeError, match="steps"):
        from_plain({key: value for key, value in plain.items() if key != "steps"})
    for group in (key for key, value in plain.items() if isinstance(value, dict)):
        for wrong in (5, "x", [1], True):
            with pytest.raises(TypeError, match="is keys with values, not"):
                from_plain(plain | {group: wrong})


def test_wsd_phases():
    rates = [learning_rate(WSD, step, 100) for step in range(100)]
    assert [r for r, phase in rates if phase == "warmup"] == [(i + 1) / 10 for i in range(10)]
    assert [r for r, phase in rates if phase == "constant"] == [1.0] * 70
    cooldown = [r for r, phase in rates if phase == "cooldown"]
    assert cooldown == pytest.approx([1 - math.sqrt(i / 20) for i in range(20)])


def test_the_trunk_does_not_know_the_horizon():
    for step in range(cooldown_start(WSD, 200)):
        assert learning_rate(WSD, step, 200) == learning_rate(WSD, step, 5000)
    start = cooldown_start(WSD, 200)
    assert learning_rate(WSD, start, 200)[1] == "cooldown"
    assert learning_rate(WSD, start - 1, 200)[1] == "constant"


@pytest.mark.parametrize(("steps", "cooldown"), [(97, 19), (98, 20), (100, 20), (3, 1), (2, 1), (1, 1)])
def test_a_cooldown_is_its_share_of_the_steps_to_the_nearest_and_at_least_one(steps, cooldown):
    assert steps - cooldown_start(WSD, steps) == cooldown


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("fraction", [0.0, 0.05, 0.1, 0.2, 0.37, 1.0])
def test_a_cell_leaves_its_trunk_where_its_rate_does(name, fraction):
    schedule = replace(WSD, name=name, cooldown_fraction=fraction)
    for steps in (1, 2, 3, 97, 98, 100, 1001, 12345):
        cell = replace(cell_of_width(8), schedule=schedule, steps=steps)
        assert cell.branch_step == cooldown_start(schedule, steps)


def test_linear_cooldown_reaches_the_floor():
    spec = replace(WSD, cooldown_shape="linear", final_fraction=0.1)
    assert learning_rate(spec, 90, 100)[0] == pytest.approx(0.1 + 0.9 * 0.5)
    assert learning_rate(spec, 100, 100)[0] == pytest.approx(0.1)


def test_cosine_falls_from_the_peak_to_the_floor():
    rates = [learning_rate(COSINE, step, 110)[0] for step in range(10, 111)]
    assert rates[0] == 1.0
    assert rates[50] == pytest.approx(0.55)
    assert rates[-1] == pytest.approx(0.1)
    assert all(a > b for a, b in pairwise(rates))
    assert cooldown_start(COSINE, 110) == 0


def test_linear_falls_in_a_straight_line_to_the_floor():
    linear = replace(COSINE, name="linear")
    rates = [learning_rate(linear, step, 110)[0] for step in range(10, 111)]
    assert rates == pytest.approx([1 - 0.9 * i / 100 for i in range(101)])
    assert learning_rate(linear, 50, 110)[1] == "decay"


def test_constant_never_falls():
    constant = replace(COSINE, name="constant")
    assert {learning_rate(constant, step, 110) for step in range(10, 110)} == {(1.0, "constant")}
    assert learning_rate(constant, 4, 110) == (0.5, "warmup")
