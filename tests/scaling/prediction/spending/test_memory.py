"""The best mixture of experts under a limit on memory: against a search by hand, and what is refused."""

import itertools
import json

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from isoflop.__main__ import app
from isoflop.scaling.laws.axes.experts_joint import ExpertsJoint
from isoflop.scaling.prediction.forecast import PredictError
from isoflop.scaling.prediction.spending.memory import MemoryCap, predict_memory
from isoflop.scaling.table.read import read_table
from tests.support.root import RESULTS

TRUE = ExpertsJoint(1.4, 40, 40, 0.19, 0.18, -0.2, 0.1, 0.005, -0.005)
GRID = itertools.product((1e7, 5e7, 3e8), (1e9, 4e9, 16e9), (1, 2, 8))
RUNS = pd.DataFrame(GRID, columns=["n_params", "tokens", "experts"], dtype=float)
RUNS["loss"] = TRUE(RUNS["n_params"], RUNS["tokens"], RUNS["experts"])


@pytest.mark.slow
@pytest.mark.parametrize("memory", [4e9, 1e12])
def test_the_best_of_all_runs_that_fit_is_found(memory):
    found = predict_memory(RUNS, 1e20, memory)
    N = np.geomspace(1e7, 1e11, 20_001)
    for row in found.runs.to_dict("records"):
        loss = TRUE(N, 1e20 / (6 * N), row["experts"])
        fits = N * (1 + 2 / 3 * (row["experts"] - 1)) * 2 <= memory
        assert row["loss"] == pytest.approx(loss[fits].min(), rel=1e-5)
        assert row["n_params"] == pytest.approx(N[fits][loss[fits].argmin()], rel=2e-2)
        assert row["tokens"] == pytest.approx(1e20 / (6 * row["n_params"]))
        assert 2 * row["n_params_total"] <= memory * 1.001
    assert found.best["experts"] == found.runs.loc[found.runs["loss"].idxmin(), "experts"]
    assert found.gain == pytest.approx(np.log(found.runs["loss"].iloc[0] / found.runs["loss"].min()), abs=1e-6)
    assert bool(found.runs["binds"].any()) == (memory < 1e12)
    assert found.open_ended["loss"] <= found.best["loss"]


@pytest.mark.slow
def test_settings_that_explain_the_losses_are_named_in_whatever_order_the_rows_are():
    both = pd.concat([RUNS.assign(optimizer="adamw"), RUNS.assign(optimizer="muon", loss=RUNS["loss"] * 0.97)])
    for table in (both, both.sample(frac=1, random_state=0)):
        assert "pooled_settings" in {f.code for f in predict_memory(table, 1e20, 4e9).findings}


@pytest.mark.slow
def test_weights_are_those_of_the_largest_models_where_the_table_counts_them():
    table = RUNS.assign(n_params_total=RUNS["n_params"] * (1.2 + 0.5 * (RUNS["experts"] - 1)))
    found = predict_memory(table, 1e20, 4e9, bytes_per_parameter=4)
    last = found.runs.iloc[-1]
    assert last["n_params_total"] == pytest.approx(last["n_params"] * (1.2 + 0.5 * 7))
    assert last["n_params_total"] * 4 == pytest.approx(4e9, rel=1e-3)


@pytest.mark.slow
def test_own_runs_count_their_weights_and_need_the_active_ones():
    table = read_table(RESULTS / "experts.parquet")
    found = predict_memory(table, 1e13, 2e5)
    assert found.best["experts"] == 2
    assert any("as in the largest models" in note for note in found.notes)
    with pytest.raises(ValueError, match="--params active, not matrices"):
        predict_memory(table, 1e13, 2e5, params="matrices")


@pytest.mark.slow
def test_a_law_without_tokens_is_given_those_of_the_table():
    table = RUNS[RUNS["tokens"] == 4e9]
    found = predict_memory(table, 1e19, 1e9)
    assert found.law == "experts-floor"
    assert set(found.runs["tokens"]) == {4e9}
    assert any("reads no tokens" in note for note in found.notes)


@pytest.mark.parametrize(
    ("table", "requested", "error", "says"),
    [
        (RUNS.drop(columns="experts"), {}, ValueError, "experts"),
        (RUNS.drop(columns="tokens"), {}, PredictError, "lacks tokens"),
        (RUNS, {"laws": ("chinchilla",)}, ValueError, "none of chinchilla reads the column experts"),
        (RUNS, {"memory": 1.0}, PredictError, "no model"),
        (RUNS, {"memory": np.inf}, ValueError, "memory=inf: it must be positive and finite"),
        (RUNS.assign(experts=0), {}, ValueError, "experts is 0 in every row, as of dense models; how many experts"),
        (read_table(RESULTS / "quick.parquet"), {}, ValueError, "experts is 0 in every row, as of dense models"),
        (RUNS, {"bytes_per_parameter": 0.0}, ValueError, "bytes_per_parameter=0: it must be"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_one_line(table, requested, error, says):
    with pytest.raises(error, match=says) as refused:
        predict_memory(table, **{"flops": 1e20, "memory": 4e9} | requested)
    assert "\n" not in str(refused.value)


@pytest.mark.slow
def test_the_command_gives_the_same_and_refuses_what_does_not_go_with_it(tmp_path):
    path = str(tmp_path / "runs.csv")
    RUNS.to_csv(path, index=False)
    reported = CliRunner().invoke(app, ["predict", path, "--flops", "1e20", "--memory", "4e9", "--json"])
    assert reported.exit_code == 0, reported.output
    answer = json.loads(reported.stdout)
    assert {"best", "runs", "gain", "interval", "findings", "conventions"} <= set(answer)
    assert answer["best"] == pytest.approx(predict_memory(RUNS, 1e20, 4e9).to_dict()["best"])
    for more in (["--tokens", "1e9"], ["--unique-tokens", "1e9"], ["--at", "experts=4"]):
        refused = CliRunner().invoke(app, ["predict", path, "--flops", "1e20", "--memory", "4e9", *more])
        assert isinstance(refused.exception, ValueError), refused.output
        assert getattr(refused.exception, "exit_code", 2) == 2
    refused = CliRunner().invoke(app, ["predict", path, "--memory", "4e9"])
    assert "--flops go together" in str(refused.exception)


def test_experts_that_lower_the_loss_by_a_share():
    runs = pd.DataFrame({"experts": [1.0, 8.0], "n_params": 1e8, "n_params_total": [1e8, 5e8], "tokens": 1e10})
    found = MemoryCap(
        law="experts-joint", flops=1e20, memory=4e9, bytes_per_parameter=2.0,
        runs=runs.assign(loss=[2.5, 2.0], binds=False), open_ended=dict(runs.iloc[1], loss=2.0),
        gain=float(np.log(2.5 / 2.0)), interval=(float(np.log(1.1)), float(np.log(2.0))), points=None, findings=(),
        notes=(),
    )  # fmt: skip
    assert "8 experts lower the loss of 1 by 20.00%, 90% 9.09% to 50.00%" in str(found)
