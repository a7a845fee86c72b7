"""Own trained mixtures: a best one that is known exactly, and one that was predicted before it was trained."""

import numpy as np
import pytest

from isoflop.scaling.mixtures.mix import mix
from isoflop.scaling.table.read import read_table
from isoflop.scaling.table.runs import final_rows
from tests.support.root import RESULTS

pytestmark = pytest.mark.slow
TOKENS = 3_600_000  # three times the longest of mixture_tiny


def test_the_best_mixture_of_a_language_and_three_twins_is_a_quarter():
    found = mix(read_table(RESULTS / "mixture_known.parquet"), {"one": 1.0, "three": 3.0})
    assert found.domains == ("one", "three")
    assert found.intervals[0, 0] <= 0.25 <= found.intervals[0, 1]
    assert np.ptp(found.intervals[0]) < 0.2
    assert found.weights[0] == pytest.approx(0.25, abs=0.05)
    assert min(rank for rank, _ in found.held_out.values()) > 0.98


@pytest.fixture(scope="module")
def predicted():
    return mix(read_table(RESULTS / "mixture_tiny.parquet"), tokens=TOKENS)


@pytest.fixture(scope="module")
def measured():
    """Runs of three seeds: the best mixture predicted, natural proportions, the best of those tried."""
    return final_rows(read_table(RESULTS / "mixture_tiny_held_out.parquet")).sort_values(["weight_code", "seed"])


def test_what_was_trained_is_what_the_table_predicts(predicted, measured):
    trained = measured[[f"weight_{name}" for name in predicted.domains]].drop_duplicates().to_numpy()
    runs = final_rows(read_table(RESULTS / "mixture_tiny.parquet"))
    longest = runs[runs["horizon_tokens"] == runs["horizon_tokens"].max()]
    tried = longest.loc[longest["loss"].idxmin(), [f"weight_{name}" for name in predicted.domains]].to_numpy(float)
    for one in (predicted.weights, predicted.natural, tried):
        assert np.abs(trained - one).max(axis=1).min() < 6e-4  # shares of the study file have three digits


def test_the_gain_of_the_predicted_mixture_is_inside_its_interval(predicted, measured):
    names = [f"weight_{name}" for name in predicted.domains]
    loss = {}
    for name, one in (("best", predicted.weights), ("natural", predicted.natural)):
        rows = measured[(measured[names] - one).abs().max(axis=1) < 6e-4]
        assert len(rows) == 3
        loss[name] = rows["loss"].to_numpy()
    gain = loss["natural"] - loss["best"]
    error = np.sqrt(np.var(loss["natural"], ddof=1) / 3 + np.var(loss["best"], ddof=1) / 3)
    lo, hi = predicted.gain_interval
    assert gain.mean() > 0
    assert lo - 2 * error <= gain.mean() <= hi + 2 * error
    assert hi - lo <= np.ptp(predicted.tried["loss"])
