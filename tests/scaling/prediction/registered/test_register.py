"""Predictions: honest before the run, on the record, scored after it."""

import json

import numpy as np
import pandas as pd
import pytest

from isoflop.scaling.design.simulate import simulate_points
from isoflop.scaling.laws.published import exponent_drift
from isoflop.scaling.prediction.forecast import PredictError, Target, beyond_the_data, forecast_loss
from isoflop.scaling.prediction.predict import predict
from isoflop.scaling.prediction.registered.reading import Reading
from isoflop.scaling.prediction.registered.register import (
    RegistrationError,
    checked_registration,
    data_hash,
    read_registration,
    register,
)
from isoflop.scaling.prediction.registered.score import EARLY, FITTED, score
from isoflop.scaling.table.conventions import points
from tests.support.fits.simulated import BESIROGLU, NOISE, isoflop_table
from tests.support.root import ROOT

pytestmark = pytest.mark.usefixtures("kept_searches")

LAWS = ("chinchilla", "chinchilla-tied")
TARGET = 1e21
LATER = "2999-01-01T00:00:00+00:00"


@pytest.fixture(scope="module")
def table():
    return isoflop_table(BESIROGLU, seed=5)


@pytest.fixture(scope="module")
def reported(table):
    return forecast_loss(table, Target(TARGET), LAWS)


@pytest.fixture
def registered(tmp_path, table, reported):
    table.to_csv(tmp_path / "runs.csv", index=False)
    register(reported, tmp_path / "claim.json", table=tmp_path / "runs.csv")
    return tmp_path


def answers(factor: float = 1.0) -> pd.DataFrame:
    best = BESIROGLU.optimal(TARGET)
    sizes = best.N * np.geomspace(0.25, 4, 7)
    made = simulate_points(BESIROGLU, sizes, TARGET / (6 * sizes), noise=NOISE, seed=9)
    return made.assign(loss=made["loss"] * factor)


def test_the_truth_is_inside_and_intervals_are_nested(reported):
    assert reported.reach == pytest.approx(10)
    lo, hi = reported.intervals[0.95]
    assert lo < float(BESIROGLU.optimal(TARGET).loss) < hi
    half, wide = reported.intervals[0.5], reported.intervals[0.8]
    assert lo < wide[0] < half[0] < reported.loss < half[1] < wide[1] < hi
    assert reported.n_interval[0] < float(BESIROGLU.optimal(TARGET).N) < reported.n_interval[1]


@pytest.mark.slow
def test_a_run_is_predicted_at_its_own_size(table):
    data = points(table)
    target = Target.of(data, None, 1e9, 1e11)
    assert target.flops == pytest.approx(6e20)
    reported = forecast_loss(data, target, LAWS)
    assert reported.n_opt is None
    assert reported.loss == pytest.approx(float(BESIROGLU(1e9, 1e11)), rel=0.01)


@pytest.mark.slow
def test_the_interval_knows_how_far_forecasts_missed_before(table):
    """A law without a floor misses every next budget: what it missed by widens the forecast, by ln of the reach."""
    far, near = (forecast_loss(table, Target(c), ("chinchilla-no-floor",)) for c in (1e22, 1e21))
    assert far.discrepancy > 1e-3
    (alone,) = far.members["chinchilla-no-floor"].members
    (widened,) = beyond_the_data([alone], pd.DataFrame({"flops": [1e22]}), points(table), far.discrepancy)
    assert widened.sd[0] == pytest.approx(np.hypot(alone.sd[0], far.discrepancy * np.log(far.reach)))
    for reported in (far, near):
        assert min(f.sd[0] for f in reported.average.members) > reported.discrepancy * np.log(reported.reach)
    assert far.average.sd[0] > near.average.sd[0]


def test_the_drift_is_the_scatter_of_the_exponents_that_studies_stated():
    drift = exponent_drift()
    stated = [0.73, 0.3658 / (0.3478 + 0.3658), 0.4969, 0.47, 0.5243]
    assert (drift.sd, drift.freedom) == (pytest.approx(np.std(stated, ddof=1), abs=1e-4), 4)


@pytest.mark.slow
def test_the_best_size_is_less_sure_the_farther_it_lies(table):
    """The exponent of the best size may change beyond the data; inside them it was measured."""
    wide, narrow = (forecast_loss(table, Target(c), ("chinchilla",)).n_interval for c in (1e22, 1e20))
    assert np.log(wide[1] / wide[0]) > 2 * np.log(narrow[1] / narrow[0])
    assert np.log(narrow[1] / narrow[0]) / 2 < 0.1


@pytest.mark.parametrize("given", [(None, None, None), (1e20, 1e9, 1e10), (None, 1e9, None), (-1.0, None, None)])
def test_a_target_is_one_thing(table, given):
    with pytest.raises(ValueError, match=r"--flops|positive"):
        Target.of(points(table), *given)


def test_below_the_data_is_refused(table):
    with pytest.raises(PredictError, match="below all the data"):
        forecast_loss(table, Target(1e15), LAWS)


