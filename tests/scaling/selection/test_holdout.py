"""Hold-outs: the law that made the data predicts the largest budget, and the choice never looks at it."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from isoflop.scaling.design.simulate import simulate_study
from isoflop.scaling.fitting.fit import Fit
from isoflop.scaling.laws.chinchilla import Chinchilla
from isoflop.scaling.selection import holdout
from isoflop.scaling.selection.holdout import choose, errors_at, hold_out
from isoflop.scaling.selection.preference import candidates
from isoflop.scaling.selection.rolling_origins import HoldOutError
from isoflop.scaling.table.conventions import points

pytestmark = pytest.mark.usefixtures("kept_searches")

BENT = Chinchilla(E=0.0, A=1393.6, B=25817.0, alpha=0.641, beta=0.680, kappa=0.355)  # like code in bytes
SIZES = (8, 12, 16, 20, 24, 32, 40, 48, 56, 64, 80)


@pytest.fixture(scope="module")
def bent():
    return simulate_study(BENT, sizes=SIZES, noise=0.005, seed=1)


@pytest.mark.slow
def test_the_true_form_is_chosen_below_the_largest_budget_and_predicts_it(bent):
    found = hold_out(bent)
    assert found.chosen == choose(bent)[0]
    assert choose(bent, ("chinchilla", "chinchilla-kappa", "chinchilla-tied"))[0] == "chinchilla-kappa"
    (budget,) = found.forecasts["chinchilla-kappa"].budgets.itertuples()
    assert budget.flops == pytest.approx(1e12, rel=0.01)
    assert abs(budget.loss_error) < 0.02
    assert 1 / 1.3 < budget.n_ratio < 1.3
    assert budget.predicted_loss == pytest.approx(float(BENT.optimal(1e12, points(bent).cost).loss), rel=0.02)
    assert abs(found.forecasts["chinchilla"].budgets["loss_error"].iloc[0]) > 0.03


@pytest.mark.slow
def test_where_kappa_is_one_the_simpler_law_is_chosen(study_law):
    assert choose(simulate_study(study_law, sizes=SIZES, noise=0.003, seed=2))[0] in ("chinchilla", "chinchilla-tied")


@pytest.mark.slow
def test_the_largest_budget_stays_blind(bent):
    largest = bent["budget_flops"] == bent["budget_flops"].max()
    damaged = bent.assign(loss=np.where(largest, 3 * bent["loss"], bent["loss"]))
    assert choose(damaged)[0] == choose(bent)[0]
    pd.testing.assert_frame_equal(choose(damaged)[1], choose(bent)[1])
    held, honest = hold_out(damaged), hold_out(bent)
    assert held.chosen == honest.chosen
    for law in honest.forecasts:
        assert held.forecasts[law].fit.law == honest.forecasts[law].fit.law


@pytest.mark.slow
def test_no_law_is_fitted_to_what_it_predicts(bent, monkeypatch):
    pairs = []

    def spy(law, fitted, origin):
        pairs.append((fitted.points.frame["flops"].max(), origin.target["flops"].min()))
        return errors_at(law, fitted, origin)

    monkeypatch.setattr("isoflop.scaling.selection.holdout.errors_at", spy)
    choose(bent, ("chinchilla", "power"))
    assert len(pairs) >= 2
    assert all(known < 0.95 * predicted for known, predicted in pairs)


@pytest.mark.slow
def test_cells_are_those_above_the_threshold_with_intervals(bent):
    found = hold_out(bent, 1e11, laws=("chinchilla-kappa",))
    forecast = found.forecasts["chinchilla-kappa"]
    assert set(forecast.cells["flops"].round(-10)) == {3e11, 1e12}
    assert (forecast.fit.points.frame["flops"] < 1.1e11).all()
    assert len(forecast.budgets) == 2
    np.testing.assert_allclose(forecast.cells["error"], np.log(forecast.cells["predicted"] / forecast.cells["loss"]))
    assert 0 <= forecast.coverage <= 1
    assert forecast.rms_error < 0.05


@pytest.mark.slow
def test_scores_rank_by_what_they_are_behind(bent):
    law, scores = choose(bent)
    assert scores["behind"].is_monotonic_increasing
    better = scores[scores["score"] < scores.loc[law, "score"]]
    assert (better["free"] > scores.loc[law, "free"]).all()


@pytest.mark.slow
def test_the_answer_is_json_and_readable(bent):
    found = hold_out(bent)
    parsed = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert set(parsed["laws"]) | set(parsed["failed"]) == set(candidates(points(bent)))
    assert parsed["laws"]["chinchilla"]["budgets"][0]["loss_error"] > 0
    assert f"*{found.chosen}" in str(found)


@pytest.mark.slow
def test_a_law_that_cannot_be_fitted_is_listed_with_its_reason(bent):
    few = bent[(bent["budget_flops"] > 2e11) | bent["d_model"].isin([8, 12])]
    found = hold_out(few, 1e11, laws=("power", "chinchilla-kappa"))
    assert "4 data points cannot determine the 6 free parameters" in found.failed["chinchilla-kappa"]
    assert found.forecasts["power"].budgets["predicted_n"].isna().all()  # a law of compute alone
    assert found.chosen is None
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_law_that_is_infinite_at_what_it_is_to_predict_is_listed_and_not_chosen(monkeypatch):
    table = simulate_study(BENT, sizes=SIZES[:6], noise=0.005, seed=1, curves=False)
    predict = Fit.predict

    def infinite(fitted, frame):
        below = fitted.points.frame["flops"].max()
        loss = predict(fitted, frame)
        return np.where(frame["flops"] > 1.5 * below, np.inf, loss) if fitted.law.name == "power" else loss

    monkeypatch.setattr(Fit, "predict", infinite)
    assert list(choose(table, ("chinchilla", "power"))[1].index) == ["chinchilla"]


def test_a_law_that_is_infinite_at_what_is_held_out_is_listed_with_its_reason(monkeypatch):
    table = simulate_study(BENT, sizes=SIZES[:6], noise=0.005, seed=1, curves=False)
    predict = holdout.predict_runs

    def infinite(fitted, *given):
        made = predict(fitted, *given)
        return replace(made, loss=np.r_[np.inf, made.loss[1:]]) if fitted.law.name == "power" else made

    monkeypatch.setattr(holdout, "predict_runs", infinite)
    found = hold_out(table, laws=("chinchilla", "power"))
    assert list(found.forecasts) == ["chinchilla"]
    count = len(found.forecasts["chinchilla"].cells)
    assert found.failed == {"power": f"it has no finite loss at 1 of the {count} runs to predict"}


@pytest.mark.parametrize("threshold", [1e20, 1.0])
def test_nothing_to_hold_out_is_an_answerable_error(bent, threshold):
    with pytest.raises(HoldOutError, match="choose a threshold between") as caught:
        hold_out(bent, threshold)
    assert caught.value.exit_code == 1


def test_one_budget_cannot_be_held_out_or_chosen_on(study_law):
    single = simulate_study(study_law, budgets=(1e12,))
    with pytest.raises(HoldOutError, match="one budget only"):
        hold_out(single)
    with pytest.raises(HoldOutError, match="none can be predicted"):
        choose(single)


def test_runs_without_common_budgets_are_held_out_in_numbers_and_counted(study_law):
    """The largest budget groups of scattered runs hold one each: the last half decade is held out."""
    rng = np.random.default_rng(0)
    n, d = 10 ** rng.uniform(8, 10, 200), 10 ** rng.uniform(9.5, 11.5, 200)
    table = pd.DataFrame({"n_params": n, "tokens": d, "loss": study_law(n, d) * np.exp(rng.normal(0, 0.01, 200))})
    found = hold_out(table, laws=("chinchilla", "kaplan"))
    for forecast in found.forecasts.values():
        assert len(forecast.cells) >= 10
        assert forecast.cells["flops"].min() > found.threshold
    for name, forecast in found.forecasts.items():
        assert any(name in line and f" {len(forecast.cells)} " in line for line in str(found).splitlines())
        assert found.to_dict()["laws"][name]["n_predicted"] == len(forecast.cells)


def test_the_largest_budget_alone_is_held_out_where_it_has_an_optimum(study_table):
    found = hold_out(study_table, laws=("chinchilla",))
    assert found.forecasts["chinchilla"].cells["flops"].max() / found.forecasts["chinchilla"].cells["flops"].min() < 1.2
