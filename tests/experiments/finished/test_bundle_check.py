"""Whatever is changed in a bundle is named, a line per difference."""

import contextlib
import json
import os
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from isoflop.experiments.finished.bundle_check import check_bundle
from isoflop.scaling.table.bundle.manifest import CONTENT, MANIFEST_FILE, BundleError, file_hash, seal
from isoflop.scaling.table.columns import TableError
from isoflop.scaling.table.read import read_table
from isoflop.scaling.table.runs import RunTableError
from tests.support.doors.damage import damaged
from tests.support.tables.shared import write_shared


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    return write_shared(folder / "runs", folder / "b")


@pytest.fixture
def bundle(sound, tmp_path):
    return shutil.copytree(sound, tmp_path / "b")


def differences(folder):
    return check_bundle(folder).differences


def reseal(folder, **changes):
    """The manifest as an attacker would leave it: with the hashes of the files that are there, and a seal."""
    path = folder / MANIFEST_FILE
    manifest = json.loads(path.read_text())
    for name in manifest["files"]:
        manifest["files"][name] = {"sha256": file_hash(folder / name), "bytes": (folder / name).stat().st_size}
    manifest |= changes
    path.write_text(json.dumps(manifest | {"seal": seal(manifest)}))


def test_a_sound_bundle_verifies(bundle):
    check = check_bundle(bundle)
    assert check.differences == ()
    assert (check.runs, check.configs) == (3, 3)
    assert check.sha256 == file_hash(bundle / MANIFEST_FILE)


@pytest.mark.parametrize("name", CONTENT)
def test_a_missing_file_is_named(bundle, name):
    (bundle / name).unlink()
    assert any(line.startswith(f"{name}: is missing") for line in differences(bundle))


@pytest.mark.parametrize("name", CONTENT)
def test_a_link_in_place_of_a_file_is_named_also_where_its_content_is_right(bundle, name, tmp_path):
    os.replace(bundle / name, tmp_path / "kept")
    (bundle / name).symlink_to(tmp_path / "kept")
    assert f"{name}: is a link" in differences(bundle)


@pytest.mark.parametrize("added", ["evil.py", ".hidden", "folder"])
def test_an_added_file_or_folder_is_named(bundle, added):
    (bundle / added).mkdir() if added == "folder" else (bundle / added).write_text("x")
    assert differences(bundle) == (f"{added!r}: was added; the manifest does not name it",)


def test_what_the_hub_adds_is_no_difference(bundle):
    (bundle / ".gitattributes").write_text("x")
    (bundle / ".cache").mkdir()
    assert differences(bundle) == ()


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/b", "..", "", "x" * 5000, "run.parquet"])
def test_a_manifest_that_names_any_other_file_is_refused(bundle, name):
    files = json.loads((bundle / MANIFEST_FILE).read_text())["files"]
    manifest = json.loads((bundle / MANIFEST_FILE).read_text()) | {"files": files | {name: {"sha256": "0", "bytes": 1}}}
    (bundle / MANIFEST_FILE).write_text(json.dumps(manifest | {"seal": seal(manifest)}))
    (line,) = differences(bundle)
    assert "a bundle holds only README.md" in line
    with pytest.raises(BundleError, match="holds only"):
        read_table(bundle)


def test_a_manifest_whose_numbers_were_edited_is_refused(bundle):
    manifest = json.loads((bundle / MANIFEST_FILE).read_text()) | {"licence": "mit"}
    (bundle / MANIFEST_FILE).write_text(json.dumps(manifest))
    assert "its seal is broken" in differences(bundle)[0]
    with pytest.raises(BundleError, match="its seal is broken"):
        read_table(bundle)


def test_a_bundle_of_a_later_format_says_upgrade(bundle):
    reseal(bundle, format=2)
    with pytest.raises(BundleError, match="upgrade"):
        read_table(bundle)


