"""Forecasts by laws of further columns: what is said of their weights."""

import numpy as np
import pytest

from isoflop.scaling.prediction.at_columns import _alike


@pytest.mark.parametrize(
    ("share", "said"), [([0.5, 0.5], True), ([1.0], False), ([0.3, 0.7], False), ([0.4, 0.4, 0.2], False)]
)  # fmt: skip
def test_laws_that_no_held_out_run_weighs_are_said_to_weigh_the_same(share, said):
    assert bool(_alike(np.array(share))) == said
