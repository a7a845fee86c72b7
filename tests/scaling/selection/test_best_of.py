"""--best-of: the best value of a setting in each cell, ties and edges said; the lowest run of each cell."""

import numpy as np
import pandas as pd
import pytest

from isoflop.scaling.selection.best_of import best_of
from isoflop.scaling.table.columns import TableError
from isoflop.scaling.table.conventions import points


def rates() -> pd.DataFrame:
    """Two cells, four rates, two seeds; the optimum inside in one cell and at the largest rate in the other."""
    rows = [
        (n, 1e9, rate, seed, 3 + bowl * np.log(rate / best) ** 2 + 0.01 * seed)
        for n, best, bowl in ((1e6, 0.01, 0.1), (2e6, 0.1, 0.1))
        for rate in (0.001, 0.003, 0.01, 0.03)
        for seed in (0, 1)
    ]
    return pd.DataFrame(rows, columns=["n_params", "tokens", "learning_rate", "seed", "loss"])


def test_the_best_rate_of_each_cell_keeps_all_its_seeds_and_edges_are_said():
    kept = best_of(rates(), ["learning_rate"])
    assert sorted(kept["learning_rate"]) == [0.01, 0.01, 0.03, 0.03]
    assert kept.attrs["notes"][0] == "best learning_rate of each cell: 4 of 16 runs kept, of 2 cells"
    assert "at an edge of those tried in 1 of 2 cells (learning_rate 0.03)" in kept.attrs["notes"][1]


def test_a_lucky_seed_does_not_choose_the_rate():
    table = rates()
    table.loc[(table["learning_rate"] == 0.003) & (table["seed"] == 0) & (table["n_params"] == 1e6), "loss"] -= 0.13
    assert 0.003 not in set(best_of(table, ["learning_rate"])["learning_rate"])


def test_the_lowest_run_of_each_cell_and_ties():
    table = rates()
    kept = best_of(table, ["n_params", "tokens"])
    assert kept["loss"].tolist() == table.groupby("n_params")["loss"].min().tolist()
    flat = table.assign(loss=3.0)
    lowest = best_of(flat, ["n_params", "tokens"])
    assert len(lowest) == 2
    assert "14 runs tied with one that was kept" in lowest.attrs["notes"]
    assert "6 values of learning_rate tied with one that was kept" in best_of(flat, ["learning_rate"]).attrs["notes"]


def curves_of(ends: pd.DataFrame) -> pd.DataFrame:
    """Curves of five rows that end in these: on the way the order of the rates is the other way round."""
    at = [0.2, 0.4, 0.6, 0.8, 1.0]
    return pd.concat([
        ends.assign(
            run=[f"r{k}" for k in range(len(ends))], tokens=ends["tokens"] * share, logged=share,
            loss=ends["loss"] if share == 1 else 9 - share - ends["loss"],
        ) for share in at
    ], ignore_index=True)  # fmt: skip


@pytest.mark.parametrize("columns", [["learning_rate"], ["n_params"], ["n_params", "tokens"]])
def test_curves_are_compared_by_their_ends_and_kept_whole(columns):
    ends = rates().assign(tokens=lambda t: t["tokens"] * t["n_params"] / 1e6)
    table = curves_of(ends)
    kept, of_ends = best_of(table, columns), best_of(ends, columns)
    last = kept.groupby("run").tail(1)
    pd.testing.assert_frame_equal(last[list(ends)].reset_index(drop=True), of_ends, check_like=True)
    assert len(kept) == 5 * len(last)
    assert kept.attrs["notes"] == of_ends.attrs["notes"]
    assert len(points(kept)) == len(of_ends)


def test_a_column_that_changes_within_a_run_chooses_nothing():
    with pytest.raises(TableError, match=r"--best-of logged: it changes along the curve of a run .column run."):
        best_of(curves_of(rates()), ["logged"])


def test_runs_that_were_stopped_stand_for_their_forecasts(study_table):
    kept = best_of(study_table, ["n_params_total", "horizon_tokens"])
    stopped = study_table.assign(state="stopped")
    assert best_of(stopped, ["n_params_total", "horizon_tokens"]).shape == kept.shape


def test_arms_keep_a_best_rate_each():
    both = pd.concat([rates().assign(arm="a"), rates().assign(arm="b")], ignore_index=True)
    assert best_of(both, ["learning_rate"])["arm"].value_counts().to_dict() == {"a": 4, "b": 4}


def test_what_cannot_be_chosen_is_one_line():
    with pytest.raises(TableError, match="no such column; did you mean 'learning_rate'\\? \\(columns: "):
        best_of(rates(), ["learning_rat"])
    with pytest.raises(TableError, match="never varies"):
        best_of(rates().assign(batch=1), ["batch"])
    with pytest.raises(TableError, match="not both"):
        best_of(rates(), ["n_params", "learning_rate"])


@pytest.mark.parametrize(
    ("requested", "there"), [("learning_rate", "LR"), ("lr", "peak_learning_rate"), ("wd", "weight_decay")]
)
def test_a_setting_by_another_name_is_proposed(requested, there):
    with pytest.raises(TableError, match=rf"--best-of {requested}: no such column; did you mean '{there}'\?"):
        best_of(pd.DataFrame({"n_params": [1e8], "tokens": [1e9], there: [1e-3], "loss": [3.0]}), [requested])
