"""Numbers in the tables of the report."""

import pytest

from isoflop.analysis.markdown import pair

PAIRS = {
    (0.512, 0.577): "[0.512, 0.577]",
    (4.1e-5, 6.2e-5): "[0.000041, 0.000062]",
    (0.50001, 0.50052): "[0.50001, 0.50052]",
    (0.5, 0.5 + 1e-13): "(by its form)",
    (0.0, 0.0): "(by its form)",
    (0.0, 449368.81): "[0.000, 4.49e+05]",
}


@pytest.mark.parametrize(("low", "high"), PAIRS)
def test_an_interval_has_the_digits_that_tell_its_ends_apart_and_one_of_the_form_has_none(low, high):
    assert pair(low, high) == PAIRS[low, high]
