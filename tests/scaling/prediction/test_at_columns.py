"""Forecasts by laws of further columns: which laws read them, what is said of their weights."""

import numpy as np
import pytest

from isoflop.scaling.prediction.at_columns import _alike, _readers


@pytest.mark.parametrize(
    ("share", "said"), [([0.5, 0.5], True), ([1.0], False), ([0.3, 0.7], False), ([0.4, 0.4, 0.2], False)]
)  # fmt: skip
def test_laws_that_no_held_out_run_weighs_are_said_to_weigh_the_same(share, said):
    assert bool(_alike(np.array(share))) == said


@pytest.mark.parametrize(
    ("at", "said"),
    [
        ({"n_params": 1e6, "tokens": 1e8}, r"say --n-params 1e\+06 --tokens 1e\+08, without --at"),
        ({"flops": 1e14}, r"say --flops 1e\+14, without --at"),
        ({"n_params": 1e6, "colour": 3.0}, "no law of the catalogue reads n_params, colour"),
    ],
)
def test_who_asks_for_columns_that_no_further_law_reads_is_told_how_to_ask(at, said):
    with pytest.raises(ValueError, match=said):
        _readers(at)
