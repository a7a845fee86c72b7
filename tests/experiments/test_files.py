"""A name that becomes part of a path is checked before anything is written."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoflop.experiments.files import check_name
from isoflop.experiments.store.store import StoreError, create_store

BAD = ("../x", "/abs", "a/b", ".hidden", "", "..", "a" * 101, "a b", "x\n", "a\\b", "\u00e9", None, 3)


@pytest.mark.parametrize("name", BAD)
def test_a_bad_name_is_refused_with_its_key_and_the_rule(tmp_path, name):
    with pytest.raises(ValueError, match=r"study.name=.*letters, digits"):
        check_name(name, "study.name")
    store = create_store(tmp_path / "runs")
    for use in (
        store.run_file,
        store.trunk_folder,
        store.launch_file,
        store.claim,
        lambda one: store.record(one, "done"),
    ):
        with pytest.raises(ValueError, match="letters, digits"):
            use(name)
    assert [path.name for path in tmp_path.rglob("*")] == ["runs", "STORE.json"]


@pytest.mark.slow
@given(st.text(max_size=120))
def test_a_name_that_passes_is_one_part_of_a_path(tmp_path_factory, name):
    try:
        check_name(name, "x")
    except ValueError:
        return
    root = tmp_path_factory.getbasetemp()
    assert (root / name).resolve().parent == root.resolve()


@pytest.mark.parametrize("key", ["study.name", "data.name"])
@pytest.mark.parametrize("name", ["../../x", "/tmp/x", ".x"])
def test_a_study_with_a_bad_name_writes_nothing(typed, here, tmp_path, key, name):
    before = sorted(tmp_path.rglob("*"))
    code, _, err = typed(
        "run", f"{key}={name}", "model=d6", "budget.flops=2e8", "data=text", "data.files=[../text/*.txt]",
        "data.eval_tokens=512", "data.held_out_fraction=0.3", "hydra/launcher=basic",
    )  # fmt: skip
    assert code == 2
    assert f"{key}={name!r}" in err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("key", "value"), [("run_id", "../../x"), ("run_id", "other"), ("trunk_id", "../x"), ("launch", "../x")]
)
def test_a_state_that_names_another_folder_is_refused_by_its_file(tmp_path, key, value):
    store = create_store(tmp_path)
    store.record("a", "failed")
    path = tmp_path / "cells" / "a" / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises((StoreError, ValueError), match=r"cells/a/state\.json"):
        store.states()
