"""Predictions that heed repeated data, published laws without a table, and every named law through every command."""

from functools import partial

import numpy as np
import pandas as pd
import pytest

from isoflop.scaling.laws import PRESETS
from isoflop.scaling.laws.published import PUBLISHED
from isoflop.scaling.prediction.forecast import (
    VAGUE,
    PredictError,
    Target,
    beyond_epochs,
    forecast_loss,
    median_loss,
    telling,
)
from isoflop.scaling.prediction.predict import predict, predict_from_law, predict_table
from isoflop.scaling.selection import preference
from isoflop.scaling.selection.averaging import Forecast, average
from isoflop.scaling.table.conventions import points
from tests.support.fits.hard_fits import REPEATS
from tests.support.fits.named_laws import TABLES, check_every_command, own_table, refusal
from tests.support.fits.simulated import BESIROGLU, isoflop_table

pytestmark = pytest.mark.usefixtures("kept_searches")

RUN = {"n_params": 1e9, "tokens": 1e11}


# On another table than its own: every law on one, three of them on all (`python -m tests.proofs.verdicts.named_laws`).
QUICK = ("power-n", "chinchilla", "data-constrained")
GRID = [(table, name) for table in TABLES for name in PRESETS if table == own_table(name) or name in QUICK]


@pytest.mark.slow
@pytest.mark.parametrize(("table", "name"), GRID)
def test_every_named_law_goes_through_every_command(table, name):
    check_every_command(table, name)


@pytest.mark.parametrize("kept", ["unique_tokens", None])  # without the column every run read its text once
def test_a_run_that_reads_its_text_more_often_than_any_of_the_table_is_named(kept):
    repeats = TABLES["repeats"]()
    seen = float((repeats["tokens"] / repeats["unique_tokens"]).max()) if kept else 1.0
    data = points(repeats if kept else repeats.drop(columns="unique_tokens"))
    assert beyond_epochs(data, seen) == beyond_epochs(data, None) == []
    (found,) = beyond_epochs(data, 2 * seen)
    assert (found.code, found.severity) == ("beyond_epochs", "warn")
    most = f"{seen:.3g} times" if kept else "once"
    assert f"{2 * seen:.3g} times, and no run of the table more than {most}:" in found.message


@pytest.mark.slow
def test_the_loss_rises_as_unique_tokens_fall(monkeypatch):
    repeats = TABLES["repeats"]()
    laws = "chinchilla,data-constrained"
    found = [predict(repeats, **RUN, unique_tokens=u, laws=laws) for u in (1e11, 3e10, 1e10, 3e9)]
    losses = [f.loss.loss for f in found]
    assert np.all(np.diff(losses) > 0)
    assert found[0].loss.loss == pytest.approx(predict(repeats, **RUN, laws=laws).loss.loss, rel=1e-12)
    assert "data-constrained" in preference.CANDIDATES
    monkeypatch.setattr(preference, "CANDIDATES", laws.split(","))  # the others are not asked for here
    assert set(predict(repeats, **RUN).loss.laws.index) == set(laws.split(","))
    for u, f in zip((1e11, 3e10, 1e10, 3e9), found, strict=True):
        assert f.loss.laws.loc["data-constrained", "loss"] == pytest.approx(float(REPEATS(1e9, 1e11, u)), rel=0.02)
        assert f.to_dict()["target"]["unique_tokens"] == u
    alone = predict(repeats, **RUN, unique_tokens=1e10, laws="data-constrained").loss
    assert alone.loss == pytest.approx(float(REPEATS(1e9, 1e11, 1e10)), rel=0.02)
    assert any("fitted to this table" in note for note in found[1].loss.notes)


@pytest.mark.slow
def test_laws_that_do_not_read_unique_tokens_borrow_the_worth_of_repeats():
    table = isoflop_table(BESIROGLU, seed=0)
    losses = [predict(table, **RUN, unique_tokens=u, laws="chinchilla").loss for u in (1e11, 1e10, 1e9)]
    assert losses[0].loss < losses[1].loss < losses[2].loss
    assert any("borrowed" in note for note in losses[1].notes)
    best = [predict(table, flops=1e21, unique_tokens=u, laws="chinchilla").loss for u in (1e12, 1e9)]
    assert best[0].loss < best[1].loss
    assert best[1].n_opt != pytest.approx(best[0].n_opt, rel=0.01)


