import numpy as np
import pytest

from isoflop.scaling.table.schedules.schedule import Schedule, learning_rate


@pytest.mark.parametrize(
    "schedule",
    [Schedule(), Schedule("wsd", 7, 0.3), Schedule("wsd", 90, 0.5), Schedule("constant", 5), Schedule("cosine", 3)],
    ids=str,
)
@pytest.mark.parametrize("steps", [1, 5, 100])
def test_the_rates_of_a_run_are_those_of_its_steps(schedule, steps):
    assert (schedule.rates(steps, 0.3) == [0.3 * learning_rate(schedule, k, steps)[0] for k in range(steps)]).all()


def test_schedules_of_other_programs():
    exponential = Schedule("wsd", 2160, 4000 / 24000, "exponential", 0.1).rates(24_000, 3e-4)
    assert exponential[19_999] == 3e-4
    assert exponential[23_904] == pytest.approx(3.170452527640976e-05)
    linear = Schedule("wsdld", 2160, 4000 / 24000, final_fraction=0.1).rates(24_000, 3e-4)
    assert linear[23_904] == pytest.approx(3.648e-05)
    falls = Schedule("wsdcon", 2160, 0.5, final_fraction=0.3).rates(16_000, 3e-4)
    np.testing.assert_allclose(falls[[7_999, 8_000, 15_999]], [3e-4, 9e-5, 9e-5])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"name": "wsdd"}, "schedule 'wsdd' is not known"),
        ({"cooldown_shape": "sqrt"}, "cooldown 'sqrt': one of"),
        ({"cooldown_fraction": 1.2}, "cooldown_fraction of a schedule must lie between 0 and 1, not 1.2"),
        ({"cooldown_shape": "exponential"}, "needs a final_fraction above 0"),
    ],
)
def test_what_no_schedule_is(given, message):
    with pytest.raises(ValueError, match=message):
        Schedule(**given)


def test_a_schedule_in_words():
    assert str(Schedule("wsd", 100)) == "wsd, cools down over the last 20%"
    assert str(Schedule("cosine", 100)) == "cosine"
