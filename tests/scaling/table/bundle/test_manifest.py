"""The manifest of a bundle is data of somebody else until it is checked."""

import json
import shutil

import pandas as pd
import pytest

from isoflop.scaling.imports.read_table import read_table
from isoflop.scaling.table.bundle.manifest import (
    CONFIGS_FILE,
    MANIFEST_FILE,
    BundleError,
    is_bundle,
    read_configs,
    rows_hash,
)
from tests.support.doors.damage import ODD
from tests.support.tables.shared import write_shared


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    return write_shared(folder / "runs", folder / "b")


def test_a_manifest_of_any_other_shape_is_refused_and_named(sound, tmp_path):
    folder = shutil.copytree(sound, tmp_path / "b")
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    for key in manifest:
        for value in ODD:
            if type(value) is type(manifest[key]) and key not in ("format", "seal"):
                continue
            (folder / MANIFEST_FILE).write_text(json.dumps(manifest | {key: value}))
            with pytest.raises(BundleError, match=MANIFEST_FILE):
                read_table(folder)


def test_a_folder_is_a_bundle_by_its_manifest(sound, tmp_path):
    assert is_bundle(sound)
    assert not is_bundle(tmp_path)


def test_the_study_of_a_bundle_may_be_named_and_no_other(sound):
    assert read_table(sound, study="s").equals(read_table(sound))
    with pytest.raises(ValueError, match=r"--study other: no such study here .there are: s\b"):
        read_table(sound, study="other")


def test_the_hash_of_a_run_heeds_every_bit_of_its_rows_and_not_their_order():
    rows = pd.DataFrame({"step": [1, 2], "tokens": [8, 16], "flops": [1.0, 2.0], "loss": [3.0, 2.5], "other": [1, 2]})
    assert rows_hash(rows) == rows_hash(rows.iloc[::-1].assign(other=7))
    for name in ("step", "tokens", "flops", "loss"):
        changed = rows.astype({name: float})
        changed.loc[1, name] *= 1 + 1e-15
        assert rows_hash(changed) != rows_hash(rows)


def test_a_line_of_configurations_ends_at_a_line_feed(tmp_path):
    config = {"name": "a\u2028b"}
    line = json.dumps({"run_id": "r", "config": config}, ensure_ascii=False)
    (tmp_path / CONFIGS_FILE).write_text(line + "\n", encoding="utf-8")
    assert read_configs(tmp_path) == {"r": config}