@pytest.mark.slow
def test_an_extrapolated_cost_of_training_is_said():
    """Counts of FLOPs that fall with size, as attention's share does, from 7.7 to 6.5 per parameter and token."""
    n = np.repeat(np.geomspace(4e3, 2e5, 5), 4)
    d = n * np.tile([30, 100, 300, 1000], 5)
    loss = 1.0 + 30 * n**-0.4 + 300 * d**-0.4
    table = pd.DataFrame({"n_params": n, "tokens": d, "flops": 10.8 * n**0.956 * d, "loss": loss})
    near = predict(table, n_params=3e5, tokens=1e9, laws="chinchilla").loss
    assert not any("extrapolated" in note for note in near.notes)
    far = predict(table, n_params=1e8, tokens=1e10, laws="chinchilla").loss
    (reported,) = [note for note in far.notes if "extrapolated" in note]
    assert "6.31 to 7.5 in the table, 6.06 at 1e+08 parameters, tending to 6" in reported
    given = predict(table.drop(columns="flops"), n_params=1e8, tokens=1e10, laws="chinchilla").loss
    assert not any("extrapolated" in note for note in given.notes)


@pytest.mark.slow
@pytest.mark.parametrize("named", [True, False])
def test_a_forecast_does_not_depend_on_the_order_of_the_rows(named):
    table = isoflop_table(BESIROGLU, seed=3)
    table = table.drop(columns="run_id", errors="ignore")
    table = table.assign(run_id=[f"r{k}" for k in range(len(table))]) if named else table
    laws = ["chinchilla", "chinchilla-kappa", "kaplan"]
    whole = predict(table, flops=1e23, laws=laws).to_dict()
    for seed in (1, 2):
        shuffled = table.sample(frac=1.0, random_state=seed, ignore_index=True)
        assert predict(shuffled, flops=1e23, laws=laws).to_dict() == whole
        if named:
            assert points(shuffled).in_order().frame.equals(points(table).in_order().frame)


@pytest.mark.slow
def test_a_run_of_given_size_has_no_best_size():
    found = predict(isoflop_table(BESIROGLU, seed=0), **RUN, laws="chinchilla")
    assert "n_opt" not in str(found)
    assert found.to_dict()["laws"]["chinchilla"]["n_opt"] is None


@pytest.mark.slow
def test_a_whole_table_is_forecast_and_judged():
    table, test = isoflop_table(BESIROGLU, seed=0), isoflop_table(BESIROGLU, seed=1, largest=1e21).tail(7)
    found = predict_table(table, test, "chinchilla,chinchilla-tied")
    assert len(found.runs) == 7
    assert found.r2 > 0.9
    assert found.bias == pytest.approx(np.log(found.runs["predicted"] / test["loss"].to_numpy()).mean())
    assert found.rms < 0.02
    assert found.coverage[0.95] == np.mean(found.runs["pit"].between(0.025, 0.975))
    one = test.iloc[2]
    alone = predict(table, n_params=one["n_params"], tokens=one["tokens"], laws="chinchilla,chinchilla-tied").loss
    assert found.runs["predicted"].iloc[2] == pytest.approx(alone.loss, rel=1e-9)
    assert found.runs[["lo_0.95", "hi_0.95"]].iloc[2].tolist() == pytest.approx(list(alone.intervals[0.95]), rel=1e-9)
    shifted = predict_table(table, test.assign(loss=1.1 * test["loss"]), "chinchilla")
    assert shifted.bias == pytest.approx(-np.log(1.1), abs=0.02)
    assert (shifted.runs["error"] < 0).all()
    assert f"too low by {-np.expm1(shifted.bias):.2%} (geometric mean of predicted / loss)" in str(shifted)
    lowered = predict_table(table, test.assign(loss=test["loss"] / 1.1), "chinchilla")
    assert (lowered.runs["error"] > 0).all()
    assert f"too high by {np.expm1(lowered.bias):.2%} (geometric" in str(lowered)
    assert shifted.coverage[0.95] == 0


