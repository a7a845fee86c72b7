"""A curve that a file ends in NaN is of a run that diverged; NaN before other losses is no evaluation."""

import json
import math
from pathlib import Path

import pandas as pd
import pytest

from isoflop.scaling.imports.assemble import Imported, ImportOptions
from isoflop.scaling.imports.read import import_source
from isoflop.scaling.table.conventions import points
from isoflop.scaling.table.read import read_table

NAMES = ("val_loss", "loss", "eval/loss", "ppl")
DIVERGED = "its last loss is not a positive number: it diverged"


def imported(path: Path) -> Imported:
    return import_source(path, "auto", ImportOptions(n_params={"": 1e6}, batch_tokens={"": 1e3}), {})


def rows(losses: dict[str, list], loss: str) -> list[dict]:
    return [{"run": run, "step": 100 * k, "tokens": 1e5 * k, "n_params": 1e6, loss: value}
            for run, held in losses.items() for k, value in enumerate(held, 1)]  # fmt: skip


def written(table: list[dict], path: Path, empty: str) -> Path:
    """The rows as a file, None in them as `empty`: as nothing, or as NaN too, which is how some programs write it."""
    if path.suffix == ".csv":
        frame = pd.DataFrame([{k: "NaN" if v != v else v for k, v in row.items()} for row in table])
        frame.to_csv(path, index=False, na_rep=empty)
    else:
        dropped = [{k: v for k, v in row.items() if v is not None} for row in table]
        table = dropped if not empty else [{k: math.nan if v is None else v for k, v in row.items()} for row in table]
        path.write_text("\n".join(map(json.dumps, table)))
    return path


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("last", [1, 2])
def test_a_run_that_ends_in_nan_is_left_out(tmp_path, suffix, name, last):
    losses = {"a": [4.0, 3.5, 3.0, 2.9], "b": [4.0, 3.6, *[math.nan] * last], "c": [4.0, None, 3.1]}
    path = written(rows(losses, name), tmp_path / f"t{suffix}", "")
    made = imported(path)
    assert made.ends["run_id"].tolist() == ["a", "c"]
    assert [one.run for one in made.left_out if one.whole and one.reason == DIVERGED] == ["b"]
    found = points(read_table(path))
    assert found.frame["run_id"].tolist() == ["a", "c"]
    assert "1 runs are left out, their last loss is not a positive number (b)" in "; ".join(found.notes)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_nan_where_nothing_was_measured_is_no_divergence(tmp_path, suffix):
    losses = {"a": [None, 3.5, None, 2.9, None], "b": [None, 3.6, None, 3.0, None]}
    made = imported(written(rows(losses, "val_loss"), tmp_path / f"t{suffix}", "NaN"))
    assert made.ends["loss"].tolist() == [2.9, 3.0]
    assert not [one for one in made.left_out if one.whole]


def test_histories_without_a_column_of_runs_and_panels_end_in_nan_too(tmp_path):
    path = tmp_path / "d6.csv"
    path.write_text("step,val_loss\n" + "".join(f"{k}00,{6 - k / 10}\n" for k in range(1, 12)) + "1200,nan\n")
    with pytest.raises(ValueError, match="it diverged"):
        imported(path)
    path.write_text("Step,a - val/loss,b - val/loss\n100,4.0,4.0\n200,3.0,\n300,2.9,NaN\n")
    assert imported(path).ends["run_id"].tolist() == ["a"]


def test_nan_of_rows_that_are_runs_is_a_missing_loss(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text("N,D,loss\n1e6,1e8,3\n2e6,1e8,2.9\n4e6,1e8,NaN\n")
    assert read_table(path)["loss"].isna().tolist() == [False, False, True]
