"""Simulated studies are real run tables, and noise-free ones hold exactly the law."""

import numpy as np
import pytest

from isoflop.scaling.design.simulate import simulate_points, simulate_study
from isoflop.scaling.table.conventions import points
from isoflop.scaling.table.formats.run_columns import NAMES
from isoflop.scaling.table.runs import read_runs, validate, write_run


def test_a_noise_free_study_is_the_law(study_law):
    frame = points(simulate_study(study_law)).frame
    np.testing.assert_allclose(frame["loss"], study_law(frame["n_params"], frame["tokens"]), rtol=1e-12)


@pytest.mark.slow
def test_a_study_is_a_valid_run_table_that_survives_the_disk(study_table, tmp_path):
    assert tuple(study_table.columns) == NAMES
    validate(study_table, source="simulated")
    for run, rows in study_table.groupby("run_id"):
        write_run(tmp_path / "cells" / run / "run.parquet", rows.to_dict("records"), {})
    assert read_runs(tmp_path).equals(study_table)


def test_cells_of_one_trunk_share_its_rows_and_end_at_their_own_horizon(study_table):
    curves = study_table[~study_table["final"]]
    assert (curves.groupby(["trunk_id", "tokens"])["loss"].nunique() == 1).all()
    assert (curves["tokens"] <= 0.8 * curves["horizon_tokens"]).all()
    last = study_table[study_table["final"]]
    assert (last["tokens"] == last["horizon_tokens"]).all()
    np.testing.assert_allclose(last["flops"], last["budget_flops"], rtol=0.03)
    assert last["trunk_id"].nunique() < len(last)


def test_curves_can_be_left_out_and_seeds_replicate(study_law):
    table = simulate_study(study_law, curves=False, seeds=(0, 1), noise=0.01)
    assert table["final"].all()
    assert (table.groupby(["d_model", "budget_flops"])["loss"].nunique() == 2).all()


def test_noise_has_the_size_asked_for_and_follows_the_seed(study_law):
    n, d = np.full(4000, 1e5), np.full(4000, 1e7)
    table = simulate_points(study_law, n, d, noise=0.01, seed=3)
    error = np.log(table["loss"] / study_law(n, d))
    assert error.std() == pytest.approx(0.01, rel=0.05)
    assert table.equals(simulate_points(study_law, n, d, noise=0.01, seed=3))
    assert not table.equals(simulate_points(study_law, n, d, noise=0.01, seed=4))


def test_the_share_of_outliers_is_exact(study_law):
    table = simulate_points(study_law, np.full(200, 1e5), 1e7, outliers=0.1)
    assert (np.log(table["loss"] / study_law(1e5, 1e7)) > 0.04).sum() == 20


def test_no_cell_left_is_an_error(study_law):
    with pytest.raises(ValueError, match="widen factor"):
        simulate_study(study_law, sizes=(), budgets=(1e11,))
