"""Runs in a CSV are read in the types of runs, or refused by column, rows and value, and never as something else."""

import numpy as np
import pandas as pd
import pytest

import isoflop
from isoflop.scaling.table.conventions import points
from isoflop.scaling.table.formats.run_columns import COLUMNS, NEEDED, PARAM_GROUPS, VOLATILE
from isoflop.scaling.table.formats.run_rows import LEAST
from isoflop.scaling.table.migrate import SHAPE
from isoflop.scaling.table.read import read_table
from isoflop.scaling.table.runs import is_runs


@pytest.fixture
def as_csv(study_table, tmp_path):
    """Reads a study as a CSV of it, with what a person did to it before."""

    def read(change=lambda frame: frame):
        change(study_table.astype(object)).to_csv(tmp_path / "study.csv", index=False)
        return read_table(tmp_path / "study.csv")

    return read


def test_runs_in_a_csv_are_read_in_the_types_of_runs(as_csv, study_table):
    table = as_csv()
    assert is_runs(table)
    for name in (column.name for column in COLUMNS):
        kept = study_table[name]
        pd.testing.assert_series_equal(table[name].astype(kept.dtype), kept, check_names=False, check_index=False)
    assert table["final"].dtype == table["tied"].dtype == bool
    older = as_csv(lambda frame: frame.drop(columns=["weight_bits", "activation_bits", "mixture", "engine"]))
    assert set(older["weight_bits"]) == {32}
    assert set(older["mixture"]) == {""}


@pytest.mark.parametrize("column", [c for c in COLUMNS if c.dtype != "string"], ids=lambda c: c.name)
def test_a_word_among_the_numbers_of_runs_is_named(as_csv, column):
    def damaged(frame):
        return frame.assign(**{column.name: frame[column.name].where(frame.index != 7, "many")})

    kind = "true or false" if column.dtype == "bool" else "a (whole )?number( of [01] or more)?"
    with pytest.raises(ValueError, match=rf"study\.csv: {column.name} is not {kind} in 1 of \d+ rows .*'many'"):
        as_csv(damaged)


BY_THESE = ("final", "state", "n_params_total", *(f"n_params_{group}" for group in PARAM_GROUPS))  # runs are known
NOT_LOSS = [name for name in NEEDED if name not in (*BY_THESE, "loss")]  # in its place train_loss is taken, and said


@pytest.mark.parametrize("column", NOT_LOSS)
def test_runs_without_what_every_run_has_are_refused_by_name(as_csv, column):
    with pytest.raises(ValueError, match=rf"study\.csv: .*{column}"):
        as_csv(lambda frame: frame.drop(columns=column))


@pytest.mark.parametrize(
    ("name", "value"), [("tied", None), ("n_layer", None), ("d_ff", 2.5), ("n_head", 1e300), ("seed", np.inf)]
)
def test_what_is_no_yes_or_no_and_no_whole_number_is_refused(as_csv, name, value):
    with pytest.raises(
        ValueError,
        match=rf"study\.csv: {name} is not (true or false|a whole number( of [01] or more)?) in 1 of \d+ rows",
    ):
        as_csv(lambda frame: frame.assign(**{name: frame[name].where(frame.index != 7, value)}))


def test_what_a_run_may_lack_may_be_empty(as_csv):
    table = as_csv(lambda frame: frame.assign(peak_memory_bytes=None, loss_floor=None, engine=None))
    assert table["peak_memory_bytes"].isna().all()
    assert set(table["engine"]) == {""}


@pytest.mark.parametrize("name", SHAPE)
def test_what_follows_from_the_counts_may_be_lacking(as_csv, name):
    whole = as_csv()
    lacking = as_csv(lambda frame: frame.drop(columns=name))
    pd.testing.assert_frame_equal(lacking[whole.columns], whole, check_dtype=False)


def test_clocks_and_machines_may_be_lacking(as_csv):
    table = as_csv(lambda frame: frame.drop(columns=list(VOLATILE)))
    assert table["wall_seconds"].isna().all()
    assert set(table["code_version"]) == {""}
    assert len(points(table)) == len(points(as_csv()))


def test_a_shape_that_no_model_has_is_worked_out_to_nothing(as_csv):
    table = as_csv(lambda frame: frame.drop(columns=list(SHAPE)).assign(d_ff=0))
    assert set(table["experts"]) == {0}


@pytest.mark.parametrize("name", [c.name for c in COLUMNS if c.dtype == "int64"])
def test_counts_are_no_less_than_they_can_be(as_csv, name):
    def with_one(value):
        return as_csv(lambda frame: frame.assign(**{name: frame[name].where(frame.index != 7, value)}))

    least = LEAST.get(name, 0)
    assert max(least, -5) in set(with_one(max(least, -5))[name])
    if name != "seed":
        with pytest.raises(ValueError, match=rf"study\.csv: {name} is not a whole number of {least} or more in 1 of"):
            with_one(least - 1)


@pytest.mark.parametrize("change", [{"n_layer": "many"}, {"loss": "none"}, {"tokens": -1.0}])
def test_spoiled_runs_are_not_read_as_something_else(study_table, tmp_path, change):
    """An importer reads a CSV of curves by other conventions, in silence if the runs in it were taken for some."""
    damaged = study_table.astype(object).assign(**change)
    damaged.to_csv(tmp_path / "study.csv", index=False)
    with pytest.raises(ValueError, match=f"study\\.csv: .*{next(iter(change))}"):
        points(isoflop.read_table(tmp_path / "study.csv"))
