"""A name that becomes part of a path is checked before anything is written."""

import errno
import json
import math
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoflop.experiments import files
from isoflop.experiments.files import check_name, is_disk_error, read_kept, write_json, write_passing, write_text
from isoflop.experiments.store.store import StoreError, create_store

BAD = ("../x", "/abs", "a/b", ".hidden", "", "..", "a" * 101, "a b", "x\n", "a\\b", "\u00e9", None, 3)


@pytest.mark.process
def test_who_waits_for_a_lock_that_its_holder_removes_waits_for_the_next_one(tmp_path):
    """Three processes one after another, each of which removes the file: no two are in the body at once."""
    code = """
import os, sys, time
from pathlib import Path
from isoflop.experiments.files import locked
path, inside = Path(sys.argv[1]), Path(sys.argv[1] + ".inside")
print("starts", flush=True)
sys.stdin.readline()
with locked(path):
    os.mkdir(inside)
    print("in", flush=True)
    sys.stdin.readline()
    os.rmdir(inside)
    path.unlink()
print("out", flush=True)
"""
    command = [sys.executable, "-c", code, str(tmp_path / ".lock")]
    first, second, third = (subprocess.Popen(command, stdout=-1, stdin=-1, text=True) for _ in range(3))

    def goes_on(process):
        process.stdin.write("\n")
        process.stdin.flush()

    def says(process):
        return process.stdout.readline().strip()

    assert [says(first), says(second), says(third)] == ["starts"] * 3
    goes_on(first)
    assert says(first) == "in"
    goes_on(second)
    time.sleep(0.3)  # it waits
    goes_on(first)
    assert [says(first), says(second)] == ["out", "in"]
    goes_on(third)
    time.sleep(0.3)
    goes_on(second)
    assert [says(second), says(third)] == ["out", "in"], "the third was in at once, with a file of its own"
    goes_on(third)
    assert says(third) == "out"
    for process in (first, second, third):
        process.communicate()
        assert process.returncode == 0


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


@pytest.mark.slow
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


def test_a_disk_that_refuses_is_told_from_other_faults():
    assert all(is_disk_error(OSError(code, "")) for code in (errno.ENOSPC, errno.EROFS, errno.EIO))
    assert not is_disk_error(FileNotFoundError(errno.ENOENT, ""))
    assert not is_disk_error(ValueError(errno.ENOSPC))


@pytest.mark.parametrize(("write", "content"), [(write_json, {"a": math.nan}), (write_text, "a")])
def test_what_is_to_last_waits_for_the_disk_once_and_makes_its_folder(tmp_path, monkeypatch, write, content):
    waited, path = [], tmp_path / "one" / "two" / "file"
    monkeypatch.setattr(files.os, "fsync", waited.append)
    for times in (1, 2):
        write(path, content)
        assert len(waited) == times
    assert [p.name for p in path.parent.iterdir()] == ["file"]
    assert path.read_text() == ('{"a": NaN}' if write is write_json else "a")


def test_what_may_pass_waits_for_no_disk_and_makes_no_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(files.os, "fsync", lambda file: pytest.fail("waited"))
    write_passing(tmp_path / "file", {"a": 1})
    assert json.loads((tmp_path / "file").read_text()) == {"a": 1}
    with pytest.raises(FileNotFoundError):
        write_passing(tmp_path / "none" / "file", {"a": 1})


def test_numbers_that_are_none_are_kept(tmp_path):
    write_json(tmp_path / "a", {"a": math.nan})
    assert math.isnan(read_kept(tmp_path / "a", dict)["a"])
    assert read_kept(tmp_path / "b", dict) is None


def test_a_study_may_not_be_called_what_runs_without_one_are_listed_as():
    assert files.check_study_name("quick", "study.name") == "quick"
    with pytest.raises(ValueError, match=r"study\.name=single: runs without a study are listed under that name"):
        files.check_study_name("single", "study.name")


def test_an_open_file_that_was_removed_or_replaced_has_its_name_no_more(tmp_path):
    path = tmp_path / "lock"
    with path.open("w") as file:
        assert files._is_there(file.fileno(), path) is True
        path.unlink()
        assert files._is_there(file.fileno(), path) is False
        path.touch()
        assert files._is_there(file.fileno(), path) is False
