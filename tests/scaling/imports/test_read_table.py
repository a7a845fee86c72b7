"""`isoflop.read_table`: which of two readers' refusals is told."""

from pathlib import Path

import pytest

from isoflop.scaling.imports.assemble import ImportOptions
from isoflop.scaling.imports.read import import_source
from isoflop.scaling.imports.read_table import read_table
from isoflop.scaling.imports.source import SourceError
from isoflop.scaling.table.columns import TableError

RUNS = "Params,Tokens,Loss\n124M,1e9,3.5\n355M,1e9,3.3\n"
WIDE = "step,a - val_loss,a - val_loss__MIN,b - val_loss,b - val_loss__MIN\n100,3.5,3.4,3.3,3.2\n200,3.1,3,2.9,2.8\n"


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("Params > 2e8", "these cannot be compared"),
        ("Parms > 2e8", r"did you mean 'Params'\? \(columns: Params, Tokens, Loss, "),
        ("n_params > 1e12", "keeps none of the 2 rows"),
    ],
)
def test_a_condition_that_the_columns_of_the_file_refuse_is_told_of_these(tmp_path, where, message):
    (tmp_path / "runs.csv").write_text(RUNS)
    with pytest.raises(TableError, match=message):
        read_table(tmp_path / "runs.csv", where=where)


def test_a_condition_on_what_only_an_importer_reads_is_told_of_that(tmp_path):
    folder = tmp_path / "runs"
    folder.mkdir()
    (folder / "a.csv").write_text(RUNS)
    with pytest.raises(TableError, match=r"'Loss': no such column; did you mean 'loss'\? \(columns: arm, n_params"):
        read_table(folder, where="Loss > 2")


def test_where_both_readers_refuse_the_first_is_told(tmp_path):
    (tmp_path / "wide.csv").write_text(WIDE)
    with pytest.raises(TableError, match="no column 'loss'"):
        read_table(tmp_path / "wide.csv")


@pytest.mark.parametrize(
    "address", ["https://example.org/runs.csv", "http://example.org/runs", "s3://bucket/runs.parquet"]
)
def test_the_address_of_a_server_is_no_missing_file(address):
    message = rf"^{address}: only files and folders are read; download it first$"
    with pytest.raises(TableError, match=message):
        read_table(address)
    with pytest.raises(SourceError, match=message):
        import_source(Path(address), "auto", ImportOptions(), {})


def test_the_home_of_the_user_is_known(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "runs.csv").write_text("n_params,tokens,loss\n1e7,2e8,3.91\n")
    assert len(read_table("~/runs.csv")) == 1
    with pytest.raises(TableError, match=r"^~nobody_at_all/runs.csv: no such file or folder"):
        read_table("~nobody_at_all/runs.csv")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "~").mkdir()
    (tmp_path / "~" / "runs.csv").write_text("n_params,tokens,loss\n1e7,2e8,3.91\n1e8,2e9,3.0\n")
    assert len(read_table("~/runs.csv")) == 2
