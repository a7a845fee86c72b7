"""`isoflop` itself: its help, its version, and what it says where half of the requirements are absent."""

import os
import re
import subprocess
import sys

import pytest
from typer.main import get_command

from isoflop.__main__ import app
from isoflop.commands.options import DECIDE, FIT, MODELS, RUN, SHOW
from isoflop.scaling.table import runs
from tests.support.root import ROOT
from tests.support.session import RUNNER, Ended, session

pytestmark = pytest.mark.process
COMMANDS = get_command(app).commands


def python(code: str, *arguments: object, cwd=ROOT, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=cwd, capture_output=True, text=True, timeout=280, env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
    )  # fmt: skip


TYPED = "from isoflop.__main__ import main; main()"


@pytest.fixture(scope="module")
def shown() -> str:
    return python(TYPED, "--help", COLUMNS="80").stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_summary_stands_whole_in_the_help(shown, name):
    first = " ".join(COMMANDS[name].help.split("\n\n")[0].split())
    assert first.endswith(".")
    assert len(first) <= 46, "a first sentence of at most 45 letters, and its full stop"
    assert re.search(rf"^  {name} +{re.escape(first)}$", shown, re.MULTILINE)


def test_the_help_has_five_groups_that_hold_every_command(shown):
    titles = re.findall(r"^(\w[\w ]+):$", shown, re.MULTILINE)
    assert titles == ["Options", RUN, FIT, DECIDE, SHOW, MODELS]
    assert len(COMMANDS) <= 27
    assert {command.rich_help_panel for command in COMMANDS.values()} == set(titles[1:])


def test_help_loads_neither_pandas_nor_torch():
    code = f"import sys\ntry:\n    {TYPED}\nfinally: print(sorted({{'numpy', 'pandas', 'torch'}} & set(sys.modules)))"
    assert python(code, "--help").stdout.strip().endswith("[]")


def test_the_version_names_the_commit_of_a_checkout():
    commit = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    printed = python(TYPED, "--version").stdout
    assert re.fullmatch(r"isoflop \d+\.\d+\.\d+(\+[0-9a-f]{12})?\n", printed)
    assert commit.stdout.strip() in printed


@pytest.mark.parametrize(
    ("place", "named", "has_commit"),
    [
        (".venv/lib/python3.11/site-packages/isoflop/scaling/table", "theirs", False),
        ("scaling/table", "theirs", False),
        ("isoflop/scaling/table", "isoflop", False),
        ("scaling/table", "isoflop", True),
    ],
)
def test_a_repository_around_an_installation_gives_it_no_commit(tmp_path, monkeypatch, place, named, has_commit):
    (tmp_path / place).mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text(f'[project]\nname = "{named}"\n')
    for words in (("init", "-q"), ("add", "."), ("-c", "user.name=x", "-c", "user.email=x@x", "commit", "-qm", "m")):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    monkeypatch.setattr(runs, "__file__", str(tmp_path / place / "runs.py"))
    assert ("+" in runs.code_version.__wrapped__()) == has_commit


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full, a disk that is always full")
@pytest.mark.parametrize("more", [[], ["--json"]])
def test_a_full_disk_behind_the_answer_is_not_the_tables_fault(more):
    table = ROOT / "experiments/results/quick.parquet"
    command = [sys.executable, "-c", TYPED, "approaches", str(table), *more]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=os.environ, check=False)
    assert (done.returncode, done.stderr) == (1, "isoflop: the answer cannot be printed: no space left on device\n")


NEEDS = {
    "run experiment=quick": "hydra-core",
    "plan experiment=quick": "hydra-core",
    "prepare data=text": "hydra-core",
    "tune experiment=lr_transfer": "hydra-core",
    "generate abc": "torch",
    "export abc -o x": "torch",
    "evaluate abc": "torch",
    "serve abc": "torch",
    "positions": "torch",
}


@pytest.fixture(scope="module")
def refused(tmp_path_factory) -> dict[str, Ended]:
    """How the other half ends without them; nothing may be left in its folder."""
    folder = tmp_path_factory.mktemp("other")
    ended = session([command.split() for command in NEEDS], cwd=folder, absent=RUNNER)
    assert list(folder.iterdir()) == []
    return dict(zip(NEEDS, ended, strict=True))


@pytest.mark.parametrize("command", NEEDS, ids=lambda command: command.split()[0])
def test_a_command_whose_half_is_absent_names_what_to_install(command, refused):
    done = refused[command]
    assert (done.code, done.out) == (2, "")
    (line,) = done.err.splitlines()
    assert line.startswith(f"isoflop: `isoflop {command.split()[0]}` needs ")
    assert NEEDS[command] in line
    assert line.endswith("pip install isoflop")


def test_an_absent_module_of_another_kind_is_a_traceback():
    code = "import sys; sys.modules['scipy'] = None\n" + TYPED
    done = python(code, "fit", ROOT / "experiments/results/quick.parquet")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
