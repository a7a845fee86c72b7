"""What laws and commands read of a table is in it also after import, and what is not kept is said."""

import numpy as np
import pandas as pd
import pytest

from isoflop.scaling.findings.diagnose import diagnose
from isoflop.scaling.fitting.fit import fit
from isoflop.scaling.imports.assemble import Imported, ImportOptions
from isoflop.scaling.imports.kept import KEPT, is_kept
from isoflop.scaling.imports.read import import_source
from isoflop.scaling.laws import columns_read, law_names
from isoflop.scaling.laws.chinchilla import Chinchilla
from isoflop.scaling.table.columns import OPTIONAL
from isoflop.scaling.table.conventions import points
from isoflop.scaling.table.read import read_table

SEEN = ("pooled_settings", "rows_not_runs", "duplicate_rows")
LAW = Chinchilla(E=1.8, A=400.0, B=1500.0, alpha=0.34, beta=0.36)
N, D = (sizes.ravel() for sizes in np.meshgrid([1e8, 2e8, 4e8, 8e8], [2e9, 8e9, 3.2e10, 6.4e10]))
RUNS = pd.DataFrame({"run_id": [f"r{k}" for k in range(16)], "N": N, "D": D, "loss": LAW(N, D)})
SETTING = {"trunk_id": [f"t{k // 4}" for k in range(16)], "weight": [1.0] * 15 + [0.0], "unique_tokens": [5e8] * 16,
           "gate_pair": ["a", "b"] * 8, "weight_bits": [8, 16] * 8, "weight_web": 0.25,
           "optimizer": "muon"}  # fmt: skip


def imported(frame: pd.DataFrame, path, mapping=None, **options) -> Imported:
    frame.to_csv(path, index=False)
    return import_source(path, "auto", ImportOptions(**options), mapping or {})


def test_every_column_that_a_law_or_a_table_may_have_is_kept():
    made = {"run_id", "arm", "seed", "n_params", "tokens", "flops", "batch_tokens", "peak_learning_rate"}
    read = {name for column in columns_read(law_names()) for name in [column.name.replace("*", "web")]}
    assert all(is_kept(name) for name in ({*OPTIONAL} | read) - made)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_fit_of_what_was_imported_has_the_clusters_and_the_weights_of_the_table(tmp_path, suffix):
    found = imported(RUNS.assign(**SETTING), tmp_path / "runs.csv")
    found.write(tmp_path / f"made{suffix}")
    one, other = (points(read_table(tmp_path / name)) for name in ("runs.csv", f"made{suffix}"))
    assert (one.cluster, len(one)) == (other.cluster, len(other)) == ("trunk_id", 15)
    pd.testing.assert_frame_equal(one.frame, other.frame[list(one.frame)], check_dtype=False)
    pd.testing.assert_frame_equal(found.table[[*SETTING]], pd.DataFrame(SETTING), check_dtype=False)


@pytest.mark.parametrize("name", [name for name in KEPT if name != "trunk_id"] + ["weight_code"])
def test_a_column_that_was_named_is_kept_under_its_name(tmp_path, name):
    found = imported(RUNS.assign(theirs=np.arange(16.0) + 1), tmp_path / "runs.csv", {name: "theirs"})
    assert found.table[name].tolist() == list(range(1, 17))
    assert "not kept" not in str(found)


def test_columns_of_curves_are_kept_by_row_and_the_others_are_named(tmp_path):
    rows = pd.DataFrame({"step": [10, 20, 30] * 2, "run_id": ["a"] * 3 + ["b"] * 3, "N": [1e8] * 3 + [2e8] * 3})
    rows = rows.assign(
        D=rows["step"] * 1e6,
        val_loss=4.0 - rows["step"] / 50,
        weight=[0, 0, 1] * 2,
        grad=rows["step"] / 7,
        note=[*"xyz"] * 2,
    )
    found = imported(rows.assign(empty=np.nan), tmp_path / "curves.csv")
    assert found.table["weight"].tolist() == [0, 0, 1] * 2
    assert "columns that are not kept: grad, note" in found.notes


def test_a_run_whose_file_has_no_such_column_has_what_such_a_table_has(tmp_path):
    (tmp_path / "both").mkdir()
    RUNS.assign(**SETTING).to_csv(tmp_path / "both/one.csv", index=False)
    found = imported(RUNS.assign(run_id=[f"s{k}" for k in range(16)]), tmp_path / "both/two.csv")
    found = import_source(tmp_path / "both", "auto", ImportOptions(), {})
    table = found.table.set_index("run_id")
    assert (table.loc["s3", "trunk_id"], table.loc["s3", "weight"], table.loc["r15", "weight"]) == ("s3", 1.0, 0.0)


