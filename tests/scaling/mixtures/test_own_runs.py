"""Own trained mixtures: a best one that is known exactly."""

import numpy as np
import pytest

from isoflop.scaling.mixtures.mix import mix
from isoflop.scaling.table.read import read_table
from tests.support.root import RESULTS

pytestmark = pytest.mark.slow


def test_the_best_mixture_of_a_language_and_three_twins_is_a_quarter():
    found = mix(read_table(RESULTS / "mixture_known.parquet"), {"one": 1.0, "three": 3.0})
    assert found.domains == ("one", "three")
    assert found.intervals[0, 0] <= 0.25 <= found.intervals[0, 1]
    assert np.ptp(found.intervals[0]) < 0.2
    assert found.weights[0] == pytest.approx(0.25, abs=0.05)
    assert min(rank for rank, _ in found.held_out.values()) > 0.98
