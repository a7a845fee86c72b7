"""Hours of devices, dollars and joules from seconds; and the cap that refuses a launch."""

import pytest

from isoflop.experiments.compose.messages import UsageError
from isoflop.experiments.config import WhereSpec
from isoflop.experiments.cost.price import check_cap, price


def test_devices_are_paid_for_from_the_first_second_to_the_last():
    paid = price(1800.0, 8, WhereSpec(price_per_hour=2.5, watts=700.0))
    assert (paid.devices, paid.device_hours, paid.dollars, paid.joules) == (8, 4.0, 10.0, 4 * 3600 * 700.0)
    assert str(paid) == "4 device hours on 8, about $10.00, about 10.1 MJ"


def test_what_is_not_stated_is_not_guessed():
    paid = price(3600.0, 1, WhereSpec())
    assert (paid.dollars, paid.joules) == (None, None)
    assert str(paid) == "1 device hours on 1"


def test_a_launch_above_the_cap_is_refused_in_one_line_with_the_remedy():
    where = WhereSpec(price_per_hour=2.0, max_dollars=5.0)
    check_cap(price(9000.0, 1, where), where)
    with pytest.raises(
        UsageError, match=r"where\.max_dollars=5: this would cost 3 device hours on 1, about \$6\.00"
    ) as no:
        check_cap(price(10800.0, 1, where), where)
    assert "--dollars 5" in str(no.value)
    assert "\n" not in str(no.value)


def test_a_cap_without_a_price_is_refused():
    with pytest.raises(UsageError, match=r"where\.price_per_hour"):
        check_cap(price(1.0, 1, WhereSpec()), WhereSpec(max_dollars=5.0))