@pytest.mark.slow
def test_too_few_scales_to_test_laws_on_are_said(table):
    few = table.head(7)
    reported = forecast_loss(few, Target(1e19), LAWS)
    assert reported.laws["weight"].sum() == pytest.approx(1)
    assert (reported.laws["weight"] > 0).all()
    assert any("too few scales" in note for note in reported.notes)
    with pytest.raises(PredictError, match="no law"):
        forecast_loss(table.head(3), Target(1e19), LAWS)


def test_round_trip(registered):
    found = score(registered / "claim.json", answers())
    assert abs(found.z) < 3
    assert found.covered[0.95]
    assert found.n_covered
    assert "isoFLOP" in found.how
    far = score(registered / "claim.json", answers(1.2))
    assert far.z > 5
    assert not far.covered[0.95]
    assert json.loads(json.dumps(found.to_dict()))["covered"] == {"0.5": found.covered[0.5], "0.8": True, "0.95": True}


READINGS = {
    "their names": Reading({"n_params": "size", "tokens": "seen", "loss": "nll"}),
    "some rows": Reading({"n_params": "size", "tokens": "seen", "loss": "nll"}, where="size < 1e9"),
    "the best of a setting": Reading({"n_params": "size", "tokens": "seen", "loss": "nll"}, best_of=("lr",)),
    "laws that read more": Reading({"n_params": "size", "tokens": "seen", "loss": "nll"}, laws="chinchilla"),
}


@pytest.mark.parametrize("name", READINGS)
def test_a_table_is_read_again_as_it_was_read(tmp_path, table, name):
    theirs = points(table).frame[["n_params", "tokens", "loss"]].set_axis(["size", "seen", "nll"], axis=1)
    theirs = pd.concat([theirs.assign(lr=1.0), theirs.assign(lr=2.0, nll=1.1 * theirs["nll"])])
    source, reading = tmp_path / "theirs.csv", READINGS[name]
    if not reading.best_of:
        theirs = theirs[theirs["lr"] == 1.0].drop(columns="lr")
    theirs.to_csv(source, index=False)
    forecast = forecast_loss(reading.again(source, None), Target(TARGET), LAWS)
    value = register(forecast, tmp_path / "claim.json", table=source, reading=reading)
    assert value["data"]["read"]["mapping"] == reading.mapping
    assert read_registration(tmp_path / "claim.json")["data"] == value["data"]
    assert score(tmp_path / "claim.json", answers()).covered[0.95]
    theirs.assign(nll=theirs["nll"] * 1.001).to_csv(source, index=False)
    with pytest.raises(RegistrationError, match=r"have changed since"):
        score(tmp_path / "claim.json", answers())


def test_a_changed_data_file_is_refused(registered):
    frame = pd.read_csv(registered / "runs.csv")
    frame.loc[0, "loss"] *= 1.0000001
    frame.to_csv(registered / "runs.csv", index=False)
    with pytest.raises(RegistrationError, match="have changed since"):
        score(registered / "claim.json", answers())
    (registered / "runs.csv").unlink()
    with pytest.raises(RegistrationError, match="are not there"):
        score(registered / "claim.json", answers())


def test_a_changed_registration_is_refused_and_none_is_overwritten(registered, reported):
    path = registered / "claim.json"
    with pytest.raises(RegistrationError, match="never overwritten"):
        register(reported, path, table=registered / "runs.csv")
    value = json.loads(path.read_text())
    value["loss"] *= 1.01
    path.write_text(json.dumps(value))
    with pytest.raises(RegistrationError, match="seal is broken"):
        score(path, answers())
    path.write_text("{}")
    with pytest.raises(RegistrationError, match="not a registration"):
        score(path, answers())


def test_no_answer_yet(registered, table):
    with pytest.raises(RegistrationError, match="train the budget, then score"):
        score(registered / "claim.json", table.assign(loss=1.001 * table["loss"]))


def test_rows_in_any_order_have_one_hash(table):
    shuffled = table.sample(frac=1.0, random_state=1)
    assert data_hash(points(table)) == data_hash(points(shuffled))
    assert data_hash(points(table)) != data_hash(points(table.head(20)))


@pytest.mark.slow
def test_a_store_that_grew_still_scores(tmp_path, study_table):
    study_table.to_parquet(tmp_path / "runs.parquet")
    below = study_table[study_table["budget_flops"] < 1e12]
    reported = forecast_loss(below, Target(1e12), LAWS)
    register(reported, tmp_path / "claim.json", table=tmp_path / "runs.parquet")
    grown = study_table.assign(created_at=study_table["created_at"].mask(study_table["budget_flops"] >= 1e12, LATER))
    found = score(tmp_path / "claim.json", grown)
    inside = {level: low <= found.measured <= high for level, (low, high) in reported.intervals.items()}
    assert (found.covered, abs(found.z) < 4) == (inside, True)
    assert set(found.runs) == set(study_table.loc[study_table["budget_flops"] >= 1e12, "run_id"])
    assert found.left_out == {FITTED: below["run_id"].nunique()}
    with pytest.raises(RegistrationError, match="made before it was registered"):
        score(tmp_path / "claim.json", study_table.assign(created_at="2020-01-01T00:00:00+00:00"))


