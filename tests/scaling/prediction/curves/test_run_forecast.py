"""`predict --run`: forecasts of one run by its curve and those of its siblings."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from isoflop.__main__ import app
from isoflop.scaling.imports.assemble import ImportOptions
from isoflop.scaling.imports.read import import_source
from isoflop.scaling.prediction.curves.curve_model import curve_model
from isoflop.scaling.prediction.curves.run_forecast import begun, forecast_run, goes_on, predict_run
from isoflop.scaling.prediction.forecast import PredictError
from isoflop.scaling.table.read import read_table
from isoflop.scaling.table.schedules.read_curves import between, read_curves
from isoflop.scaling.table.schedules.schedule import Schedule
from tests.support.fits.simulated_curves import cut, loss_of, simulate, study
from tests.support.root import RESULTS


@pytest.fixture(scope="module")
def model():
    return curve_model(study(np.random.default_rng(1), (5e3, 1e4, 2e4), 2))


def test_a_young_run_keeps_its_level_and_borrows_its_shape(model):
    run = simulate("young", 4e4, np.random.default_rng(2))
    truth = run.loss[-1]
    part = begun(run, 700)
    found = forecast_run(model.with_run(part), part, siblings=6)
    assert (found.at_step, found.last_step) == (2000, int(part.steps[-1]) + 1)
    assert found.loss == pytest.approx(truth, rel=0.04)
    lo, hi = found.intervals[0.95]
    assert lo < truth < hi
    assert list(found.band) == ["step", "loss", "lo", "hi", "learning_rate"]
    assert found.band["step"].iloc[-1] == 2000
    high = replace(part, loss=part.loss * 1.05)
    assert forecast_run(model.with_run(high), high).loss > found.loss * 1.005


def test_what_a_model_shares_with_another_run_of_it_changes_no_bit(model):
    part = begun(simulate("young", 4e4, np.random.default_rng(2)), 700)
    model.with_run(replace(part, loss=part.loss * 1.05)).forecast(part, part.steps)
    shared, apart = model.with_run(part), replace(model.with_run(part), known={})
    assert shared.known is model.known
    steps = np.array([900, 1400, 1999])
    one, other = (kept.forecast(part, steps) for kept in (shared, apart))
    assert np.array_equal(one.log_loss, other.log_loss)
    assert np.array_equal(one.sd, other.sd)


def test_another_way_to_go_on(model):
    run = begun(simulate("what if", 1e4, np.random.default_rng(3)), 1000)
    with_run = model.with_run(run)
    now = forecast_run(with_run, run, schedule="wsd", cooldown=0.2, at=1250)
    stay = forecast_run(with_run, run, schedule="constant", at=1250)
    assert now.loss < stay.loss
    rates = np.append(run.rates[:1000], now.band["learning_rate"].iloc[-1])
    assert rates[-1] < 0.2 * rates.max()
    assert now.loss == pytest.approx(loss_of(now_rates(run), np.array([1249]), 1e4)[0], rel=0.04)


def test_a_rate_falls_to_where_those_of_the_table_end(model):
    run = begun(simulate("what if", 1e4, np.random.default_rng(3)), 1000)
    peak = run.rates.max()
    kept = [replace(r, rates=np.maximum(r.rates, 0.1 * peak)) for r in model.runs]  # none falls below a tenth
    for schedule in ("wsd", "wsdld", "cosine", "linear"):
        notes: list[str] = []
        rates, said = goes_on(run, 1250, 1000, schedule, None, notes, None, kept)
        assert 0.1 <= rates[-1] / peak < 0.12
        assert f"to {0.1 * peak:.3g}" in said
        assert any("falls to 0.1 of its peak, as in the runs of the table" in note for note in notes)
        rates, said = goes_on(run, 1250, 1000, schedule, None, notes, 0.3, kept)
        assert 0.3 <= rates[-1] / peak < 0.32
    notes = []
    assert goes_on(run, 1250, 1000, "wsd", None, notes, None, model.runs)[0][-1] < 0.01 * peak
    assert any("the rate falls to zero" in note for note in notes)
    rates, said = goes_on(run, 1250, 1000, "wsdcon", 0.2, [], 0.3, kept)
    assert set(rates[1000:]) == {0.3 * peak}
    with pytest.raises(ValueError, match=r"--schedule wsdcon falls to a rate .* with --final-fraction"):
        goes_on(run, 1250, 1000, "wsdcon", 0.2, [], None, kept)
    for schedule in (None, "constant"):
        with pytest.raises(ValueError, match=r"--final-fraction is of"):
            goes_on(run, 1250, 1000, schedule, None, [], 0.3, kept)
    with pytest.raises(ValueError, match=r"final_fraction of a schedule must lie between 0 and 1, not 2"):
        goes_on(run, 1250, 1000, "wsd", None, [], 2.0, kept)


def now_rates(run):
    return np.concatenate([run.rates[:1000], run.rates[999] * (1 - np.sqrt(np.arange(250) / 250))])


@pytest.mark.slow
def test_of_the_committed_study(model):
    table = read_table(RESULTS / "quick.parquet")
    found = predict_run(table, "4e1d317d8ef8", until=7000)
    truth = table[(table["run_id"] == "4e1d317d8ef8") & table["final"]]["loss"].iloc[0]
    assert abs(np.log(found.loss / truth)) < 0.03
    assert {"loss", "intervals", "at_step", "schedule", "band", "findings"} <= set(found.to_dict())
    assert found.conventions == {"params": "matrices", "loss_unit": "nats/token"}
    whole = simulate("whole", 1e4, np.random.default_rng(0))
    with pytest.raises(PredictError, match="is at step 2,000: its end, step 2,000 is behind it; --at STEP asks"):
        forecast_run(model.with_run(whole), whole)


def test_rates_of_a_column():
    assert between(np.array([0, 2, 4, 6, 8, 10]), np.array([3.0, 3, 3, 1, 1, 1]), 11).tolist() == [3.0] * 6 + [1.0] * 5
    rates = between(np.array([2, 4, 6]), np.array([3.0, 2, 1]), 9)
    assert rates.tolist() == [3.0, 3.0, 3.0, 2.5, 2.0, 1.5, 1.0, 1.0, 1.0]


@pytest.mark.slow
def test_curves_of_another_program(tmp_path):
    runs = study(np.random.default_rng(4), (5e3, 2e4), 1)
    rows = [
        {"run": r.run_id, "step": s + 1, "lr": r.rates[s], "loss": x, "n_params": r.n_params, "tokens": 512 * (s + 1)}
        for r in runs for s, x in zip(r.steps, r.loss, strict=True)
    ]  # fmt: skip
    path = tmp_path / "log.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    found = read_curves(read_table(path))
    assert [len(run.loss) for run in found.runs] == [len(run.loss) for run in runs]
    np.testing.assert_allclose(found.runs[0].rates[150:], runs[0].rates[150:], rtol=0.1, atol=1e-3)
    reported = CliRunner().invoke(app, ["predict", str(path), "--run", "5000-0", "--at", "1500", "--json"])
    assert reported.exit_code == 0, reported.output
    pd.DataFrame(rows).drop(columns="lr").to_csv(path, index=False)
    reported = CliRunner().invoke(app, ["predict", str(path), "--run", "5000-0", "--at", "1500"])
    assert "no column of learning rates" in str(reported.exception)


def logged(tmp_path, change=None):
    """A CSV of four runs of 1,000 steps and r4, which is at step 500; `change` edits the rows."""
    rows = []
    for k in range(5):
        for step in range(50, 1001 if k < 4 else 501, 50):
            rate = 0.01 * min(1, step / 100) * (1 if step < 800 else (1000 - step) / 200)
            noise = 1 + 0.002 * np.sin(7 * k + step)
            rows.append((f"r{k}", step, 1e6 * 2**k, 1e4 * step, rate, (2 + 5 * (2**k * step) ** -0.2) * noise, 1000))
    table = pd.DataFrame(rows, columns=["run", "step", "n_params", "tokens", "lr", "loss", "max_steps"])
    path = tmp_path / "log.csv"
    (table if change is None else change(table)).to_csv(path, index=False)
    return path


def typed(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.mark.slow
def test_what_the_law_misses_in_all_runs_is_learnt_from_the_others():
    def bent(run):
        return replace(run, loss=run.loss * np.exp(0.05 * np.sin(2 * np.log(run.steps + 1.0))))

    draw = np.random.default_rng(12)
    others = curve_model([bent(run) for run in study(draw, (5e3, 4e4), 3)])
    whole = bent(simulate("left out", 1e4, draw, steps=3000))
    young = cut(whole, 0.3)
    end = np.array([2999])
    assert others.deviation.shared > 0.01
    off, without = (
        np.abs(np.log(model.with_run(young).forecast(young, end).loss[0] / whole.loss[-1]))
        for model in (others, replace(others, knots=others.knots[:0]))
    )
    assert off < 0.01 < 0.02 < without


def test_branches_of_one_trunk_are_found(tmp_path):
    def branched(table):
        trunk = table[table["run"] == "r0"]
        branch = trunk.assign(run="branch", loss=trunk["loss"] * np.where(trunk["step"] > 500, 0.98, 1.0))
        return pd.concat([table, branch], ignore_index=True)

    found = read_curves(read_table(logged(tmp_path, branched)))
    trunk = {run.run_id: run.trunk_id for run in found.runs}
    assert trunk["r0"] == trunk["branch"] != trunk["r1"] == "r1"
    assert any("taken as its branches" in note for note in found.notes)


@pytest.mark.slow
def test_an_unfinished_run_of_a_table_goes_on_as_its_siblings_did(tmp_path):
    reported = typed("predict", logged(tmp_path), "--run", "r4")
    assert "at step 1,000 (by its column)" in reported.output
    assert "its rates after step 500 are taken to be those of r0" in reported.output
    assert "left out" not in reported.output
    alone = typed("predict", logged(tmp_path, lambda t: t.assign(lr=t["lr"].where(t["run"] == "r4", 0.005))),
                  "--run", "r4")  # fmt: skip
    assert "taken to stay at 0.01 after step 500" in alone.output
    named = typed("predict", tmp_path / "log.csv", "--run", "r4", "--schedule", "constant")
    assert "note: run r4:" not in named.output
    watched = typed("status", "--watch", logged(tmp_path))
    assert "1 runs watched" in watched.output
    assert "r4 " in watched.output
    answer = json.loads(typed("status", "--watch", tmp_path / "log.csv", "--json").output)
    assert (answer["findings"], answer["conventions"]) == ([], {"params": "as given", "loss_unit": "nats/token"})
    far = typed("predict", tmp_path / "log.csv", "--run", "r4", "--at", "2000000000")
    assert "too far" in str(far.exception)


def without_some(table):
    table["loss"] = table["loss"].mask(table.index.isin([3, 25])).mask(table.index == 40, -1.0)
    return table.assign(step=table["step"].mask(table.index == 85))


@pytest.mark.slow
def test_rows_that_no_law_can_read_are_counted(tmp_path):
    reported = typed("predict", logged(tmp_path, without_some), "--run", "r4").output
    assert "2 rows without a loss are left out" in reported
    assert "1 rows whose loss is no positive number are left out" in reported
    assert "rows have no step or no positive loss: they are left out" in reported
    reported = typed("predict", logged(tmp_path, lambda t: t.drop(columns="tokens")), "--run", "r4")
    assert "at step 1,000" in reported.output  # tokens are not asked for
    half = typed("predict", logged(tmp_path, lambda t: t.assign(step=t["step"] + 0.5)), "--run", "r4")
    assert "50.5 is no step" in str(half.exception)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--run", "4e1d", "--flops", "1e12"], "--run forecasts a run of the table by its curve: leave out --flops"),
        (["--schedule", "wsd", "--flops", "1e12"], "a run's curve, which --run names: leave out --schedule"),
        (["--run", "4e1d", "--at", "x"], "--at x: with --run it is one step"),
    ],
)
def test_options_that_do_not_go_together(options, message):
    reported = CliRunner().invoke(app, ["predict", str(RESULTS / "quick.parquet"), *options])
    assert message in str(reported.exception)


def without_rates(table):
    return table.drop(columns="lr")


def without_some_rates(table):
    return table.assign(lr=table["lr"].mask(table["run"].isin(["r1", "r4"])))


def on_rows_of_training(table):
    """Each row twice: with its loss and no rate, and with its rate and no loss."""
    return pd.concat([table.assign(lr=np.nan), table.assign(loss=np.nan)]).sort_values(["run", "step"], kind="stable")


@pytest.mark.parametrize("change", [without_rates, without_some_rates], ids=lambda change: change.__name__)
def test_the_schedule_that_a_message_requests_is_that_of_runs_without_a_rate(tmp_path, change):
    path = logged(tmp_path, change)
    refused = typed("predict", path, "--run", "r4")
    assert "isoflop predict --run: --schedule NAME" in str(refused.exception)
    given = ["--schedule", "wsdld", "--cooldown", ".2"]
    found = predict_run(read_table(path, keep_unfinished=True), "r4", schedule="wsdld", cooldown=0.2)
    assert typed("predict", path, "--run", "r4", *given).exit_code == 0
    whole = predict_run(read_table(logged(tmp_path), keep_unfinished=True), "r4")
    assert found.loss == pytest.approx(whole.loss, rel=0.02)
    assert found.at_step == whole.at_step == 1000
    told = "2 runs (r1, r4)" if change is without_some_rates else "5 runs (r0, r1, r2, r3, ...)"
    assert f"the table tells no learning rate of {told}: taken to follow wsdld" in str(found)


@pytest.mark.parametrize("schedule", ["constant", "wsd"])
def test_a_run_without_rate_or_plan_follows_the_schedule_to_the_step_in_question(tmp_path, schedule):
    path = logged(tmp_path, lambda table: table.drop(columns=["lr", "max_steps"]))
    found = predict_run(read_table(path), "r4", schedule=schedule, at=1000)
    assert (found.at_step, found.schedule) == (1000, f"by name, {Schedule(schedule)}")
    rates = found.band.set_index("step")["learning_rate"]
    assert rates[500] == rates.max()
    assert (rates[1000] < rates.max()) == (schedule == "wsd")


def test_rates_that_rows_of_training_report_are_those_of_the_evaluations(tmp_path):
    plain, apart = (read_curves(read_table(logged(tmp_path, change))).runs for change in (None, on_rows_of_training))
    for one, other in zip(plain, sorted(apart, key=lambda run: run.run_id), strict=True):
        np.testing.assert_allclose(one.rates, other.rates)
        np.testing.assert_allclose(one.loss, other.loss)


@pytest.mark.parametrize("change", [None, on_rows_of_training], ids=["plain", "apart"])
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_what_import_writes_of_curves_is_forecast_as_its_source(tmp_path, change, suffix):
    def finished(table):
        table = table[table["run"] != "r4"]
        return table if change is None else change(table)

    path = logged(tmp_path, finished)
    made = import_source(path, "auto", ImportOptions(), {})
    made.write(tmp_path / f"made{suffix}")
    assert made.ends["peak_learning_rate"].tolist() == [0.01] * 4
    assert not any("horizons are not reported" in note for note in made.notes)
    one, other = (read_curves(read_table(tmp_path / name)).runs for name in ("log.csv", f"made{suffix}"))
    for ours, theirs in zip(one, other, strict=True):
        np.testing.assert_allclose(ours.rates, theirs.rates)
        np.testing.assert_allclose(ours.loss, theirs.loss)
    again = import_source(tmp_path / f"made{suffix}", "auto", ImportOptions(), {})
    assert again.ends["peak_learning_rate"].tolist() == [0.01] * 4


def test_ends_without_curves_keep_no_rate_along_one_and_planned_steps_of_a_source_are_kept(tmp_path):
    (tmp_path / "runs.csv").write_text("run,n_params,tokens,loss,lr\na,1e7,1e9,3.2,.001\nb,2e7,1e9,3.1,.002\n")
    table = import_source(tmp_path / "runs.csv", "auto", ImportOptions(), {}).table
    assert table["peak_learning_rate"].tolist() == [0.001, 0.002]
    assert not {"learning_rate", "horizon_steps"} & set(table)
    rows = [{"step": k, "eval_loss": 4 - k / 100, "learning_rate": 1e-3} for k in (50, 100)]
    state = {"log_history": rows, "global_step": 100, "max_steps": 100}
    (tmp_path / "trainer_state.json").write_text(json.dumps(state))
    options = ImportOptions(n_params={"": 1e7}, batch_tokens={"": 1e5})
    table = import_source(tmp_path / "trainer_state.json", "auto", options, {}).table
    assert (table["horizon_steps"].tolist(), table["learning_rate"].tolist()) == ([100, 100], [1e-3, 1e-3])
