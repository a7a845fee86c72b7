"""The direct law of a score: recovered where it holds, refused where no run is above chance."""

import numpy as np
import pandas as pd
import pytest

from isoflop.scaling.fitting.fit import FitError
from isoflop.scaling.prediction.direct import AboveChance, direct
from isoflop.scaling.table.conventions import points

TRUE = AboveChance(A=6.0, alpha=0.05, top=-np.log(0.75))
FLOPS = np.geomspace(1e17, 1e21, 12)


def scored(noise: float = 0.0, seed: int = 0, flops: np.ndarray = FLOPS) -> tuple[pd.DataFrame, np.ndarray]:
    """Runs, and scores whose error is `noise`."""
    table = pd.DataFrame({"n_params": np.sqrt(flops / 120), "tokens": 20 * np.sqrt(flops / 120), "loss": 3.0})
    return table, 0.25 + np.exp(-TRUE(flops)) + np.random.default_rng(seed).normal(0, noise, len(flops))


def test_a_law_without_noise_is_recovered_and_extrapolates():
    table, score = scored()
    found = direct(points(table), score, 0.25)
    assert found.fit.law.values() == pytest.approx(TRUE.values(), rel=1e-4)
    assert found.at(1e23)["accuracy"] == pytest.approx(0.25 + np.exp(-TRUE(1e23)), rel=1e-5)
    assert found.error < 1e-7


def test_the_unit_of_compute_is_carried_over():
    assert TRUE.rescaled({"C": 1e18})(2.0) == pytest.approx(TRUE(2e18))


@pytest.mark.slow
def test_the_interval_holds_the_score_under_noise_in_most_studies():
    """Twenty studies: a 90% interval misses 6 of 20 in 1.1% of such tests; the seeds are fixed."""
    true, held = 0.25 + float(np.exp(-TRUE(1e22))), 0
    for seed in range(20):
        table, score = scored(0.005, seed)
        one = direct(points(table), score, 0.25).at(1e22)
        held += one["lo"] <= true <= one["hi"]
        assert 0.25 <= one["lo"] <= one["accuracy"] <= one["hi"] <= 1.0
    assert held >= 15


def test_scores_near_chance_say_little():
    """A score just above chance may be off by half of what it has above it: its logarithm alone says nothing."""
    table, score = scored(flops=np.geomspace(1e3, 1e21, 24))
    near = score < 0.28
    assert near.sum() >= 4
    wrong = np.where(near, 0.25 + (score - 0.25) / 2, score)
    assert direct(points(table), wrong, 0.25).at(1e22)["accuracy"] == pytest.approx(
        0.25 + np.exp(-TRUE(1e22)), abs=0.01
    )


def test_standard_errors_weigh_the_runs():
    table, score = scored()
    off = np.where(np.arange(12) % 2, score + 0.05, score)
    error = np.where(np.arange(12) % 2, 1.0, 0.001)
    found = direct(points(table), off, 0.25, error)
    assert found.fit.law.values() == pytest.approx(TRUE.values(), rel=0.1)


def test_runs_at_chance_are_left_out_and_counted_and_too_few_are_refused():
    table, score = scored()
    score[:3] = (0.25, 0.2, 0.1)
    assert direct(points(table), score, 0.25).left_out == 3
    with pytest.raises(FitError, match=r"2 runs score above chance \(0.25\), and 4 are needed"):
        direct(points(table), np.where(np.arange(12) < 10, 0.25, score), 0.25)
    with pytest.raises(FitError, match="guessing already scores 1"):
        direct(points(table), score, 1.0)
