"""Tokens that a table tells as a product are read as one, by fit and import alike."""

import pandas as pd
import pytest

from isoflop.scaling.imports.assemble import ImportOptions
from isoflop.scaling.imports.read import import_source
from isoflop.scaling.table.conventions import points
from isoflop.scaling.table.read import TableError, read_table

RUNS = {"params": [1e8, 2e8, 4e8, 8e8], "loss": [3.5, 3.3, 3.2, 3.0]}


def tokens(tmp_path, **columns):
    path = tmp_path / "runs.csv"
    pd.DataFrame({**RUNS, **columns}).to_csv(path, index=False)
    table = points(read_table(path))
    assert import_source(path, "auto", ImportOptions(), {}).table["tokens"].tolist() == table.frame["tokens"].tolist()
    return table.frame["tokens"].tolist(), table.notes


@pytest.mark.parametrize("how_often", ["epochs", "num_epochs", "Epochs", "epoch"])
@pytest.mark.parametrize("one", ["dataset_tokens", "tokens_per_epoch", "unique_tokens"])
def test_the_tokens_of_one_epoch_count_as_often_as_they_were_read(tmp_path, how_often, one):
    found, notes = tokens(tmp_path, **{one: [1e9, 1e9, 2e9, 2e9], how_often: [1, 4, 4, 0.5]})
    assert found == [1e9, 4e9, 8e9, 1e9]
    assert f"tokens: column {how_often} times column {one}" in notes


def test_a_dataset_read_once_is_what_was_trained_on(tmp_path):
    assert tokens(tmp_path, dataset_tokens=[1e9, 1e9, 2e9, 2e9])[0] == [1e9, 1e9, 2e9, 2e9]
    assert tokens(tmp_path, dataset_tokens=[1e9, 1e9, 2e9, 2e9], epochs=1)[0] == [1e9, 1e9, 2e9, 2e9]
    seen = [1e9, 4e9, 8e9, 8e9]
    assert tokens(tmp_path, dataset_tokens=[1e9, 1e9, 2e9, 2e9], epochs=[1, 4, 4, 4], tokens_seen=seen)[0] == seen


def test_a_user_says_which_column_holds_the_tokens(tmp_path):
    path = tmp_path / "runs.csv"
    pd.DataFrame({**RUNS, "dataset_tokens": 1e9, "epochs": 4}).to_csv(path, index=False)
    assert set(read_table(path, mapping={"tokens": "dataset_tokens"})["tokens"]) == {1e9}


@pytest.mark.parametrize(
    ("columns", "made"),
    [
        ({"steps": [100, 100, 200, 200], "Batch size (tokens)": "0.5M"}, [5e7, 5e7, 1e8, 1e8]),
        ({"num_steps": ["1K", "1K", "2K", "2K"], "batch_tokens": 5e5}, [5e8, 5e8, 1e9, 1e9]),
        ({"samples": [1000, 1000, 2000, 2000], "seq_len": 2048}, [2048e3, 2048e3, 4096e3, 4096e3]),
    ],
)
def test_a_count_times_its_tokens(tmp_path, columns, made):
    assert tokens(tmp_path, **columns)[0] == made


def test_epochs_counted_from_0_are_no_counts(tmp_path):
    path = tmp_path / "runs.csv"
    pd.DataFrame({**RUNS, "dataset_tokens": 1e9, "epochs": [0, 1, 2, 3]}).to_csv(path, index=False)
    with pytest.raises(TableError, match="tokens"):
        _ = points(read_table(path)).cost
