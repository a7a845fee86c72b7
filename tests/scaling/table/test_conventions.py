"""Conventions give the counts they name, and nothing is dropped or assumed in silence."""

from functools import partial

import numpy as np
import pandas as pd
import pytest

from isoflop.models.config import (
    ModelConfig,
    flops_per_token,
    n_active,
    n_matrices,
    n_total,
    training_flops_per_token,
)
from isoflop.models.config import count_params as count_groups
from isoflop.scaling.design.planning import plan_from_table
from isoflop.scaling.findings.sensitivity import chinchilla_sensitivity
from isoflop.scaling.fitting.fit import fit
from isoflop.scaling.prediction.forecast import forecast_loss
from isoflop.scaling.prediction.predict import predict, predict_table
from isoflop.scaling.selection.holdout import choose, hold_out
from isoflop.scaling.selection.scoreboard import compare
from isoflop.scaling.table.columns import TableError
from isoflop.scaling.table.conventions import count_params, points
from isoflop.scaling.table.formats.run_columns import PARAM_GROUPS
from isoflop.scaling.table.read import read_table

N, D = np.meshgrid([1e6, 2e6, 4e6], [2e7, 4e7, 8e7])
KNOWN = pd.DataFrame({"n_params": N.ravel(), "tokens": D.ravel(), "loss": np.linspace(4, 3, 9)})


def test_matrices_leave_out_the_embedding_and_keep_the_head(study_table):
    row = study_table[study_table["d_model"] == 16].iloc[0]
    # d16, two layers, MLP width 48: 4 d^2 l + 3 d d_ff l + d V, the 10,752 of the default study's ladder
    assert count_params(study_table, "matrices")[row.name] == 4 * 256 * 2 + 3 * 16 * 48 * 2 + 16 * 256 == 10_752
    assert count_params(study_table, "no-embedding")[row.name] == row["n_params_total"] - 2 * 16 * 256
    assert count_params(study_table, "total")[row.name] == sum(row[f"n_params_{g}"] for g in PARAM_GROUPS)


@pytest.mark.parametrize("holder", ["embedding", "unembedding"])
def test_a_tied_matrix_counts_once_as_the_head_wherever_it_is_stored(study_table, holder):
    tied = study_table.assign(tied=True)
    other = "unembedding" if holder == "embedding" else "embedding"
    tied[f"n_params_{other}"] = 0
    pd.testing.assert_series_equal(
        count_params(tied, "matrices"), count_params(study_table, "matrices"), check_names=False
    )


def test_compute_conventions(study_table):
    exact, six, full = (points(study_table, compute=c).frame for c in ("exact", "6nd", "full-attention"))
    np.testing.assert_allclose(six["flops"], 6 * six["n_params"] * six["tokens"])
    assert (full["flops"] > exact["flops"]).all()
    assert (exact["flops"] > six["flops"]).all()  # 6ND leaves attention out
    masked = (full["flops"] - exact["flops"]) / exact["tokens"]
    assert masked.min() == pytest.approx(3 * 2 * 2 * 8 * (2 * 64 - 65))  # d8: forward and backward, layers, width, T


def test_run_table_gives_final_rows_and_the_trunk_as_cluster(study_table):
    data = points(study_table)
    assert len(data) == study_table["run_id"].nunique()
    assert data.cluster == "trunk_id"
    assert data.frame["cluster"].nunique() == study_table["trunk_id"].nunique()
    assert {"run_id", "seed", "arm", "unique_tokens"} <= set(data.frame)
    assert points(data) is data


def test_unfinished_runs_are_named_when_left_out(study_table):
    run = study_table["run_id"].iloc[0]
    table = study_table.assign(state=np.where(study_table["run_id"] == run, "diverged", "done"))
    data = points(table)
    assert len(data) == study_table["run_id"].nunique() - 1
    assert any(run in note and "1 runs" in note for note in data.notes)


def test_the_cost_follows_exact_flops_and_is_six_for_6nd(study_table):
    six = points(study_table, compute="6nd").cost
    assert (six.k, six.slope) == pytest.approx((6.0, 0.0))
    data = points(study_table)
    assert -0.1 < data.cost.slope < 0  # attention weighs less in larger models
    ratio = data.cost.flops(data.frame["n_params"], data.frame["tokens"]) / data.frame["flops"]
    assert np.abs(np.log(ratio)).max() < 0.06


