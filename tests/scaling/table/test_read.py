"""Bad tables end in one clear line that names the column or the rows and the remedy."""

import json

import numpy as np
import pandas as pd
import pytest

from isoflop.scaling.imports.assemble import ImportOptions
from isoflop.scaling.imports.read import import_source
from isoflop.scaling.imports.source import SourceError
from isoflop.scaling.table.columns import TableError, near_match
from isoflop.scaling.table.conventions import points
from isoflop.scaling.table.read import MAX_POINTS, read_table
from isoflop.scaling.table.runs import RunTableError, compact, write_run


@pytest.fixture
def good():
    n, d = np.meshgrid([1e6, 2e6, 4e6], [1e7, 4e7, 1.6e8])
    return pd.DataFrame({"n_params": n.ravel(), "tokens": d.ravel(), "loss": np.linspace(4, 3, 9)})


@pytest.fixture
def save(tmp_path):
    def write(frame, name="runs.csv"):
        path = tmp_path / name
        frame.to_parquet(path) if path.suffix == ".parquet" else frame.to_csv(path, index=False)
        return path

    return write


def test_csv_and_parquet_read_alike(good, save):
    pd.testing.assert_frame_equal(read_table(save(good)), read_table(save(good, "runs.parquet")))


@pytest.mark.slow
def test_a_store_a_run_file_and_a_compacted_table_read_alike(study_table, tmp_path):
    for run, rows in study_table.groupby("run_id"):
        write_run(tmp_path / "runs" / "cells" / run / "run.parquet", rows.to_dict("records"), {})
    compact(tmp_path / "runs", tmp_path / "all.parquet")
    assert read_table(tmp_path / "runs").equals(read_table(tmp_path / "all.parquet"))


@pytest.fixture
def shared(study_table, tmp_path):
    """A runs folder whose three runs were trained under arm a; study two has two of them, the first in another arm."""
    ids = list(study_table["run_id"].unique()[:3])
    for run in ids:
        rows = study_table[study_table["run_id"] == run].assign(arm="a")
        write_run(tmp_path / "runs" / "cells" / run / "run.parquet", rows.to_dict("records"), {})
    (tmp_path / "runs" / "studies").mkdir()
    listed = {
        "one": [{"run_id": run, "arm": "a"} for run in ids],
        "two": [{"run_id": ids[0], "arm": "b"}, {"run_id": ids[1], "arm": "a"}],
        "old": [{"run_id": ids[2]}],
    }
    for name, cells in listed.items():
        (tmp_path / "runs" / "studies" / f"{name}.json").write_text(json.dumps({"cells": cells}))
    return tmp_path / "runs", ids


def test_runs_that_studies_share_stand_in_the_arm_of_the_study_that_is_named(shared):
    runs, ids = shared

    def arms(study):
        table = read_table(runs, study=study)
        return table.groupby("run_id")["arm"].unique().map(list).to_dict()

    assert arms("two") == {ids[0]: ["b"], ids[1]: ["a"]}
    assert arms("one") == {run: ["a"] for run in ids}
    assert arms("old") == {ids[2]: ["a"]}  # a listing without arms
    assert list(read_table(runs, study="two", where="arm == 'b'")["run_id"].unique()) == [ids[0]]
    assert read_table(runs, study="two").dtypes.equals(read_table(runs).dtypes)


def test_without_a_study_a_note_counts_the_runs_that_another_has_in_another_arm(shared):
    runs, _ = shared
    (note,) = read_table(runs).attrs["notes"]
    assert "another 1 in study two: name one with --study" in note
    assert not any("arm" in note for note in read_table(runs, study="two").attrs["notes"])
    (runs / "studies" / "two.json").write_text("{}")  # --study two names it, and nothing else needs it
    assert not read_table(runs).attrs["notes"]


@pytest.mark.parametrize(
    ("renamed", "message"),
    [
        ({"loss": "losss"}, "no column 'loss'; did you mean 'losss'. Use --map loss=losss"),
        ({"n_params": "size"}, "no column 'n_params'; did you mean 'size'"),
        ({"n_params": "n_prams", "loss": "zzz"}, "no column 'loss'; name .*; no column 'n_params'; did you mean 'n_pr"),
        ({"loss": "zzz"}, "name yours with --map loss=COLUMN"),
    ],
)
def test_a_missing_column_names_the_near_match(good, save, renamed, message):
    with pytest.raises(TableError, match=message):
        read_table(save(good.rename(columns=renamed)))