def test_published_laws_are_evaluated_without_a_table():
    law = PUBLISHED["muennighoff-2023"].law
    found = predict_from_law("muennighoff-2023", **RUN, unique_tokens=1e10)
    assert found.loss == float(law(1e9, 1e11, 1e10))
    assert predict_from_law("muennighoff-2023", **RUN).loss == float(law(1e9, 1e11, 1e11)) < found.loss
    best = predict_from_law("besiroglu-2024", flops=1e21)
    assert best.loss == pytest.approx(float(BESIROGLU.optimal(1e21).loss), rel=1e-4)
    assert predict_from_law("llama3-2024", flops=1e21).loss is None
    assert "lies outside the range" in str(predict_from_law("besiroglu-2024", n_params=1e6, tokens=1e9))


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_law_has_an_answer_or_says_what_it_reads(name):
    given = {"flops": 1e20}, {"n_params": 1e8, "tokens": 1e9}, {"n_params": 1e8}, {"tokens": 1e9}, {}
    reasons = [refusal(partial(predict_from_law, name, **numbers)) for numbers in given]
    assert all("--" in str(reason) for reason in reasons if reason is not None)
    assert reasons.count(None) >= 1


@pytest.mark.parametrize(
    ("name", "numbers", "reported"),
    [
        ("hofmann-2022", {"flops": 1e20}, "did you mean 'hoffmann-2022'"),
        ("hoffmann-2022", {"flops": -1.0}, "flops=-1: it must be positive"),
        ("hoffmann-2022", {**RUN, "unique_tokens": 1e9}, "not --unique-tokens"),
        ("hoffmann-2022", {"n_params": 1e9}, "give --tokens"),
    ],
)
def test_what_is_wrong_is_named(name, numbers, reported):
    with pytest.raises(ValueError, match=reported):
        predict_from_law(name, **numbers)


def test_a_law_without_a_run_to_make_or_with_no_loss_to_tell_is_left_out_by_name():
    """Losses of three scales at random: some laws put the best run outside floating point, others scatter by e^17."""
    rows = [
        (290330, 11676892086, 3.51), (13331969, 41678957, 1e-6), (193368, 2914527077, 0.127),
        (263190, 60850235123, 0.0111), (152348894, 1720476312, 2.25), (6499502, 1374480454, 2.428),
        (576929624, 3477422589, 2.169), (51586091, 169335540, 0.725), (10219805, 32156754723, 0.63),
        (96761956, 289773908, 2.154), (221120811, 8610949793, 2.81), (51481167, 6609276487, 2.89),
        (9057897, 9722029717, 0.671),
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=["n_params", "tokens", "loss"])
    said = forecast_loss(table, Target(1e21))
    assert 0 < said.loss < np.inf
    assert "best run of 1e+21 FLOPs would have" in said.refused["kaplan"]
    assert "says nothing of the loss" in said.refused["saturating"]
    assert {f"{law} is left out: {why}" for law, why in said.refused.items()} <= set(said.notes)
    assert (said.laws["sd"] < VAGUE).all()


def test_a_forecast_tells_a_loss_or_is_refused():
    def of(mean, sd):
        return Forecast(np.array([mean]), np.array([sd]), 9.0)

    assert telling(of(1.0, 9.9)).mean[0] == 1.0
    for sd in (10.0, np.inf, np.nan):
        with pytest.raises(ValueError, match="says nothing"):
            telling(of(1.0, sd))
    assert median_loss(average([of(1.0, 0.1)], [1.0])) == pytest.approx(np.e)
    for mean in (800.0, -800.0):
        with pytest.raises(PredictError, match="do not tell the loss"):
            median_loss(average([of(mean, 0.1)], [1.0]))


def test_a_published_allocation_of_two_digits_says_what_rounding_may_move():
    (said,) = [n for n in predict_from_law("llama3-2024", flops=1e22).notes if "two digits" in n]
    factor = 1e22**0.005 * (0.295 / 0.29)
    assert f"by a factor {factor:.2g}" in said
    assert not [n for n in predict_from_law("deepseek-2024", flops=1e25).notes if "digits" in n]
    rule = PUBLISHED["llama3-2024"]
    moved = (rule.law.d_coef + 0.005) * 1e22 ** (rule.law.d_exponent + 0.005)
    assert moved / rule.law.optimal(1e22).D == pytest.approx(rule.rounded_by(1e22))
