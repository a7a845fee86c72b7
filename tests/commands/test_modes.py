"""No option of a command is taken and then not looked at: it changes what is answered or written, or it is refused."""

import json

import pandas as pd
import pytest
from typer.main import get_command

from isoflop.__main__ import app
from tests.support.doors.modes import LONG, MODES, SAME, further, write_tables
from tests.support.doors.typed import typed_here
from tests.support.root import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("kept_searches")]

ALONE = {"run", "prepare", "retry", "export", "serve", "report"}  # of one mode; trained, waited for or read at length


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """A folder with what the lines read, and the id of the run in its store."""
    folder = tmp_path_factory.mktemp("modes")
    return folder, write_tables(folder)


def given_to(*arguments, **keywords):
    """Stands for work that takes long: says what it was given."""
    shown = [
        (pd.util.hash_pandas_object(one).sum(), one.attrs.get("notes")) if isinstance(one, pd.DataFrame) else one
        for one in (*arguments, *keywords.items())
    ]
    raise ValueError(f"given {shown}")


def outcome(words, folder):
    """What a command answers and writes; what it wrote is removed."""
    before = set(folder.rglob("*"))
    answer = typed_here(words)
    assert not answer.traceback, answer.traceback
    new = sorted(set(folder.rglob("*")) - before, reverse=True)
    written = [(path.suffix, path.read_bytes()) for path in new if path.is_file()]
    for path in new:
        path.rmdir() if path.is_dir() else path.unlink()
    return answer, (answer.code, answer.out, answer.err, written)


def test_every_command_has_its_modes():
    assert {mode.partition(" ")[0] for mode in MODES} | ALONE == set(get_command(app).commands)


@pytest.mark.parametrize("mode", MODES)
def test_every_option_changes_something_or_is_refused(mode, tables, monkeypatch):
    folder, run_id = tables
    monkeypatch.chdir(folder)
    if mode in LONG:
        monkeypatch.setattr(LONG[mode], given_to)
    command = mode.partition(" ")[0]
    words = [command, *(run_id if word == "RUN" else word for word in MODES[mode])]
    plain, before = outcome(words, folder)
    assert plain.code == 0 or ": given " in plain.err, plain.err
    ignored = [flag for flag, more in further(mode) if outcome([*words, *more], folder)[1] == before]
    known = {*SAME.get(mode, {}), *SAME.get(command, {}), *(["--json"] if mode in LONG else [])}
    assert set(ignored) - known == set()


# Of these the page says that they have no findings.
WITHOUT = {
    "plan": "plan", "plan card": "plan", "status": "status RUNS", "evaluate": "evaluate", "evaluate study": "evaluate",
}  # fmt: skip


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode not in LONG])
def test_json_is_one_object_with_findings_as_the_page_for_programs_says(mode, tables, monkeypatch):
    folder, run_id = tables
    monkeypatch.chdir(folder)
    command = mode.partition(" ")[0]
    words = [command, *(run_id if word == "RUN" else word for word in MODES[mode]), "--json"]
    answer, _ = outcome(words, folder)
    if "--json" in answer.err:  # a command without it, which writes a file or text
        assert command in {"generate", "compact", "positions", "plot", "clean"}
        return
    value = json.loads(answer.out)
    assert isinstance(value, dict)
    assert ("findings" in value) == (mode not in WITHOUT)
    page = (ROOT / "docs" / "agents.md").read_text()
    assert f"`{WITHOUT[mode]}`" in page if mode in WITHOUT else True


def test_many_corpora_are_one_object(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["prepare", "data=synthetic", "data.synthetic={vocab_size: 16, tokens: 40000, chains: 50}", "--json"]
    one = json.loads(typed_here([*words, "data.synthetic.seed=0"]).out)
    two = json.loads(typed_here([*words, "data.synthetic.seed=0,1"]).out)
    assert one["corpora"] == [{key: value for key, value in one.items() if key != "corpora"}] == two["corpora"][:1]
    assert len({corpus["corpus_id"] for corpus in two["corpora"]}) == 2
