"""The README is short, and what it shows is what the repository does: every answer, command, target and link."""

import re
from pathlib import Path

import pandas as pd
import pytest
from typer.main import get_command

from docs import build
from isoflop.__main__ import app
from isoflop.analysis.readme import KEPT, answer, rewrite
from tests.support.answers import NUMBER, README, answer_of, block, command_of, differ
from tests.support.root import RESULTS, ROOT


@pytest.mark.parametrize("name", KEPT)
def test_an_answer_is_of_a_command_that_a_page_runs(name: str):
    """That page's test in test_build.py compares the answer with what the command prints."""
    run = [block.text.strip() for path in build.pages() for block in build.blocks(path.read_text())]
    assert run.count(command_of(name)) == 1
    assert len(NUMBER.findall(answer_of(name))) > 3


@pytest.mark.slow
@pytest.mark.process
def test_a_block_is_written_anew_from_its_command():
    old = README.replace(answer_of("fit"), "nothing yet")
    assert not differ(README, rewrite(old, "fit", ROOT))


def test_a_number_that_is_off_is_seen():
    printed = block(README, "predict")
    (line,) = [line for line in printed.splitlines() if "nats" in line]
    loss = NUMBER.findall(line)[0]
    assert differ(printed, printed.replace(loss, f"{float(loss) * 1.03:.4f}", 1))
    assert differ(printed, printed.replace("nats", "bits"))
    assert not differ(printed, printed.replace("  ", "   "))


@pytest.mark.slow
def test_a_block_without_its_command_or_answer_is_an_error(tmp_path: Path):
    with pytest.raises(ValueError, match="no block <!-- fit -->"):
        rewrite(README.replace("$ isoflop fit", "isoflop fit"), "fit", ROOT)
    with pytest.raises(RuntimeError, match=r"isoflop fit nowhere\.csv: exit 2"):
        answer("isoflop fit nowhere.csv", ".", ROOT)


def test_five_questions_each_with_its_command_and_page():
    requested = re.findall(r"^\*\*(.*\?)\*\* .*\]\(docs/[\w-]+\.md", README, re.MULTILINE)
    assert len(requested) == len(KEPT) == 5
    for name in KEPT:
        assert block(README, name).startswith(f"```console\n$ isoflop {name} experiments/results/")


def test_every_block_is_an_answer_or_the_two_commands():
    fences = re.findall(r"^```([a-z]*)\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    assert [language for language, _ in fences] == ["", *["console"] * len(KEPT)]
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    typed = [line.split("#")[0].split() for line in fences[0][1].splitlines()]
    assert typed == [["make", "demo"], ["make", "test"]]
    assert set(re.findall(r"make ([a-z-]+)", README.replace("make;", ""))) <= targets | {"for"}


def test_every_command_exists():
    known = set(get_command(app).commands)  # type: ignore[attr-defined]
    assert set(re.findall(r"isoflop ([a-z]+)", README)) - known <= {"trains", "is", "once"}


def test_every_link_leads_somewhere():
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", README) if "://" not in link]
    assert len(links) > 15
    for link in links:
        target, _, anchor = link.partition("#")
        assert (ROOT / target).is_file(), link
        titles = re.findall(r"^#+ (.*)$", (ROOT / target).read_text(), re.MULTILINE) if anchor else []
        assert not anchor or anchor in {title.lower().replace(" ", "-") for title in titles}, link


def test_committed_results_are_small_and_whole():
    table = pd.read_parquet(RESULTS / "quick.parquet")
    assert (RESULTS / "quick.parquet").stat().st_size < 1_000_000
    assert table["run_id"].nunique() == table["final"].sum() == int(re.search(r"trains (\d+) small", README)[1])


def test_the_readme_is_short():
    assert len(README.splitlines()) < 100
