"""The rows of a table of metrics are those of runs: histories, also several in one file, or a row a run."""

from pathlib import Path

import pandas as pd
import pytest

from isoflop.scaling.imports.assemble import Imported, ImportOptions
from isoflop.scaling.imports.read import import_source


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
