"""What the report says in words."""

from types import SimpleNamespace

import pytest

from isoflop.analysis.sections import _allocation

SPANS = {
    (0.51, 0.57): " By this law the best model size grows as C^0.543 [0.510, 0.570] and the best number of tokens as "
    "C^0.481 [0.510, 0.570].",
    (1e-6, 6446.0): " How to split compute is not known: a may be anything from 1e-06 to 6.4e+03.",
    (-0.1, 0.4): " How to split compute is not known: a may be anything from -0.1 to 0.4.",
}


@pytest.mark.parametrize("span", SPANS)
def test_an_exponent_is_quoted_where_its_interval_tells_it(span):
    optimum = SimpleNamespace(exponents=lambda: {"a": 0.543, "b": 0.481})
    draws = SimpleNamespace(interval=lambda name, level: span)
    e = SimpleNamespace(optimum=optimum, draws=draws, fit=SimpleNamespace(problem=SimpleNamespace(tied=False)))
    assert _allocation(e) == SPANS[span]
