"""The rows of a table of metrics are those of runs: histories, also several in one file, or a row a run."""

import json
from pathlib import Path

import pandas as pd
import pytest

from isoflop.scaling.imports.assemble import Imported, ImportOptions
from isoflop.scaling.imports.read import import_source
from isoflop.scaling.imports.read_table import read_table
from isoflop.scaling.imports.source import SourceError


def imported(path: Path, **options) -> Imported:
    return import_source(path, "auto", ImportOptions(**options), {})


def logged(size: float, last: int = 1000, between: int = 20, late: int = 0) -> list[dict]:
    """Rows as loggers write them: of training at every `between` steps, of an evaluation at every 500, `late` after."""
    rows: list[dict] = []
    for step in range(between, last + 1, between):
        rows.append({"n_params": size, "step": step, "train_loss": 5 - step / 1e4, "lr": 1e-3})
        if step % 500 == 0:
            rows.append({"n_params": size, "step": step - late, "val_loss": 5 - step / 1e4})
    return rows


@pytest.mark.parametrize("late", [0, 1])
def test_evaluations_in_rows_of_their_own_do_not_part_a_run(tmp_path, late):
    for name in ("d6", "d8"):
        (tmp_path / name).mkdir()
        pd.DataFrame(logged(1e7, late=late)).to_csv(tmp_path / name / "metrics.csv", index=False)
    made = imported(tmp_path, batch_tokens={"": 1000})
    assert made.table["run_id"].tolist() == ["d6", "d6", "d8", "d8"]
    assert made.ends["loss"].tolist() == [4.9, 4.9]
    assert not [note for note in made.notes if "distinguished" in note]


def test_histories_in_one_file_are_named_by_it_and_by_what_tells_them_apart(tmp_path):
    for name in ("old", "new"):
        rows = [*logged(1e7), *logged(2e7, 1500), *logged(2e7, 500)]
        pd.DataFrame(rows).to_csv(tmp_path / f"{name}.csv", index=False)
    made = imported(tmp_path, batch_tokens={"": 1000})
    found = made.ends.set_index("run_id")["tokens"].to_dict()
    assert found == {f"{name} {size}": tokens for name in ("new", "old") for size, tokens in
                     (("10000000#1", 1e6), ("20000000#1", 1.5e6), ("20000000#2", 5e5))}  # fmt: skip
    assert "runs are distinguished by column n_params, and where step begins again" in made.notes
    pd.DataFrame([*logged(1e7), *logged(1e7)]).to_csv(tmp_path / "new.csv", index=False)
    again = imported(tmp_path / "new.csv", batch_tokens={"": 1000})
    assert again.ends["run_id"].tolist() == ["new#1", "new#2"]
    assert "runs are distinguished where step begins again" in again.notes


SPLITS = ("split", "type", "kind", "stage", "event", "dataset", "metric.context.subset")


def of_splits(column: str, held: str, train_every: int) -> str:
    """Lines of JSON: losses of training, and at every 500 steps of an evaluation, told apart by a column."""
    rows = []
    for run, size in (("d6", 1e7), ("d8", 2e7)):
        for step in range(train_every, 2001 + train_every // 2, train_every):
            row = {"run": run, "n_params": size, "step": step, "tokens": 1000 * step}
            rows.append({**row, column: "train", "loss": 4 - step / 1e4})
            if step % 500 == 0:
                rows.append({**row, column: held, "loss": 5 - step / 1e4})
    return "\n".join(map(json.dumps, rows))


@pytest.mark.parametrize("train_every", [30, 100, 500])
@pytest.mark.parametrize("column", SPLITS)
def test_losses_of_training_are_told_from_others_by_a_column_of_any_name(tmp_path, column, train_every):
    path = tmp_path / "runs.jsonl"
    path.write_text(of_splits(column, "val" if train_every > 100 else "Eval", train_every))
    made = imported(path)
    assert (made.table["loss"] > 4.5).all()
    assert made.ends["tokens"].nunique() == 1
    assert made.ends["run_id"].tolist() == ["d6", "d8"]
    assert any(note.startswith(f"a long table, a column for each {column}: train_loss, ") for note in made.notes)
    assert (read_table(path)["loss"] > 4.5).all()


def test_evaluations_logged_again_after_a_restart_are_of_their_split_too(tmp_path):
    path = tmp_path / "d6.jsonl"
    rows = [json.loads(line) for line in of_splits("type", "val", 100).splitlines() if '"d6"' in line]
    again = [{**row, "loss": row["loss"] + 1e-3} for row in rows if row["step"] >= 1500]
    path.write_text("\n".join(map(json.dumps, [*rows, *again])))
    made = imported(path)
    assert made.table["loss"].tolist() == [4.95, 4.9, pytest.approx(4.851), pytest.approx(4.801)]
    assert [(one.rows, one.reason) for one in made.left_out][-1] == (2, "reported again later, after a restart")


@pytest.mark.parametrize("order", [["step", "text"], ["text", "step"]])
def test_rows_of_one_run_with_losses_of_several_texts_are_refused(tmp_path, order):
    rows = [{"run": run, "text": text, "n_params": 1e7, "step": step, "tokens": 1e3 * step, "loss": loss - step / 1e4}
            for run in "ab" for step in (100, 200, 300) for text, loss in (("c4", 5.0), ("pile", 4.0))]  # fmt: skip
    path = tmp_path / "runs.csv"
    pd.DataFrame(rows).sort_values(["run", *order]).to_csv(path, index=False)
    with pytest.raises(SourceError, match=r"step 100 has the losses 4.99 and 3.99, .*\(by column text\?\), no restart"):
        imported(path)
    pd.DataFrame(rows).rename(columns={"text": "seed"}).replace({"c4": 0, "pile": 1}).to_csv(path, index=False)
    assert len(imported(path).table) == 12  # of several seeds under one name each row is a run
