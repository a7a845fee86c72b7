"""The Finding that curves of several sizes, divided by their ends, are not one curve."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from isoflop.analysis.evidence import Evidence
from isoflop.scaling.prediction.curves.collapse import LEVEL, collapse_findings, collapses
from isoflop.scaling.prediction.curves.watch import watch_curves
from isoflop.scaling.table.read import read_table
from tests.support.fits.simulated_curves import ladder

SIZES = (2.5e3, 5e3, 1e4)


def test_one_curve_collapses_and_a_size_with_another_rate_does_not():
    sound = ladder(np.random.default_rng(1), SIZES, 3)
    (one,) = collapses(sound)
    assert (one.sizes, one.runs, one.ratio) == (SIZES, 9, 20.0)
    assert one.p > LEVEL
    assert ", collapse: sizes differ by" in str(one)
    assert not collapse_findings([one])
    off = collapses(ladder(np.random.default_rng(1), SIZES, 3, off=4.0))
    assert off[0].p < LEVEL
    (finding,) = collapse_findings(off)
    assert finding.code == "no_collapse"
    assert "3 sizes at 20 tokens a parameter" in finding.message


def test_the_largest_size_is_named_where_the_others_fix_the_floor():
    off = collapses(ladder(np.random.default_rng(2), (2.5e3, 5e3, 1e4, 2e4), 3, off=4.0))
    assert off[0].worst == 2e4


@pytest.mark.parametrize(
    "change",
    [
        lambda runs: [run for run in runs if run.run_id.endswith("-0")],  # one seed
        lambda runs: [run for run in runs if run.n_params < 9e3],  # two sizes
        lambda runs: [replace(run, tokens=float("nan")) for run in runs],
        lambda runs: [replace(run, done=False) for run in runs],
        lambda runs: [replace(run, tokens=run.tokens * run.n_params / 2.5e3) for run in runs],  # other ratios
        lambda runs: [replace(run, rates=run.rates[::-1] if run.n_params > 9e3 else run.rates) for run in runs],
        lambda runs: [replace(run, arm=f"{run.n_params}") for run in runs],
    ],
)
def test_what_cannot_be_compared_is_not_judged(change):
    assert collapses(change(ladder(np.random.default_rng(3), SIZES, 2))) == []


def test_a_sweep_of_rates_is_judged_by_the_best_of_each_size():
    runs = ladder(np.random.default_rng(4), SIZES, 2)
    worse = [replace(run, run_id=f"{run.run_id}w", rates=2 * run.rates, loss=1.1 * run.loss) for run in runs]
    (one,) = collapses([*worse, *runs])
    assert (one.runs, one.p) == (6, collapses(runs)[0].p)


@pytest.mark.slow
def test_watch_and_report_say_it(tmp_path):
    runs = ladder(np.random.default_rng(5), SIZES, 2, off=4.0)
    rows = [
        (r.run_id, r.n_params, s + 1, r.tokens * (s + 1) / r.horizon, r.rates[s], loss)
        for r in runs for s, loss in zip(r.steps, r.loss, strict=True)
    ]  # fmt: skip
    path = tmp_path / "log.csv"
    pd.DataFrame(rows, columns=["run_id", "n_params", "step", "tokens", "lr", "loss"]).to_csv(path, index=False)
    table = read_table(path)
    seen = watch_curves(table)
    assert "no_collapse" in [finding.code for finding in seen.findings]
    assert "divided by their ends, do not collapse" in str(seen)
    assert seen.to_dict()["collapse"][0]["level"] == LEVEL
    assert [f.code for f in Evidence(table)._of_curves()] == ["no_collapse"]
    assert Evidence(table.groupby("run_id").tail(1))._of_curves() == []
