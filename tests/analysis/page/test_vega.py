"""The script of the charts is made once and kept in the user's cache; what others may have written is not used."""

import os
from pathlib import Path

import pytest

from isoflop.analysis.page import vega
from isoflop.analysis.page.vega import Script


@pytest.fixture
def calls(monkeypatch, tmp_path) -> list[tuple[str, str]]:
    """What was made in a separate process, in an empty cache folder."""
    made: list[tuple[str, str]] = []

    class Call:
        def __init__(self, module: str, function: str) -> None:
            made.append((module, function))
            self.value = f"script {len(made)} \u2192"

    monkeypatch.setattr(vega, "BackgroundCall", Call)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return made


def kept(folder: Path) -> Path:
    (path,) = (folder / "isoflop").iterdir()
    return path


def test_it_is_made_once_and_for_a_version(calls, tmp_path, monkeypatch):
    assert [Script().text, Script().text] == ["script 1 \u2192"] * 2
    assert calls == [("vl_convert", "javascript_bundle")]
    monkeypatch.setattr(vega, "version", lambda name: "99")
    assert Script().text == "script 2 \u2192"


@pytest.mark.parametrize("damage", ["empty", "bytes", "open", "link"])
def test_what_is_damaged_or_not_ours_is_made_anew(calls, tmp_path, damage):
    first = Script().text
    path = kept(tmp_path)
    if damage == "open":
        path.chmod(0o666)
    elif damage == "link":
        os.replace(path, tmp_path / "elsewhere.js")
        path.symlink_to(tmp_path / "elsewhere.js")
    else:
        path.write_bytes(b"" if damage == "empty" else b"\xff\xfe")
    assert Script().text == "script 2 \u2192" != first


def test_a_folder_that_others_could_write_is_not_trusted(calls, tmp_path):
    Script().text  # noqa: B018
    (tmp_path / "isoflop").chmod(0o777)
    assert Script().text == "script 2 \u2192"


def test_without_a_cache_it_is_made_each_time(calls, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert [Script().text, Script().text] == ["script 1 \u2192", "script 2 \u2192"]
