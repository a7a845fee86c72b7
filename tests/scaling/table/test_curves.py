"""Several rows of one run at rising tokens are its curve; the last is what a law is fitted to."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoflop.scaling.imports.assemble import ImportOptions
from isoflop.scaling.imports.read import import_source
from isoflop.scaling.table.columns import TableError
from isoflop.scaling.table.conventions import points
from isoflop.scaling.table.curves import blocks, curves


def table_of(runs: dict[str, list[float]], column: str = "run_id") -> pd.DataFrame:
    """A row for every evaluation: tokens by run; a run has a size of its own."""
    rows = [
        {column: run, "n_params": 1e6 * (k + 1), "tokens": 1e6 * at, "loss": 2 + 1 / (1 + at) + k / 10}
        for k, (run, steps) in enumerate(runs.items()) for at in steps
    ]  # fmt: skip
    return pd.DataFrame(rows)


RUNS = st.dictionaries(
    st.text("abc", min_size=1, max_size=3),
    st.lists(st.integers(1, 50), min_size=1, max_size=6, unique=True), min_size=2, max_size=6,
)  # fmt: skip


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(RUNS, st.randoms(use_true_random=False), st.sampled_from(["run_id", "Run", "run_name", "Run ID"]))
def test_the_last_row_of_every_run_is_fitted_in_any_order_of_rows(runs, random, column):
    table = table_of(runs, column)
    table = table.iloc[random.sample(range(len(table)), len(table))].reset_index(drop=True)
    found = points(table)
    expected = {(k + 1) * 1e6: 1e6 * max(steps) for k, steps in enumerate(runs.values())}
    assert dict(zip(found.frame["n_params"], found.frame["tokens"], strict=True)) == expected
    assert len(found) == len(runs)
    reported = [note for note in found.notes if "training curves" in note]
    repeated = any(len(steps) > 1 for steps in runs.values())
    assert (
        reported
        == [
            f"{len(table)} rows are training curves of {len(runs)} runs: the last row of each is used "
            f"(column {column}, along tokens)"
        ]
        * repeated
    )


def test_a_run_whose_last_loss_is_none_is_left_out_whole_and_one_on_the_way_only_as_a_row(tmp_path):
    table = table_of({"a": [1, 2, 3], "b": [1, 2, 3], "c": [1, 2, 3], "d": [1, 2, 3]})
    table.loc[[2, 4, 9], "loss"] = [np.inf, 0.0, -np.inf]  # the end of a, the middle of b, the begin of d
    found = points(table)
    assert found.frame["run_id"].tolist() == ["b", "c", "d"]
    assert (found.frame["tokens"] == 3e6).all()
    reported = [note for note in found.notes if "training curves" in note]
    assert reported == [
        "12 rows are training curves of 3 runs (2 whose loss is no positive number): the last row of each is used "
        "(column run_id, along tokens); 1 runs are left out, their last loss is not a positive number (a)"
    ]
    held = curves(table)
    assert np.isfinite(held.frame["loss"]).all()
    table.to_csv(tmp_path / "t.csv", index=False)
    made = import_source(tmp_path / "t.csv", "auto", ImportOptions(), {})
    assert made.ends["run_id"].tolist() == ["b", "c", "d"]
    assert made.table["run_id"].value_counts().to_dict() == {"c": 3, "b": 2, "d": 2}
    assert [(one.run, one.whole) for one in made.left_out] == [("a", False), ("a", True), ("b", False), ("d", False)]
    table["loss"] = np.inf
    with pytest.raises(TableError, match="the last loss of every run is not a positive number"):
        points(table)


def test_rows_that_are_runs_stay():
    same_place = pd.DataFrame({"run_id": ["a", "a", "b"], "n_params": 1e6, "tokens": 1e8, "loss": [3.0, 3.1, 3.2]})
    other_size = pd.DataFrame({"run": [1, 1, 2], "n_params": [1e6, 2e6, 1e6], "tokens": [1e8, 2e8, 1e8], "loss": 3.0})
    for table in (same_place, other_size):
        assert curves(table) is None
        assert len(points(table)) == 3


def test_a_name_that_may_be_of_a_size_tells_curves_only_along_steps_or_with_many_rows():
    few, many = (table_of({name: list(range(1, n)) for name in "abc"}, "name") for n in (5, 30))
    assert curves(few) is None
    assert len(points(few)) == 12
    assert len(curves(many).ends) == 3
    grid = table_of({name: [2**k for k in range(12)] for name in "abc"}, "name")  # a size at many budgets
    assert curves(grid) is None
    assert len(curves(few.assign(step=few["tokens"] / 1e3)).ends) == 3


def test_blocks_of_rising_steps_are_runs_named_by_what_tells_them_apart():
    rows = [
        {"step": 100 * k, "lr": 1 / k, "loss": 2 + 1 / k, "model_size_m": size, "schedule": schedule}
        for size in (25, 100) for schedule in ("cosine", "wsd") for k in range(1, 21)
    ]  # fmt: skip
    found = points(pd.DataFrame(rows))
    assert found.frame["n_params"].tolist() == [25e6, 25e6, 100e6, 100e6]
    assert found.frame["loss"].tolist() == [2.05] * 4
    assert any("80 rows are training curves of 4 runs" in note and "n_params, schedule" in note for note in found.notes)
    assert len(points(pd.DataFrame(rows).assign(step=["x", *range(79)]))) == 80  # a word is no step
    runs = pd.DataFrame(rows)[["loss", "model_size_m"]].assign(step=[100, 200] * 40)  # runs of two lengths
    assert len(points(runs)) == 80


def test_a_row_written_twice_and_rows_without_a_loss_are_counted():
    table = table_of({f"r{k}": list(range(1, 41)) for k in range(5)})
    again = table.iloc[[39]].assign(loss=1.5)
    blank = table.iloc[[0]].assign(tokens=9e9, loss=np.nan)
    found = curves(pd.concat([table, again, blank], ignore_index=True))
    assert (found.repeated, found.empty) == (1, 1)
    assert found.ends["loss"].iloc[0] == pytest.approx(2 + 1 / 41 + 0.1)  # of r1: r0 ends in the row written again
    assert 1.5 in found.ends["loss"].tolist()
    assert "(1 written twice, 1 without a loss)" in found.note(202)


def test_few_rows_under_the_name_of_a_model_may_be_runs_and_the_remedy_makes_them_so():
    sizes, steps = np.repeat([1e8, 2e8, 4e8, 8e8], 4), np.tile([1000, 2000, 4000, 8000], 4)
    names = [f"m{n:g}" for n in sizes]
    rows = pd.DataFrame({"Model": names, "n_params": sizes, "Step": steps, "tokens": steps * 2e6})
    rows = rows.assign(loss=1.8 + 400 / sizes**0.34 + 1200 / rows["tokens"] ** 0.37)
    message = "; ".join(points(rows).notes)
    assert "16 rows are training curves of 4 runs" in message
    assert (
        "where each row is a run of its own, leave out the column of steps, or name rows by a column run_id" in message
    )
    assert len(points(rows.drop(columns="Step"))) == len(points(rows.assign(run_id=range(16)))) == 16
    assert "run of its own" not in "; ".join(points(rows.rename(columns={"Model": "run_id"})).notes)


def test_rows_without_a_loss_are_of_the_block_around_them():
    """Rows of training after the last evaluation of a run are its own, those before the first of the next its."""
    steps = [*range(10, 101, 10), 100, *range(110, 151, 10), *range(10, 101, 10), 99, *range(110, 121, 10)]
    losses = [3.0 if k in (10, 26) else np.nan for k in range(len(steps))]
    by, names = blocks(pd.DataFrame({"step": steps, "loss": losses}), "step")
    assert by == "step"
    assert names.tolist() == ["run#1"] * 16 + ["run#2"] * 13
    assert blocks(pd.DataFrame({"step": steps, "loss": np.nan}), "step") is None