def test_misspelt_tokens_are_an_error_and_absent_ones_are_not(good, save):
    with pytest.raises(TableError, match="no column 'tokens'; did you mean 'tokns'"):
        points(read_table(save(good.rename(columns={"tokens": "tokns"}))))
    assert points(read_table(save(good.drop(columns="tokens")))).frame["tokens"].isna().all()
    table = read_table(save(good.drop(columns="tokens").assign(flops=6e13)))
    np.testing.assert_allclose(points(table).frame["tokens"], 6e13 / 6 / good["n_params"])


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("tokens", 0, r"tokens is zero or negative in 2 of 9 rows \(rows 3, 5\).*--where \"tokens > 0\""),
        ("n_params", -1.0, "zero or negative in 2 of 9"),
        ("n_params", np.inf, "n_params is infinite in 2 of 9 rows"),
        ("loss", "n/a?", r"loss is not a number in 2 of 9 rows"),
    ],
)
def test_values_that_no_law_takes_are_counted_and_named(good, save, column, value, message):
    bad = good.astype({column: object})
    bad.loc[[2, 4], column] = value
    with pytest.raises(TableError, match=message):
        points(read_table(save(bad)))


@pytest.mark.parametrize("column", ["loss", "n_params", "tokens"])
def test_runs_with_an_empty_value_are_left_out_and_counted(good, save, column):
    good.loc[[2, 4], column] = np.nan
    found = points(read_table(save(good)))
    assert len(found) == 7
    assert f"2 of 9 rows are left out: {column} is empty in rows 3, 5" in found.notes
    with pytest.raises(TableError, match=f"no row has .*{column} is empty"):
        points(read_table(save(good.loc[[2, 4, 5]].assign(tokens=[1e7, np.nan, np.nan], loss=[np.nan, 3.0, np.nan]))))


@pytest.mark.slow
@pytest.mark.parametrize("lost", [np.nan, np.inf, -np.inf, 0.0, -1.5])
def test_a_run_that_diverged_is_left_out_and_counted_by_fit_and_import_alike(good, save, lost):
    good["run_id"] = [f"r{k}" for k in range(len(good))]
    good.loc[[2, 4], "loss"] = lost
    path = save(good)
    table = read_table(path)
    found = points(table)
    assert found.frame["run_id"].tolist() == [f"r{k}" for k in range(9) if k not in (2, 4)]
    why = "empty" if np.isnan(lost) else f"not a positive number ({lost:g})"
    assert [note for note in found.notes if "left out" in note] == [
        f"2 of 9 rows are left out: loss is {why} in runs r2, r4"
    ]
    made = import_source(path, "auto", ImportOptions(), {})
    assert made.ends["run_id"].tolist() == found.frame["run_id"].tolist()
    assert {one.run for one in made.left_out if one.whole} == {"r2", "r4"}
    good["loss"] = lost
    with pytest.raises(TableError, match=r"no row has|loss is NaN or empty in 9 of 9 rows"):
        points(read_table(save(good)))
    with pytest.raises(SourceError, match=r"no run can be imported|holds no number"):
        import_source(path, "auto", ImportOptions(), {})


def test_flops_that_some_rows_lack_are_not_mixed_with_those_of_the_others(good, save):
    table = good.assign(flops=7.0 * good["n_params"] * good["tokens"])
    table.loc[3, "flops"] = np.nan
    found = points(read_table(save(table)))
    np.testing.assert_allclose(found.frame["flops"], 6 * good["n_params"] * good["tokens"])
    assert "flops are empty in 1 of 9 rows: the column is not used" in found.notes
    assert found.compute == "6nd"


def test_row_numbers_still_count_the_file_after_a_filter(good, save):
    good.loc[8, "tokens"] = 0.0
    with pytest.raises(TableError, match=r"\(row 9\)"):
        points(read_table(save(good), where="n_params > 1e6"))


def test_bad_runs_are_named_by_run(study_table):
    table = study_table.copy()
    at = table.index[table["final"]][0]
    table.loc[at, "loss"] = np.nan
    with pytest.raises(TableError, match=table.loc[at, "run_id"]):
        points(table)


def test_where_keeps_rows_and_says_how_many(good, save):
    table = read_table(save(good), where="tokens > 1e7")
    assert len(table) == 6
    assert table.attrs["notes"] == ('--where "tokens > 1e7" keeps 6 of 9 rows',)
    assert points(table).notes[0] == table.attrs["notes"][0]


