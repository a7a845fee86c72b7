"""`status --watch TABLE`: runs that leave the band of their siblings."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from isoflop.commands.runs import app
from isoflop.scaling.prediction.curves.curve_model import curve_model
from isoflop.scaling.prediction.curves.watch import cusum_bound, left_at, watch_run
from isoflop.scaling.table.schedules.schedule import Schedule
from tests.support.fits.simulated_curves import PEAK, cut, simulate, study


@pytest.fixture(scope="module")
def model():
    return curve_model(study(np.random.default_rng(5), (5e3, 1e4, 2e4), 2))


def test_a_sound_run_stays_and_its_end_is_forecast(model):
    run = simulate("sound", 1e4, np.random.default_rng(6))
    seen = watch_run(model, cut(run, 0.6))
    assert seen.left_at is None
    assert seen.end is not None
    assert seen.end[1] < run.loss[-1] < seen.end[2]
    assert "in its band" in seen.line()
    assert seen.chart().count("\n") == 8


@pytest.mark.slow
@pytest.mark.parametrize(("factor", "cause"), [(1.15, "the loss rises"), (0.85, "below its band")])
def test_a_run_that_leaves(model, factor, cause):
    run = simulate("faulty", 1e4, np.random.default_rng(7))
    late = run.steps > 900
    seen = watch_run(model, replace(run, loss=np.where(late, run.loss * factor, run.loss)))
    assert seen.left_at == run.steps[late][0] + 1
    assert cause in seen.cause


@pytest.mark.slow
def test_no_cooldown_where_one_was_declared(model):
    run = simulate(
        "stays", 2e4, np.random.default_rng(8), steps=3000, rates=Schedule("constant", 100).rates(3000, PEAK)
    )
    seen = watch_run(model, run)
    assert seen.left_at is not None
    assert "was the rate lowered as declared?" in seen.cause


@pytest.mark.slow
def test_what_looks_like_the_fault_is_said(model):
    draw = np.random.default_rng(11)
    rates = Schedule("wsd", 100).rates(2000, PEAK)
    fast = simulate("fast", 1e4, draw, rates=np.where(np.arange(2000) >= 800, 4 * rates, rates))
    assert (
        watch_run(model, cut(fast, 0.6)).cause == "as if its rate were about 4 times what is declared: was it changed?"
    )
    run = simulate("shuffled", 1e4, draw)
    jump = np.where(run.steps >= 800, 0.1 * np.exp(-(run.steps - 800) / 60), 0.0)
    shuffled = watch_run(model, replace(run, loss=run.loss * np.exp(jump)))
    assert shuffled.cause == "a jump that passes: bad data for a while"
    first = watch_run(model, cut(replace(run, loss=run.loss * np.exp(jump)), 0.41))
    assert "; or: " in first.cause  # a row after it began, nobody can tell


def test_bounds_hold_what_they_promise():
    draw = np.random.default_rng(9)
    assert np.mean([left_at(draw.standard_normal(40), 1e6) is not None for _ in range(400)]) < 0.05
    assert 4 < cusum_bound(40) < 8
    assert left_at(np.zeros(0), 5.0) is None


def faulty(run):
    return run.loss * np.where((run.run_id == "20000-1") & (run.steps > 900), 1.2, 1.0)


@pytest.mark.slow
def test_watch_a_table(tmp_path):
    runs = study(np.random.default_rng(10), (5e3, 2e4), 2)
    rows = [
        {"run": r.run_id, "step": s + 1, "lr": r.rates[s], "loss": x, "n_params": r.n_params, "tokens": 512 * (s + 1)}
        for r in runs for s, x in zip(r.steps, faulty(r), strict=True)
    ]  # fmt: skip
    path = tmp_path / "log.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    reported = CliRunner().invoke(app, ["status", str(path), "--watch"])
    assert reported.exit_code == 0, reported.output
    assert "20000-1" in reported.output
    assert "LEFT ITS BAND at step" in reported.output
    reported = CliRunner().invoke(app, ["status", str(path), "--watch", "--json"])
    answer = json.loads(reported.stdout)
    assert answer["left_band"]
    assert [f["code"] for f in answer["findings"]] == ["left_band"] * len(answer["left_band"])
