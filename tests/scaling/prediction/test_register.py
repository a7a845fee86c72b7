"""Predictions: honest before the run, on the record, scored after it."""

import json

import numpy as np
import pandas as pd
import pytest

from isoflop.scaling.design.simulate import simulate_points
from isoflop.scaling.prediction.forecast import PredictError, Target, forecast_loss
from isoflop.scaling.prediction.predict import predict
from isoflop.scaling.prediction.register import RegistrationError, data_hash, register, score
from isoflop.scaling.table.conventions import points
from tests.support.fits.simulated import BESIROGLU, NOISE, isoflop_table

LAWS = ("chinchilla", "chinchilla-tied")
TARGET = 1e21


@pytest.fixture(scope="module")
def table():
    return isoflop_table(BESIROGLU, seed=5)


@pytest.fixture(scope="module")
def said(table):
    return forecast_loss(table, Target(TARGET), LAWS)


@pytest.fixture
def registered(tmp_path, table, said):
    table.to_csv(tmp_path / "runs.csv", index=False)
    register(said, tmp_path / "claim.json", table=tmp_path / "runs.csv")
    return tmp_path


def answers(factor: float = 1.0) -> pd.DataFrame:
    best = BESIROGLU.optimal(TARGET)
    sizes = best.N * np.geomspace(0.25, 4, 7)
    made = simulate_points(BESIROGLU, sizes, TARGET / (6 * sizes), noise=NOISE, seed=9)
    return made.assign(loss=made["loss"] * factor)


def test_the_truth_is_inside_and_intervals_are_nested(said):
    assert said.reach == pytest.approx(10)
    lo, hi = said.intervals[0.95]
    assert lo < float(BESIROGLU.optimal(TARGET).loss) < hi
    half, wide = said.intervals[0.5], said.intervals[0.8]
    assert lo < wide[0] < half[0] < said.loss < half[1] < wide[1] < hi
    assert said.n_interval[0] < float(BESIROGLU.optimal(TARGET).N) < said.n_interval[1]


def test_a_run_is_predicted_at_its_own_size(table):
    data = points(table)
    target = Target.of(data, None, 1e9, 1e11)
    assert target.flops == pytest.approx(6e20)
    said = forecast_loss(data, target, LAWS)
    assert said.n_opt is None
    assert said.loss == pytest.approx(float(BESIROGLU(1e9, 1e11)), rel=0.01)


@pytest.mark.parametrize("given", [(None, None, None), (1e20, 1e9, 1e10), (None, 1e9, None), (-1.0, None, None)])
def test_a_target_is_one_thing(table, given):
    with pytest.raises(ValueError, match=r"--flops|positive"):
        Target.of(points(table), *given)


def test_below_the_data_is_refused(table):
    with pytest.raises(PredictError, match="below all the data"):
        forecast_loss(table, Target(1e15), LAWS)


def test_too_few_scales_give_equal_weights_and_say_so(table):
    few = table.head(7)
    said = forecast_loss(few, Target(1e19), LAWS)
    assert set(said.laws["weight"]) == {0.5}
    assert any("equal weights" in note for note in said.notes)
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


def test_a_changed_data_file_is_refused(registered):
    frame = pd.read_csv(registered / "runs.csv")
    frame.loc[0, "loss"] *= 1.0000001
    frame.to_csv(registered / "runs.csv", index=False)
    with pytest.raises(RegistrationError, match="have changed since"):
        score(registered / "claim.json", answers())
    (registered / "runs.csv").unlink()
    with pytest.raises(RegistrationError, match="are not there"):
        score(registered / "claim.json", answers())


def test_a_changed_registration_is_refused_and_none_is_overwritten(registered, said):
    path = registered / "claim.json"
    with pytest.raises(RegistrationError, match="never overwritten"):
        register(said, path, table=registered / "runs.csv")
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
        score(registered / "claim.json", table)


def test_rows_in_any_order_have_one_hash(table):
    shuffled = table.sample(frac=1.0, random_state=1)
    assert data_hash(points(table)) == data_hash(points(shuffled))
    assert data_hash(points(table)) != data_hash(points(table.head(20)))


def test_a_store_that_grew_still_scores(tmp_path, study_table):
    study_table.to_parquet(tmp_path / "runs.parquet")
    below = study_table[study_table["budget_flops"] < 1e12]
    said = forecast_loss(below, Target(1e12), LAWS)
    register(said, tmp_path / "claim.json", table=tmp_path / "runs.parquet")
    assert score(tmp_path / "claim.json", study_table).covered[0.95]


def test_a_prediction_joins_serving(table):
    found = predict(table, flops=TARGET, laws=LAWS, inference_tokens=1e13, token_cap=1e10)
    assert len(found.servings) == 2
    assert "off the best size" in str(found)
    assert len(found.to_dict()["servings"]) == 2
