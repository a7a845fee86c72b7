"""Matched runs of two arms, as text."""

import numpy as np
import pytest

from isoflop.scaling.arms.matched import Matched


def test_pairs_that_differ_by_a_share():
    ends = (float(np.log(0.8)), float(np.log(1.5)))
    found = Matched("a", "b", 1e20, 2.0, 2.2, 4, float(np.log(1.25)), ends, 0.2, (0, 0), 0.9)
    assert "4 pairs differ by +25.00% [-20.00%, +50.00%]" in str(found)
    assert found.to_dict()["difference"] == pytest.approx(np.log(1.25))
