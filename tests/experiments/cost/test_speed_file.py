"""The rates of the formula: those of scipy's non-negative least squares, without its import."""

import numpy as np
import pytest
from scipy.optimize import nnls

from isoflop.experiments.cost.speed_file import _not_negative


def test_rates_are_the_least_squares_of_at_least_zero():
    rng, bound = np.random.default_rng(0), 0
    for shapes in range(3, 30):
        work = rng.lognormal(0, 2, (shapes, 3)) * np.where(rng.random((shapes, 3)) < 0.8, 1, -1)
        expected, _ = nnls(work, np.ones(shapes))
        assert _not_negative(work) == pytest.approx(expected, rel=1e-6, abs=1e-9)
        bound += int((expected == 0).any())
    assert 3 < bound < 27, "rates at zero and rates above it"
