"""Which runs far off a law are warned of."""

import numpy as np
import pytest

from isoflop.scaling.findings.residual_checks import FAR, GAP, _beyond_the_gap
from isoflop.scaling.fitting.search import robust_scale

FREE = 5  # parameters of a law whose residuals these could be


def warned(sizes: np.ndarray) -> np.ndarray:
    return np.array([_beyond_the_gap(one, FAR * robust_scale(one, FREE)).any() for one in sizes])


def test_a_run_is_warned_of_beyond_the_gap_alone():
    size = np.linspace(0.1, 2.0, 43)
    for far, expected in ((1.02 * GAP, True), (0.98 * GAP, False)):
        size[7] = 2.0 * far
        assert _beyond_the_gap(size, 1.0)[7] == expected
    assert not _beyond_the_gap(size, 3.0 * GAP).any()


@pytest.mark.parametrize(("tails", "least", "most"), [("normal", 0.0, 0.001), ("t(3)", 0.002, 0.025)])
def test_heavy_tails_rarely_have_such_a_gap(tails, least, most):
    """Of 1,000 sets of 43 residuals: .012 for t(3), .043 were the gap 3."""
    rng = np.random.default_rng(0)
    drawn = rng.standard_t(3, (1000, 43)) if tails == "t(3)" else rng.normal(size=(1000, 43))
    assert least <= warned(np.abs(drawn)).mean() <= most
