"""A bundle holds every bit of the runs and nothing of the machine they were made on."""

import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from isoflop.experiments.finished.bundle import write_bundle
from isoflop.scaling.imports.read_table import read_table
from isoflop.scaling.table.bundle.manifest import CONTENT, MANIFEST_FILE, file_hash
from isoflop.scaling.table.conventions import points
from isoflop.scaling.table.runs import read_runs, same_runs
from tests.support.fits.simulated import BESIROGLU, isoflop_table
from tests.support.root import RESULTS
from tests.support.tables.shared import write_shared, write_store


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle")
    return write_shared(folder / "runs", folder / "elsewhere" / "b")


@pytest.mark.slow
def test_the_bundle_of_a_study_holds_its_runs_bit_for_bit(bundle):
    held, shared = read_table(bundle), read_runs(bundle.parents[1] / "runs")
    assert same_runs(held, shared)
    pd.testing.assert_frame_equal(held, shared)
    assert held.attrs["study"] == "s"
    assert points(held).frame.equals(points(shared).frame)


def test_a_bundle_shared_again_keeps_its_configurations(bundle, tmp_path):
    again = write_bundle(read_table(bundle), tmp_path / "again")
    assert again.configs == 3
    assert (tmp_path / "again" / "configs.jsonl").read_bytes() == (bundle / "configs.jsonl").read_bytes()


def test_a_bundle_has_four_files_with_their_hashes_and_a_card_for_the_hub(bundle):
    assert sorted(path.name for path in bundle.iterdir()) == sorted([*CONTENT, MANIFEST_FILE])
    manifest = json.loads((bundle / MANIFEST_FILE).read_text())
    assert {name: file["sha256"] for name, file in manifest["files"].items()} == {
        name: file_hash(bundle / name) for name in CONTENT
    }
    _, front, page = (bundle / "README.md").read_text().split("---\n", 2)
    import yaml

    front = yaml.safe_load(front)
    assert front["license"] == "cc-by-4.0"
    assert front["configs"] == [{"config_name": "default", "data_files": "runs.parquet"}]
    assert "| `loss` | nats/token | held-out cross-entropy |" in page
    assert "`cc-by-4.0`" in page


def test_nothing_in_a_bundle_names_a_folder_or_a_person(bundle):
    raw = b"".join(path.read_bytes() for path in bundle.iterdir())
    held = pq.read_table(bundle / "runs.parquet")
    text = str(held.schema.metadata) + json.dumps(held.to_pylist(), default=str) + raw.decode("utf-8", "ignore")
    for word in ("anna", "/home", "private", str(bundle.parents[1])):
        assert word not in text
    assert '"*.txt", "b.txt"' in text


