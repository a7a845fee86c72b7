from types import SimpleNamespace

import numpy as np
import pytest

from isoflop.scaling.table.schedules.schedule import DECAYS, NAMED, SCHEDULES, Schedule, learning_rate


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


@pytest.mark.parametrize("name", NAMED)
def test_every_schedule_has_rates_that_end_where_it_says(name):
    schedule = Schedule(name, 10, 0.3, final_fraction=0.1)
    rates = schedule.rates(1000)
    assert rates[:10] == pytest.approx(np.arange(1, 11) / 10)
    assert rates[-1] == pytest.approx(1.0 if name == "constant" else 0.1, abs=0.03)


def test_a_decay_is_a_schedule_and_what_is_none_has_no_rates(monkeypatch):
    assert {*DECAYS} < {*SCHEDULES} < {*NAMED}
    assert SCHEDULES == ("wsd", "cosine", "linear", "constant")
    other = SimpleNamespace(**vars(Schedule("wsd", 2)) | {"name": "inverse-sqrt"})
    with pytest.raises(ValueError, match="schedule 'inverse-sqrt' has no rates: its decay belongs in DECAYS"):
        learning_rate(other, 5, 10)
    monkeypatch.setitem(DECAYS, "inverse-sqrt", lambda share: 1 - share**0.5)
    assert learning_rate(other, 2, 10) == (1.0, "decay")
