"""An export replaces what an export wrote and nothing else, with its neighbours' modes and no path of the host."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from isoflop.experiments.finished import card
from isoflop.experiments.finished.private import without_folders
from isoflop.models.export import replaced_folder
from isoflop.models.weights import write_tensors


def write(folder, name="README.md"):
    with replaced_folder(folder) as new:
        (new / "isoflop.json").write_text("{}")
        (new / name).write_text("new")


@pytest.mark.parametrize("stranger", ["thesis.tex", "data", "link", "config.json"])
def test_a_folder_with_anything_else_is_left_as_it_is(tmp_path, stranger):
    write(tmp_path / "out")
    write(tmp_path / "out")
    path = tmp_path / "out" / stranger
    if stranger == "link":
        path.symlink_to(tmp_path)
    elif stranger == "config.json":  # a name of ours, and a folder
        path.mkdir()
    else:
        path.write_text("precious")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=f"holds '{stranger}', which no export writes"):
        write(tmp_path / "out")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_link_to_a_folder_is_not_replaced(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "real")
    with pytest.raises(ValueError, match="not a folder"):
        write(tmp_path / "out")


def test_weights_have_the_mode_of_their_neighbours(tmp_path):
    write_tensors({"a": torch.zeros(2)}, tmp_path / "model.safetensors", {})
    (tmp_path / "other").write_text("")
    assert (tmp_path / "model.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("init_from=/home/me/runs/a", "init_from=a"),
        ("['/home/me/t/*.txt', '~/u/x.txt']", "['*.txt', 'x.txt']"),
        ("from file:///srv/me/x.json on", "from x.json on"),
        ("C:\\Users\\me\\x.txt", "x.txt"),
        ("https://example.org/a/b", "https://example.org/a/b"),
        ("and/or 1/2, loss / step, text/*.md", "and/or 1/2, loss / step, text/*.md"),
    ],
)
def test_a_path_within_a_text_loses_its_folders(text, kept):
    assert without_folders(text) == kept


def test_absolute_paths_lose_their_folders():
    given = {"files": ["/home/me/text/*.txt", "text/*.md"], "parent": {"folder": Path("/srv/runs/a")}, "n": 3}
    assert without_folders(given) == {"files": ["*.txt", "text/*.md"], "parent": {"folder": "a"}, "n": 3}


def test_exports_to_one_folder_wait_for_each_other(tmp_path, monkeypatch):
    """Two commands at once found the folder gone, half there, or said that it was no export."""

    def slow(model, folder, **_):
        with replaced_folder(folder) as new:
            for name in ("isoflop.json", "README.md"):
                time.sleep(0.005)
                (new / name).write_text("{}")

    monkeypatch.setattr(card, "write_folder", slow)
    monkeypatch.setattr(card, "card", lambda _: "")
    monkeypatch.setattr(card, "provenance", lambda _: {})
    trained = SimpleNamespace(model=None, tokenizer=SimpleNamespace(json=lambda: "{}"))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: card.export(trained, tmp_path / "deep" / "out"), range(20)))
    assert set(found) == {tmp_path.resolve() / "deep" / "out"}
    assert sorted(p.name for p in (tmp_path / "deep").iterdir()) == ["out"]