def test_a_table_of_others_is_read_back_as_the_same_points(tmp_path):
    known = isoflop_table(BESIROGLU, seed=0)
    frame = pd.DataFrame({
        "Params (M)": known["n_params"] / 1e6, "btokens": known["tokens"] / 1e9, "val_bpb": known["loss"] / np.log(2),
        "state": ["crashed", *["finished"] * (len(known) - 1)], "user": "anna", "log": "saved in /home/anna/logs/7.txt",
        "arm": ["None", "NA"] * (len(known) // 2) + ["007"] * (len(known) % 2), "mixed": [1, "x"] * (len(known) // 2)
        + [None] * (len(known) % 2),
    })  # fmt: skip
    frame.to_csv(tmp_path / "t.csv", index=False)
    table = read_table(tmp_path / "t.csv")
    written = write_bundle(table, tmp_path / "b")
    held = read_table(tmp_path / "b")
    assert points(held).frame.equals(points(table).frame)
    assert held.attrs["loss_unit"] == table.attrs["loss_unit"] == "nats/byte"
    assert held["arm"].tolist() == table["arm"].tolist()
    assert set(held["log"]) == {"saved in 7.txt"}
    assert "user" not in held
    assert written.configs == 0
    assert f"{tmp_path / 'b'}: {written.runs} runs and no configurations (the source has none)\n" in str(written)
    assert any("1 of" in note and "did not finish" in note for note in written.notes)
    assert any("user" in note for note in written.notes)
    assert any("column log" in note for note in written.notes)
    everything = b"".join(path.read_bytes() for path in (tmp_path / "b").iterdir()).decode("utf-8", "ignore")
    assert "anna" not in everything + str(pq.read_table(tmp_path / "b/runs.parquet").to_pylist())


def test_a_key_in_a_table_is_refused_by_its_place_and_nothing_is_written(tmp_path):
    table = isoflop_table(BESIROGLU, seed=0).assign(remark="token hf_" + "a" * 30)
    with pytest.raises(ValueError, match=r"^column remark looks like a key") as refused:
        write_bundle(table, tmp_path / "b")
    assert "hf_a" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("licence", ["", "CC BY", "a\nb: c", "x" * 100])
def test_a_licence_that_is_no_name_is_refused(tmp_path, licence):
    with pytest.raises(ValueError, match="--licence"):
        write_bundle(isoflop_table(BESIROGLU, seed=0), tmp_path / "b", licence=licence)


def test_a_folder_that_holds_something_is_left_as_it_is(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.txt").write_text("x")
    (tmp_path / "link").symlink_to("nowhere")
    table = isoflop_table(BESIROGLU, seed=0)
    for name in ("b", "link"):
        with pytest.raises(ValueError, match="something is there already"):
            write_bundle(table, tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "link"]


@pytest.mark.slow
def test_the_bundle_of_the_quick_study_is_fitted_to_the_same_bits(tmp_path, typed):
    source = RESULTS / "quick.parquet"
    assert typed("share", source, "--to", tmp_path / "b", "--licence", "cc-by-4.0")[0] == 0
    answers = [typed("fit", place, "--bootstrap", "0", "--json")[1] for place in (source, tmp_path / "b")]
    assert answers[0] == answers[1]
    assert json.loads(answers[0])["params"]


@pytest.mark.slow
def test_one_changed_loss_is_noticed_by_every_command_that_reads_it(tmp_path, typed):
    folder = write_shared(tmp_path / "runs", tmp_path / "b")
    rows = pq.read_table(folder / "runs.parquet")
    losses = rows["loss"].to_numpy().copy()
    losses[-1] = np.nextafter(losses[-1], 10)
    at = rows.schema.get_field_index("loss")
    pq.write_table(rows.set_column(at, "loss", [losses]), folder / "runs.parquet", compression="zstd")
    code, _, error = typed("fit", folder)
    assert code == 2
    assert "runs.parquet has " in error
    assert "share --check" in error
    code, out, error = typed("share", "--check", folder)
    assert code == 1
    assert (
        sum("its steps, tokens, FLOPs or losses are not those that were shared" in line for line in out.splitlines())
        == 1
    )
    assert "does not verify: 2 differences" in error


@pytest.mark.slow
def test_a_store_is_shared_by_study_and_its_ids_are_recomputed(tmp_path, typed):
    root = write_store(tmp_path / "runs")
    code, out, _ = typed("share", root, "--study", "s", "--to", tmp_path / "b", "--json")
    assert (code, json.loads(out)["runs"], json.loads(out)["configs"]) == (0, 3, 3)
    code, out, _ = typed("share", "--check", tmp_path / "b", "--json")
    answer = json.loads(out)
    assert (code, answer["verifies"], answer["configs"], answer["differences"]) == (0, True, 3, [])


@pytest.mark.parametrize(
    ("options", "reported"),
    [
        ((), "share takes SOURCE and --to DIR"),
        (("--check", "nowhere"), "nowhere: no bundle of runs"),
        (("--check", "nowhere", "--to", "x"), "leave out --to"),
        (("nowhere", "--to", "x"), "nowhere"),
    ],
)
def test_bad_usage_is_one_line_and_exit_2(typed, options, reported, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, error = typed("share", *options)
    assert code == 2
    assert reported in error
    assert len(error.strip().splitlines()) == 1
