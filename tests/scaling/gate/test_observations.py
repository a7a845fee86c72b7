"""Pairs of a table, in their order, with the slope of the baseline and the speed of each."""

import numpy as np
import pandas as pd
import pytest

from isoflop.scaling.fitting.fit import FitError
from isoflop.scaling.gate.discrepancy import Discrepancy
from isoflop.scaling.gate.observations import baseline_slope, pair_table
from isoflop.scaling.laws.cost import Cost
from isoflop.scaling.table.conventions import points
from tests.support.fits.simulated import BASE, cheaper, two_arms


def split(table):
    parts = [table[table["arm"] == arm] for arm in ("rival", "base")]
    return [points(part) for part in parts], tuple(parts)


def test_the_slope_is_that_of_the_baselines_law():
    (_, base), _ = split(two_arms(cheaper(1.3), seed=0, noise=1e-6))
    slope = baseline_slope(base, None)
    flops = np.array([1e13, 1e14])
    step = 1e-3
    losses = [np.log(BASE.optimal(flops * np.exp(s), Cost()).loss) for s in (-step, step)]
    assert slope.at(flops) == pytest.approx((losses[0] - losses[1]) / (2 * step), rel=0.01)
    assert "chinchilla" in slope.source


def test_with_less_it_is_a_line_or_learnt_or_assumed():
    frame = pd.DataFrame({"n_params": [1e6, 2e6], "tokens": [1e8, 2e8], "loss": [3.0, 2.8]})
    two = points(frame)
    assert baseline_slope(two, None).at(np.array([1e15])) == pytest.approx(np.log(3 / 2.8) / np.log(4))
    one = points(frame.iloc[:1])
    learnt = Discrepancy(1, 0.1, 9, 2, 9, compute=(1e14, 1e16), slopes=(0.07, 0.05))
    assert baseline_slope(one, learnt).at(np.array([1e15])) == pytest.approx(0.06)
    assert baseline_slope(one, None).assumed
    with pytest.raises(FitError, match="no saving"):
        baseline_slope(points(frame.assign(loss=[2.8, 3.0])), None)


def test_pairs_and_what_they_cost():
    table = two_arms(cheaper(1.3), seed=0)
    table["seed"] = np.tile([1, 0, 1, 0], 6)
    table["tokens_per_second"] = np.where(table["arm"] == "rival", 2e4, 1e4)
    (ours, theirs), rows = split(table)
    slope = baseline_slope(theirs, None)
    made = pair_table(ours, theirs, rows, slope, 1e15)
    assert len(made.flops) == 12
    assert made.same_seed
    assert made.spent == pytest.approx(2 * made.flops, rel=0.05)
    assert made.speed == pytest.approx(np.log(2))
    assert made.observations.x == pytest.approx(np.log(made.flops / 1e15))
    assert len(np.unique(made.observations.cluster)) == 2  # a seed shares its noise
    assert (np.diff(made.flops[:6]) > -1e-9 * made.flops[0]).all()  # by seed, then by compute
    assert made.unmatched == (0, 0)
    assert len(made.cells) == 3


def test_runs_without_a_partner_and_without_a_speed():
    table = two_arms(cheaper(1.3), seed=0)
    table = table.drop(table[table["arm"] == "base"].index[-3:])
    (ours, theirs), rows = split(table)
    made = pair_table(ours, theirs, rows, baseline_slope(theirs, None), 1e15)
    assert made.unmatched == (3, 0)
    assert np.isnan(made.speed).all()
    assert len(np.unique(made.observations.cluster)) == 9


def test_runs_that_differ_in_a_setting_are_counted():
    table = two_arms(cheaper(1.3), seed=0)
    (ours, theirs), rows = split(pd.concat([table, table], ignore_index=True).assign(seed=0))
    assert pair_table(ours, theirs, rows, baseline_slope(theirs, None), 1e15).repeated == 12


def test_the_speed_of_a_run_is_that_of_its_end_wherever_its_rows_are():
    table = two_arms(cheaper(1.2), seed=0)
    table["run_id"] = [f"r{i}" for i in range(len(table))]
    table["tokens_per_second"] = np.linspace(1e3, 2e3, len(table))
    early = table.assign(tokens=table["tokens"] / 2, tokens_per_second=5.0)
    (ours, theirs), rows = split(table)
    slope = baseline_slope(theirs, None)
    ends = pair_table(ours, theirs, rows, slope, 1e15).speed
    assert np.isfinite(ends).all()
    for both in ([early, table], [table, early]):
        _, curves = split(pd.concat(both, ignore_index=True))
        assert pair_table(ours, theirs, curves, slope, 1e15).speed.tolist() == ends.tolist()