def test_a_loss_changed_with_all_hashes_of_files_made_anew_is_still_named_by_its_run(bundle):
    rows = pq.read_table(bundle / "runs.parquet")
    losses = rows["loss"].to_numpy().copy()
    losses[-1] *= 1.001
    pq.write_table(rows.set_column(rows.schema.get_field_index("loss"), "loss", [losses]), bundle / "runs.parquet")
    reseal(bundle)
    (line,) = differences(bundle)
    assert line == f"run {rows['run_id'][-1]}: its steps, tokens, FLOPs or losses are not those that were shared"


def test_a_configuration_that_was_edited_gives_another_id(bundle):
    lines = [json.loads(line) for line in (bundle / "configs.jsonl").read_text().splitlines()]
    lines[0]["config"]["what"]["optim"]["learning_rate"] = 0.5
    (bundle / "configs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    reseal(bundle)
    (line,) = differences(bundle)
    assert line.startswith(f"run {lines[0]['run_id']}: its configuration is that of run ")


@pytest.mark.slow
def test_a_row_that_states_other_settings_than_its_configuration_is_named(bundle):
    rows = pq.read_table(bundle / "runs.parquet")
    rates = np.full(len(rows), 7.0)
    at = rows.schema.get_field_index("peak_learning_rate")
    pq.write_table(rows.set_column(at, "peak_learning_rate", [rates]), bundle / "runs.parquet")
    reseal(bundle)
    assert len(differences(bundle)) == 3
    assert "column peak_learning_rate says 7.0, its configuration 0.0" in differences(bundle)[0]


def test_a_run_left_out_and_a_run_added_are_named(bundle):
    rows = pq.read_table(bundle / "runs.parquet").to_pandas()
    first = rows["run_id"].iloc[0]
    runs = json.loads((bundle / MANIFEST_FILE).read_text())["runs"]
    reseal(bundle, runs={run: value for run, value in runs.items() if run != first} | {"gone": "0"})
    found = differences(bundle)
    assert f"run {first}: was added" in found
    assert "run gone: its rows are missing" in found
    assert "run gone: no configuration in configs.jsonl" in found


@pytest.mark.parametrize("content", [b"", b"PAR1 no table PAR1", b"\0" * 1000])
def test_a_damaged_table_is_a_difference_and_no_traceback(bundle, content):
    (bundle / "runs.parquet").write_bytes(content)
    reseal(bundle)
    assert any("runs.parquet" in line for line in differences(bundle))


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[1]", b'{"run_id": 1}', b"{", b"[" * 100_000])
def test_configurations_that_are_none_are_a_difference_that_names_the_line(bundle, content):
    (bundle / "configs.jsonl").write_bytes(content)
    reseal(bundle)
    assert any(line.startswith("configs.jsonl") for line in differences(bundle))


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path):
    with pytest.raises(BundleError, match="no bundle of runs"):
        check_bundle(tmp_path)
    with pytest.raises(BundleError, match="no bundle of runs"):
        check_bundle(tmp_path / "nowhere")


def test_a_pipe_in_place_of_the_table_is_not_waited_for(bundle):
    (bundle / "runs.parquet").unlink()
    os.mkfifo(bundle / "runs.parquet")
    assert any(line.startswith("runs.parquet: is no regular file") for line in differences(bundle))


@pytest.mark.slow
def test_any_damage_to_any_file_is_noticed(sound, tmp_path):
    """Damage of ten kinds at places drawn by a seed: the check names it, and a fit of it never answers otherwise."""
    random = np.random.default_rng(0)
    held = read_table(sound)
    for case in range(40):
        folder = shutil.copytree(sound, tmp_path / str(case))
        name = (*CONTENT, MANIFEST_FILE)[case % 4]
        content = (folder / name).read_bytes()
        bad = damaged(content, (folder / "README.md").read_bytes(), random)
        (folder / name).write_bytes(bad)
        if bad == content or (name == MANIFEST_FILE and json.loads(content) == _json(bad)):
            continue
        found = differences(folder)
        assert found, (case, name)
        assert all("\n" not in line for line in found)
        with contextlib.suppress(TableError, RunTableError):
            assert read_table(folder).equals(held)


def _json(content):
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None