def test_words_beside_numbers_are_words_in_every_file(tmp_path):
    found = imported(RUNS.assign(schedule=["wsd"] * 8 + [1] * 8), tmp_path / "runs.csv")
    found.write(tmp_path / "made.parquet")
    assert set(read_table(tmp_path / "made.parquet")["schedule"]) == {"wsd", "1"}


KINDS = {
    "dataset": ["c4", "wikitext", "pile"],
    "optim": ["adamw", "muon", "sgd"],
    "wd": [0.0, 0.1, 0.3],
    "tied?": [True, False, None],
}


def several(kind: str, **columns) -> pd.DataFrame:
    """A row of RUNS for each value of a column, by which the losses differ."""
    frames = [
        RUNS.assign(**{kind: value}, loss=RUNS["loss"] + 0.1 * k, **columns) for k, value in enumerate(KINDS[kind])
    ]
    return pd.concat(frames, ignore_index=True).drop(columns="run_id")


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_fit_of_what_was_imported_sees_what_a_fit_of_the_table_sees(tmp_path, kind, suffix):
    frame = several(kind).assign(model=[f"n{n:g}-d{d:g}" for n, d in zip(N, D, strict=True)] * 3)
    found = imported(frame, tmp_path / "runs.csv")
    found.write(tmp_path / f"made{suffix}")
    codes = []
    for name in ("runs.csv", f"made{suffix}"):
        table = read_table(tmp_path / name)
        fitted = fit("chinchilla", points(table))
        codes.append([(x.code, x.columns) for x in diagnose(fitted, table=table) if x.code in SEEN])
    assert codes[0] == codes[1]
    assert ("pooled_settings", (kind,)) in codes[1]
    assert "no run_id is made up" in str(found)
    assert sorted(found.table["model"]) == sorted(frame["model"])


def test_settings_of_histories_are_kept_and_what_tells_every_run_apart_is_named(tmp_path):
    steps = pd.DataFrame({"run": np.repeat([f"r{k}" for k in range(8)], 5), "step": [100, 200, 300, 400, 500] * 8})
    frame = steps.assign(params=1e8, tokens=steps["step"] * 1e6, val_loss=4 - steps["step"] / 1000)
    frame = frame.assign(optim=np.repeat(["adamw", "muon"] * 4, 5), url=frame["run"] + ".org", gpu=np.arange(40) % 7)
    found = imported(frame, tmp_path / "curves.csv")
    assert found.ends["optim"].tolist() == ["adamw", "muon"] * 4
    assert "columns that are not kept: gpu" in found.notes
    assert "columns with a value of their own in most runs are not kept: url" in found.notes
    assert found.ends["run_id"].tolist() == [f"r{k}" for k in range(8)]


def test_settings_of_a_folder_are_those_that_its_files_share(tmp_path):
    (tmp_path / "runs").mkdir()
    for k, optim in enumerate(["adamw", "muon"] * 4):
        RUNS.iloc[[k]].assign(optim=optim, note=f"n{k}").to_csv(tmp_path / f"runs/{k}.csv", index=False)
    found = import_source(tmp_path / "runs", "auto", ImportOptions(), {})
    assert found.table["optim"].tolist() == ["adamw", "muon"] * 4
    assert "columns with a value of their own in most runs are not kept: note" in found.notes


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_run_without_an_arm_is_in_none(tmp_path, suffix):
    found = imported(RUNS.assign(arm=["muon"] * 8 + [np.nan] * 8), tmp_path / "runs.csv")
    found.write(tmp_path / f"made{suffix}")
    assert read_table(tmp_path / f"made{suffix}")["arm"].dropna().unique().tolist() == ["muon"]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_what_was_imported_is_imported_again_as_it_is(tmp_path, suffix):
    frame = RUNS.rename(columns={"N": "Params", "D": "Tokens"})
    frame = frame.assign(**SETTING, seed=3, arm="x", peak_learning_rate=1e-3, batch_tokens=2**18, flops=7 * N * D)
    found = imported(frame, tmp_path / "runs.csv")
    found.write(tmp_path / f"made{suffix}")
    again = import_source(tmp_path / f"made{suffix}", "auto", ImportOptions(), {})
    pd.testing.assert_frame_equal(
        found.table.drop(columns="source"), again.table.drop(columns="source")[[*found.table.drop(columns="source")]]
    )