@pytest.mark.parametrize("where", ["tokns > 1", "tokens >", "tokens > 1e99", "loss", "loss + 1", "__import__('os')"])
def test_a_where_that_cannot_be_answered_is_an_error(good, save, where):
    with pytest.raises(TableError, match="--where"):
        read_table(save(good), where=where)


def test_map_renames_and_says_so(good, save):
    table = read_table(save(good.rename(columns={"loss": "val"})), mapping={"loss": "val"})
    assert table["loss"].tolist() == good["loss"].tolist()
    assert table.attrs["notes"] == ("loss is the column val",)


@pytest.mark.parametrize(
    ("mapping", "message"),
    [({"loss": "los"}, "did you mean 'loss'"), ({"los": "loss"}, "did you mean 'loss'"), ({"x": "loss"}, "is none of")],
)
def test_a_wrong_map_is_an_error(good, save, mapping, message):
    with pytest.raises(TableError, match=message):
        read_table(save(good), mapping=mapping)


def test_files_that_are_no_tables(tmp_path, good, save):
    with pytest.raises(TableError, match="no such file or folder"):
        read_table(tmp_path / "nowhere.csv")
    (tmp_path / "empty.csv").touch()
    with pytest.raises(TableError, match="the file is empty"):
        read_table(tmp_path / "empty.csv")
    (tmp_path / "header.csv").write_text("n_params,tokens,loss\n")
    with pytest.raises(TableError, match="has no rows"):
        read_table(tmp_path / "header.csv")
    (tmp_path / "ragged.csv").write_text("a,b\n1,2\n1,2,3,4\n")
    with pytest.raises(TableError, match="cannot be read as CSV"):
        read_table(tmp_path / "ragged.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x80" * 9)
    with pytest.raises(TableError, match="cannot be read as CSV"):
        read_table(tmp_path / "binary.csv")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 nothing here")
    with pytest.raises(TableError, match="cannot be read as parquet"):
        read_table(tmp_path / "broken.parquet")
    (tmp_path / "folder").mkdir()
    with pytest.raises(RunTableError, match="no finished run here"):
        read_table(tmp_path / "folder")


def test_a_parquet_that_is_no_run_table_says_which_column_it_lacks(save):
    with pytest.raises(TableError, match=r"no column 'loss'.*columns: x, y"):
        read_table(save(pd.DataFrame({"x": [1], "y": [2]}), "other.parquet"))


def test_a_million_rows_are_refused_with_the_count():
    many = pd.DataFrame({"n_params": np.full(1_000_000, 1e6), "tokens": 1e7, "loss": 3.0})
    with pytest.raises(TableError, match=f"1000000 rows, and a fit takes at most {MAX_POINTS}"):
        points(many)


def test_near_match_prefers_aliases_to_spelling():
    assert near_match("loss", ["gloss", "val_loss"]) == "val_loss"
    assert near_match("tokens", ["D", "x"]) == "D"
    assert near_match("loss", ["loss_c4_val"]) == "loss_c4_val"
    assert near_match("loss", ["x"]) is None


@pytest.mark.parametrize("lacking", ["n_params", "tokens", "flops"])
def test_a_condition_reads_the_third_of_size_tokens_and_compute_as_answers_take_it(tmp_path, lacking):
    n, d = np.geomspace(1e8, 1e9, 6), np.geomspace(1e9, 1e10, 6)
    whole = pd.DataFrame({"n_params": n, "tokens": d, "flops": 6 * n * d * np.geomspace(1, 4, 6), "loss": 3.0})
    if lacking != "flops":
        whole["flops"] = 6 * n * d * np.arange(1, 7)
    whole.drop(columns=lacking).to_csv(path := tmp_path / "t.csv", index=False)
    kept = read_table(path, where=f"{lacking} > {6e18 if lacking == 'flops' else 2e9} and loss > 0")
    third = {"n_params": whole["flops"] / (6 * d), "tokens": whole["flops"] / (6 * n), "flops": 6 * n * d}[lacking]
    assert list(kept.index) == list(np.flatnonzero(third > (6e18 if lacking == "flops" else 2e9)))
    assert 0 < len(kept) < 6
    assert any(note.startswith(f"{lacking} in --where: ") for note in kept.attrs["notes"])
    assert lacking not in kept


def test_empty_flops_are_read_by_a_condition_as_answers_take_them(tmp_path):
    table = pd.DataFrame({"n_params": [1e8, 2e8, 4e8], "tokens": 1e10, "flops": [np.nan, 1e19, 2e19], "loss": 3.0})
    table.to_csv(path := tmp_path / "t.csv", index=False)
    assert len(read_table(path, where="flops > 5e18")) == 3