def _shape(width, layers):
    return ModelConfig("transformer", vocab_size=256, context_length=64, n_layer=layers, d_model=width, n_head=1)


def _family_table(shapes):
    """The run table of one run of each shape (width, layers), 20 tokens a parameter."""
    rows = []
    for width, layers in shapes:
        config = _shape(width, layers)
        tokens = 20 * n_matrices(config)
        counts = {f"n_params_{g}": v for g, v in count_groups(config).items()}
        flops = {f"flops_token_{g}": float(v) for g, v in flops_per_token(config).items()}
        rows.append(counts | flops | {
            "run_id": f"{width}", "state": "done", "final": True, "family": "transformer", "n_layer": layers,
            "d_model": width, "vocab_size": 256, "context_length": 64, "tied": False, "tokens": tokens,
            "n_params_total": n_total(config), "flops": training_flops_per_token(config) * tokens, "loss": 2.0,
        })  # fmt: skip
    return pd.DataFrame(rows)


@pytest.mark.parametrize("kept", ["shapes", "counts alone"])
@pytest.mark.parametrize("params", ["matrices", "active"])
@pytest.mark.parametrize("largest", [32, 48, 64, 80])
def test_the_cost_of_larger_models_is_that_of_their_family(largest, params, kept):
    """The sizes of conf/model: 16 of width a layer, two layers at least. 1e6 to 1e10 parameters."""
    table = _family_table([(d, max(2, d // 16)) for d in (8, 12, 16, 20, 24, 32, 40, 48, 56, 64, 80) if d <= largest])
    data = points(table, params=params)
    if kept == "counts alone":
        data = points(data.frame[["n_params", "tokens", "flops", "loss"]])
    for width in (112, 160, 256, 512, 1024, 2384):
        config = _shape(width, width // 16)
        own, n = training_flops_per_token(config), (n_matrices if params == "matrices" else n_active)(config)
        assert data.cost.flops(n, 1.0) == pytest.approx(own, rel=0.01)
    assert (data.cost.rate(np.geomspace(1e3, 1e13, 99)) >= 6).all()
    n, tokens, flops = data.frame[["n_params", "tokens", "flops"]].to_numpy(float).T
    assert data.cost.flops(n, tokens) == pytest.approx(flops, rel=0.015)


@pytest.mark.parametrize("params", ["matrices", "active", "total", "no-embedding"])
def test_the_cost_under_every_count_of_parameters_tends_to_six(params):
    table = _family_table([(d, max(2, d // 16)) for d in (8, 12, 16, 24, 32, 48, 64)])
    cost = points(table, params=params).cost
    assert cost.rate(1e11) == pytest.approx(6, rel=0.01)


def test_one_model_of_a_family_tells_how_its_cost_goes_on():
    cost = points(_family_table([(64, 4)])).cost
    config = _shape(512, 32)
    assert cost.flops(n_matrices(config), 1.0) == pytest.approx(training_flops_per_token(config), rel=0.01)


def test_an_extrapolated_cost_is_said_with_its_rule():
    data = points(_family_table([(d, max(2, d // 16)) for d in (8, 16, 32, 64)]))
    assert data.cost_notes(2e5) == []
    (reported,) = data.cost_notes(1e8)
    assert "6.06 at 1e+08 parameters, tending to 6 as in models whose width per layer stays the same" in reported
    assert points(data.frame, compute="6nd").cost_notes(1e8) == []


def test_a_plain_table_is_taken_as_given_and_missing_flops_are_said():
    table = pd.DataFrame({"n_params": [1e6, 2e6], "tokens": [1e7, 2e7], "loss": [3.0, 2.9]})
    data = points(table)
    np.testing.assert_allclose(data.frame["flops"], [6e13, 2.4e14])
    assert (data.params, data.compute, data.cluster) == ("as given", "6nd", "row")
    assert any("6 x n_params x tokens" in n for n in data.notes)
    given = points(table.assign(flops=[7e13, 2e14]))
    assert (given.compute, given.frame["flops"].tolist()) == ("as given", [7e13, 2e14])
    assert points(table.assign(flops=1.0), compute="6nd").frame["flops"].tolist() == [6e13, 2.4e14]


def test_a_table_of_compute_and_loss_is_enough_for_a_law_of_compute():
    data = points(pd.DataFrame({"flops": [1e15, 1e16], "loss": [3.0, 2.5]}))
    assert data.frame["n_params"].isna().all()
    with pytest.raises(TableError, match="n_params, tokens and flops"):
        _ = data.cost


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"params": "matrics"}, "did you mean 'matrices'"),
        ({"compute": "exakt"}, "did you mean 'exact'"),
        ({"params": "total"}, "--map n_params=COLUMN"),
        ({"compute": "full-attention"}, "needs a run table"),
        ({"cluster": "runid"}, "no column 'runid'"),
    ],
)
def test_an_unknown_or_unanswerable_convention_names_the_remedy(options, message):
    table = pd.DataFrame({"n_params": [1e6], "tokens": [1e7], "loss": [3.0], "run_id": ["a"]})
    with pytest.raises(TableError, match=message):
        points(table, **options)


def test_no_finished_run_and_empty_clusters_are_errors(study_table):
    with pytest.raises(TableError, match="no run has finished"):
        points(study_table.assign(state="diverged"))
    with pytest.raises(TableError, match="is empty in 1 of 2 rows"):
        points(pd.DataFrame({"n_params": 1e6, "tokens": 1e7, "loss": 3.0, "run_id": ["a", None]}))


@pytest.mark.parametrize("column", ["unique_tokens", "vocab_size", "weight"])
@pytest.mark.parametrize(("value", "what"), [(-5.0, "zero or negative"), (np.inf, "infinite")])
def test_an_optional_count_that_cannot_be_one_is_named_with_its_file_column_and_row(column, value, what, tmp_path):
    path = tmp_path / "runs.csv"
    table = pd.DataFrame({"n_params": [1e6, 2e6, 4e6], "tokens": [1e8, 1e8, 1e8], "loss": [4.0, 3.5, 3.0]})
    table.assign(**{column: [100.0, value, 300.0]}).to_csv(path, index=False)
    with pytest.raises(TableError, match=rf"runs\.csv: {column} is {what} in 1 of 3 rows \(row 2\)"):
        points(read_table(path))


def test_an_optional_count_may_be_unknown_and_rows_keep_their_numbers_where_others_are_left_out():
    table = pd.DataFrame({"n_params": [1e6, 2e6, 4e6], "tokens": [1e8, 1e8, 1e8], "loss": [4.0, 3.5, 3.0]})
    known = points(table.assign(unique_tokens=[np.nan, 1e7, np.nan])).frame["unique_tokens"]
    np.testing.assert_array_equal(known, [np.nan, 1e7, np.nan])
    with pytest.raises(TableError, match=r"weight is NaN or empty in 1 of 2 rows \(row 3\)"):
        points(table.assign(weight=[0.0, 1.0, np.nan]))


@pytest.mark.parametrize("column", ["arm", "seed", "gate_pair"])
@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_rows_without_a_name_among_named_ones_have_an_order(tmp_path, column, form):
    path = tmp_path / f"runs.{form}"
    table = pd.DataFrame(
        {column: ["x", None, "a", None], "N": [4e8, 2e8, 1e8, 1e8], "D": 1e9, "loss": [3, 3.2, 3.4, 3.5]}
    )
    table.to_csv(path, index=False) if form == "csv" else table.to_json(path, orient="records", lines=True)
    ordered = points(read_table(path)).in_order()
    turned = points(read_table(path).iloc[::-1]).in_order()
    pd.testing.assert_frame_equal(ordered.frame, turned.frame)
    assert sorted(ordered.frame["loss"]) == [3, 3.2, 3.4, 3.5]


@pytest.mark.parametrize("column", ["run_id", "trunk_id"])
def test_an_empty_cluster_is_named_by_row_and_the_remedy_works(tmp_path, column):
    path = tmp_path / "runs.csv"
    pd.DataFrame({column: ["x", None, "a"], "N": [4e8, 2e8, 1e8], "D": 1e9, "loss": [3, 3.2, 3.4]}).to_csv(
        path, index=False
    )
    with pytest.raises(TableError) as printed:
        points(read_table(path))
    assert str(printed.value) == (
        f"the cluster column '{column}' is empty in 1 of 3 rows (row 2); fill it, or leave these out with "
        f"--where 'notna({column})'"
    )
    assert len(points(read_table(path, where=f"notna({column})"))) == 2


def test_what_a_table_holds_counts_and_not_that_a_file_was_read(tmp_path):
    """A table that `read_table` gave may be edited: the same rows give the same points, whatever its attrs."""
    KNOWN.to_csv(tmp_path / "runs.csv", index=False)
    table = read_table(tmp_path / "runs.csv")
    assert points(table).notes == points(KNOWN).notes
    table["state"] = "finished"
    table.loc[:2, "state"] = "crashed"
    fresh = pd.DataFrame(table.to_dict("list"))
    assert len(points(table)) == len(points(fresh)) == len(KNOWN) - 3
    assert any("3 of 9 rows are left out, their runs did not finish" in note for note in points(table).notes)
    words = read_table(tmp_path / "runs.csv")
    words["n_params"] = [f"{n / 1e6}M" for n in words["n_params"]]
    assert points(words).frame["n_params"].tolist() == KNOWN["n_params"].tolist()


def test_runs_that_the_user_chose_by_their_state_stay(tmp_path):
    states = ["crashed"] * 3 + ["finished"] * 6
    KNOWN.assign(state=states).to_csv(tmp_path / "runs.csv", index=False)
    chosen = read_table(tmp_path / "runs.csv", where="state == 'crashed' or loss > 0")
    assert len(points(chosen)) == len(KNOWN)
    assert len(points(read_table(tmp_path / "runs.csv"))) == len(KNOWN) - 3


@pytest.mark.parametrize("name", ["bpb", "perplexity", "loss (bits)", "nats_per_byte"])
def test_the_unit_of_a_loss_stays_where_tables_are_put_together_or_written(tmp_path, name):
    KNOWN.rename(columns={"loss": name}).to_csv(tmp_path / "a.csv", index=False)
    table = read_table(tmp_path / "a.csv")
    whole = points(table)
    parts = pd.concat([pd.DataFrame(table.iloc[:4].to_dict("list")), pd.DataFrame(table.iloc[4:].to_dict("list"))])
    table.to_csv(tmp_path / "b.csv", index=False)
    for again in (points(parts), points(read_table(tmp_path / "b.csv"))):
        assert again.loss_unit == whole.loss_unit
        np.testing.assert_allclose(again.frame["loss"], whole.frame["loss"], rtol=1e-12)


def test_losses_that_were_stated_in_bits_are_converted_once(tmp_path):
    KNOWN.assign(loss_unit="bits/byte").to_csv(tmp_path / "a.csv", index=False)
    table = read_table(tmp_path / "a.csv")
    again = points(pd.DataFrame(table.to_dict("list")))
    assert again.loss_unit == points(table).loss_unit == "nats/byte"
    np.testing.assert_allclose(again.frame["loss"], KNOWN["loss"] * np.log(2))


TAKE_POINTS = {  # every function that takes Points and conventions
    "points": points,
    "fit": partial(fit, "chinchilla"),
    "predict": partial(predict, flops=1e20),
    "predict at": partial(predict, at={"n_params": 1e9, "tokens": 1e10}, laws="chinchilla"),
    "predict_table": partial(predict_table, at=KNOWN),
    "forecast_loss": partial(forecast_loss, target=None),
    "hold_out": hold_out,
    "choose": choose,
    "compare": compare,
    "plan_from_table": partial(plan_from_table, budget=1e12, target=1e14),
    "chinchilla_sensitivity": chinchilla_sensitivity,
}


@pytest.mark.parametrize("name", TAKE_POINTS)
@pytest.mark.parametrize(
    ("params", "compute"), [("total", None), ("matrices", "6nd"), (None, "bogus"), ("bogus", None)]
)
def test_points_have_their_conventions_and_no_others(name, params, compute, study_table):
    own = points(study_table)
    with pytest.raises(TableError, match=r"these Points are of (params='matrices'|compute='exact'); give their table"):
        TAKE_POINTS[name](own, params=params, compute=compute)


def test_points_have_their_clusters_and_none_others(study_table):
    own = points(study_table, params="total", compute="6nd", cluster="row")
    assert points(own) is own
    assert points(own, params="total", compute="6nd", cluster="row") is own
    assert fit("power", own, params="total", n_starts=2).points.cluster == "row"
    with pytest.raises(TableError, match="cluster='trunk_id': these Points are of cluster='row'"):
        fit("power", own, cluster="trunk_id")