@pytest.mark.slow
@pytest.mark.parametrize("named", [True, False])
def test_runs_that_the_prediction_knew_never_score(tmp_path, table, named):
    """The target lies inside the table: the runs there were fitted, by their ids or as the same numbers."""
    known = table.assign(run_id=[f"run{i}" for i in range(len(table))]) if named else table
    known.to_csv(tmp_path / "runs.csv", index=False)
    inside = float(points(table).frame["flops"].max())
    register(forecast_loss(known, Target(inside), LAWS), tmp_path / "claim.json", table=tmp_path / "runs.csv")
    with pytest.raises(RegistrationError, match="that the prediction was fitted to"):
        score(tmp_path / "claim.json", known)
    new = known.tail(7).assign(loss=known["loss"].tail(7) * 1.001)
    if named:
        with pytest.raises(RegistrationError, match="that the prediction was fitted to"):
            score(tmp_path / "claim.json", new)  # a known run measured again is a known run
        new["run_id"] = [f"new{i}" for i in range(7)]
    found = score(tmp_path / "claim.json", pd.concat([known, new], ignore_index=True))
    assert len(found.runs) == 7
    assert found.left_out[FITTED] == len(known)
    assert "not counted: 35 runs that the prediction was fitted to" in str(found)
    error = found.predicted / found.measured - 1
    assert f"error {error:+.2%} (predicted / measured - 1), {abs(found.z):.2f} standard deviations;" in str(found)


def test_runs_made_before_the_registration_never_score(registered):
    early, late = (answers().assign(created_at=when) for when in ("2020-01-01T00:00:00+00:00", LATER))
    with pytest.raises(RegistrationError, match="7 runs made before it was registered"):
        score(registered / "claim.json", early)
    found = score(registered / "claim.json", pd.concat([early.assign(loss=1.0), late], ignore_index=True))
    assert (len(found.runs), found.left_out) == (7, {EARLY: 7})
    assert found.measured > 1.5


@pytest.mark.parametrize(
    ("factor", "scores"), [(1.09, True), (0.92, True), (1.12, False), (0.88, False), (2.72, False)]
)
def test_runs_far_from_the_target_do_not_score(registered, factor, scores):
    off = answers().assign(tokens=lambda f: f["tokens"] * factor)
    off.attrs["source"] = "new.csv"
    if scores:
        assert "within 10.5% of the target's compute" in str(score(registered / "claim.json", off))
    else:
        with pytest.raises(RegistrationError, match=r"claim\.json: no run near 1e\+21 FLOPs in new\.csv"):
            score(registered / "claim.json", off)


@pytest.mark.slow
@pytest.mark.parametrize(("factor", "scores"), [(1.04, True), (1.06, False)])
def test_a_run_of_given_size_is_scored_by_its_own_cell(tmp_path, table, factor, scores):
    table.to_csv(tmp_path / "runs.csv", index=False)
    target = Target.of(points(table), None, 1e9, 1e11)
    register(forecast_loss(table, target, LAWS), tmp_path / "claim.json", table=tmp_path / "runs.csv")
    run = simulate_points(BESIROGLU, np.array([1e9 * factor]), np.array([1e11]), noise=0.0)
    if scores:
        assert len(score(tmp_path / "claim.json", run).runs) == 1
    else:
        with pytest.raises(RegistrationError, match="train it, then score"):
            score(tmp_path / "claim.json", run)


@pytest.mark.slow
def test_a_prediction_joins_serving(table):
    found = predict(table, flops=TARGET, laws=LAWS, inference_tokens=1e13, token_cap=1e10)
    assert len(found.servings) == 2
    assert "off the best size" in str(found)
    assert len(found.to_dict()["servings"]) == 2


@pytest.mark.parametrize(
    "time", ["", "20- - - -", "soon", "9" * 40, "2026-01-01", "2026-13-01T00:00:00+00:00", "nat", "1e400"]
)
def test_a_registration_tells_its_time_with_a_zone(time):
    held = json.loads((ROOT / "experiments/results/quick_holdout_prediction.json").read_text())
    assert checked_registration(held, "p.json") is held
    with pytest.raises(RegistrationError, match=r"p\.json: registered_at is no time with a zone"):
        checked_registration(held | {"registered_at": time}, "p.json")


@pytest.mark.parametrize("level", ["[0.5", "", "x"])
def test_a_level_that_is_no_number_names_the_file(registered, level):
    path = registered / "claim.json"
    value = json.loads(path.read_text())
    value["intervals"] = {level: [1.0, 2.0]}
    path.write_text(json.dumps(value))
    with pytest.raises(RegistrationError, match=r"claim\.json: .*not a registration"):
        read_registration(path)
