"""Every command and override that CONTRIBUTING, the pages of docs and the help print is one: its options and keys.

What a page prints in a block is run: README's by tests/docs/test_readme.py, the blocks `sh` of docs page by page by
tests/docs/test_build.py. What is shown and not run (a cluster, a card, a hub, an account; `docs/build.py --list`), and
what stands in a sentence, is read here by the parser of the command, and its study is composed. docs/log.md tells the
past. ELSEWHERE names what neither does.
"""

import re
import shlex

import pytest
from typer.main import get_command

from isoflop.__main__ import ClickError, app
from isoflop.experiments.compose.compose import compose_all
from isoflop.experiments.config import ExperimentConfig
from tests.support.root import ROOT

PAGES = ("CONTRIBUTING.md", *(f"docs/{p.name}" for p in sorted((ROOT / "docs").glob("*.md")) if p.name != "log.md"))
COMMANDS = get_command(app).commands
COMPOSED = {"run", "plan", "prepare", "tune"}  # what follows are overrides
# Spans that are not looked at here, by how they begin, and why.
ELSEWHERE = {
    "isoflop prepare data.source=mine": "a source that the reader writes",
    "isoflop run experiment=mine hydra/launcher=ray_cluster": "needs the ray extra",
    "hydra/launcher=ray": "needs the ray extra",
    "hydra.launcher.": "of a launcher that is named beside it",
}
MEANT = {  # what stands for something of the reader's
    "model.family=NAME": "model.family=lstm", "model=NAME": "model=d12", "experiment=NAME": "experiment=smoke",
    "... ": "", "[key=value ...]": "", "partition=P": "partition=cpu", "data.hub.name=...": "data.hub.name=x/y",
}  # fmt: skip
NAMES = {"fit": "kaplan"}
STUDY = "# @package _global_\nstudy: {name: mine, sizes: [d6, d8], budgets: [1e9]}\n"
FENCED = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def spans() -> list[str]:
    """Inline code, and lines of blocks that are shown only, of the pages; and lines of the help."""
    found = []
    for page in PAGES:
        text = (ROOT / page).read_text()
        for language, block in FENCED.findall(text):
            if language in ("", "console"):
                found += [line.partition("#")[0].removeprefix("$ ").strip() for line in block.splitlines()]
        found += re.findall(r"`([^`\n]+)`", FENCED.sub("", text))
    for command in COMMANDS.values():
        found += re.findall(r"(isoflop [a-z]+ [^\n]+?)(?=\.?$|\. | writes )", command.help or "", re.MULTILINE)
    return [span for span in dict.fromkeys(filter(None, found)) if not span.startswith(tuple(ELSEWHERE))]


ALL = spans()
NEEDY = {f"isoflop {name}" for name, c in COMMANDS.items() if any(p.required for p in c.params)}  # named without words
TYPED = [span for span in ALL if span.startswith("isoflop ") and span not in NEEDY]
KEYS = (*ExperimentConfig.__dataclass_fields__, "experiment", "hydra")
OVERRIDES = [span for span in ALL if re.match(rf"^({'|'.join(KEYS)})[./=]", span) and "=" in span]

LAUNCHER = re.compile(r"`([\"']?hydra\.launcher\.[^`\n]+=[^`\n]+)`")
LAUNCHERS = dict.fromkeys(span for page in PAGES for span in LAUNCHER.findall((ROOT / page).read_text()))


def words(span: str) -> list[str]:
    """The words of a command with what the reader names put in."""
    for placeholder, value in MEANT.items():
        span = span.replace(placeholder, value)
    command = span.split()[1]
    return shlex.split(re.sub(r"\bNAME\b", NAMES.get(command, "smoke"), span))[1:]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with the study of one's own that the pages call mine."""
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "mine.yaml").write_text(STUDY)
    monkeypatch.chdir(tmp_path)


def composed(arguments: list[str]) -> list[ExperimentConfig]:
    own = any("experiment=mine" in word for word in arguments) and "--config-dir" not in arguments
    return compose_all([*(["--config-dir", "conf"] if own else []), *arguments])


@pytest.mark.slow
@pytest.mark.parametrize("span", TYPED)
def test_a_printed_command_is_one(span, folder):
    command, *arguments = words(span)
    assert command in COMMANDS
    context = COMMANDS[command].make_context(command, arguments)
    if command in COMPOSED and context.args != ["TABLE"]:  # tune takes one, of the reader's, or overrides
        assert composed(context.args or ["experiment=smoke"])


@pytest.mark.slow
@pytest.mark.parametrize("span", OVERRIDES)
def test_printed_overrides_are_settings(span, folder):
    for placeholder, value in MEANT.items():
        span = span.replace(placeholder, value)
    assert compose_all([part.strip() for part in re.split(r" (?=[\w./]+=)", span.replace("'", ""))])


@pytest.mark.parametrize("span", LAUNCHERS)
def test_printed_options_of_a_launcher_are_options(span, folder):
    assert compose_all(["experiment=smoke", "hydra/launcher=slurm_cpu", *shlex.split(span)])


@pytest.mark.slow
def test_the_words_of_torchrun_are_composed(folder):
    lines = [span for span in ALL if span.startswith("torchrun")]
    assert lines
    for line in lines:
        assert composed(line.partition("-m isoflop run ")[2].split())[0].where.distributed in ("ddp", "fsdp2")


def test_there_are_commands_to_look_at():
    assert len(TYPED) > 20
    assert len(OVERRIDES) >= 8
    assert all(any(page in (ROOT / p).read_text() for p in PAGES) for page in ELSEWHERE)


@pytest.mark.parametrize("span", ["isoflop fit TABLE --nosuch 1", "isoflop plan study.nosuch=1", "isoflop nosuch"])
def test_one_that_is_none_is_seen(span, folder):
    with pytest.raises((AssertionError, ValueError, ClickError)):
        test_a_printed_command_is_one(span, folder)
