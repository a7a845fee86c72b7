"""Learning rates of every schedule: warm-up, constant part and decay; a trunk does not depend on its horizon."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest

from isoflop.experiments.config import ScheduleSpec
from isoflop.experiments.study.schedule import check, cooldown_start, learning_rate

WSD = ScheduleSpec(name="wsd", warmup_steps=10)
COSINE = ScheduleSpec(name="cosine", warmup_steps=10, final_fraction=0.1)


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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "step"}, r"schedule.name must be one of wsd, cosine, linear, constant; not 'step'"),
        ({"cooldown_shape": "exp"}, r"schedule.cooldown_shape must be one of linear, 1-sqrt; not 'exp'"),
        ({"cooldown_fraction": 0.0}, r"schedule.cooldown_fraction must lie in \(0, 1\]; not 0.0"),
        ({"final_fraction": 2.0}, r"schedule.final_fraction"),
        ({"warmup_steps": -1}, r"schedule.warmup_steps must not be negative; not -1"),
    ],
)
def test_what_cannot_be_is_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        check(replace(WSD, **change))
    check(WSD)
