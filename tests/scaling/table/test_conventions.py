"""Conventions give the counts they name, and nothing is dropped or assumed in silence."""

import numpy as np
import pandas as pd
import pytest

from isoflop.scaling.table.columns import TableError
from isoflop.scaling.table.conventions import count_params, points
from isoflop.scaling.table.runs import PARAM_GROUPS


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
    with pytest.raises(TableError, match="no finished run"):
        points(study_table.assign(state="diverged"))
    with pytest.raises(TableError, match="is empty in 1 rows"):
        points(pd.DataFrame({"n_params": 1e6, "tokens": 1e7, "loss": 3.0, "run_id": ["a", None]}))
