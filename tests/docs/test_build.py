"""The documentation: every block of every page runs, links lead somewhere, the reference names all there is."""

import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import duckdb
import pandas as pd
import pytest
from typer.main import get_command

import isoflop
from docs import build
from isoflop.__main__ import app
from isoflop.analysis.page.checklist import _RULES
from isoflop.analysis.readme import KEPT
from isoflop.scaling.table.runs import read_runs, write_run
from tests.support.answers import answer_of, command_of, differ, kept
from tests.support.forked import Commands
from tests.support.root import RESULTS, ROOT

PAGES = build.pages()
GROWN = {
    "cluster": ("clusters.md", "gpu.md"),
    "a run of one's own": ("corpora-and-models.md", "gate.md", "mixtures.md"),
    "make": ("index.md",),
    "hub": ("publishing.md",),
}


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.long
@pytest.mark.parametrize(
    "path",
    [p for p in PAGES if any(b.language in ("sh", "python") for b in build.blocks(p.read_text()))],
    ids=lambda p: p.stem,
)
def test_every_block_of_a_page_runs(path: Path, tmp_path: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch):
    """By commands that start from imports already made, but for one page, as a reader's shell runs it.

    What a command prints that the README shows too is what stands there.
    """
    if path.stem != "your-table":
        monkeypatch.setattr(build, "BIN", commands.bin)
    page = build.run_page(path, tmp_path / "page")
    assert "Traceback" not in page
    shown = [b for b in build.blocks(page) if b.language == "text" and not b.title]
    run = [b for b in build.blocks(path.read_text()) if b.language == "sh"]
    assert len(shown) >= len(run)
    requested = {command_of(name): name for name in KEPT}
    for block, printed in pairwise(build.blocks(page)):
        if name := requested.get(block.text.strip()):
            now = kept(name, printed.text)
            assert not differ(answer_of(name), now), f"run make figures\n{answer_of(name)}\n{now}"


@pytest.mark.slow
def test_a_block_that_fails_is_named_with_its_line(tmp_path: Path):
    (tmp_path / "bad.md").write_text("# Bad\n\n```sh\nisoflop fit nowhere.csv\n```\n")
    with pytest.raises(build.BlockError, match=r"bad\.md:3: exit 2\n.*nowhere\.csv"):
        build.run_page(tmp_path / "bad.md", tmp_path / "page")


def test_what_is_shown_and_not_run_is_what_needs_more_than_this_machine():
    done = subprocess.run([sys.executable, build.__file__, "--list"], capture_output=True, text=True, check=True)
    listed = {line.split(":")[0] for line in done.stdout.splitlines()}
    assert listed == {page for pages in GROWN.values() for page in pages}


def test_every_command_that_is_only_shown_exists():
    known = set(get_command(app).commands)  # type: ignore[attr-defined]
    for path in PAGES:
        for block in build.blocks(path.read_text()):
            if block.language == "console":
                assert set(re.findall(r"isoflop ([a-z]+)", block.text)) <= known, path.name


def links(text: str) -> list[str]:
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]


def anchors(text: str) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def test_links_lead_to_pages_and_headings():
    pages = {p.name: build.on_site(p.read_text()) for p in PAGES} | build.generated_pages()
    seen = 0
    for name, text in pages.items():
        for link in links(text):
            target, _, anchor = link.partition("#")
            path = (Path("/") / Path(name).parent / target).resolve().relative_to("/").as_posix() if target else name
            assert path in pages or (build.DOCS / path).is_file(), f"{name}: {link}"
            assert not anchor or anchor in anchors(pages[path]), f"{name}: {link}"
            seen += 1
    assert seen > 40


def test_links_of_the_pages_lead_somewhere_in_the_repository_too():
    """On GitHub there are no pages that the build makes."""
    for path in PAGES:
        for link in links(path.read_text()):
            target = link.partition("#")[0]
            assert (build.DOCS / target).resolve().exists(), f"{path.name}: {link}"
            assert (ROOT / "docs" / target).resolve().is_relative_to(ROOT.resolve())


def test_the_site_names_every_page():
    named = set(re.findall(r": ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    assert named == {p.name for p in PAGES} | {"laws/index.md", "commands/index.md", "python.md", "calibration.md"} | {
        "findings.md"
    }


def test_the_reference_holds_every_law_command_option_and_public_name():
    laws, commands, python = build.law_pages(), build.command_pages(), build.api_page()["python.md"]
    assert set(laws) == {"laws/index.md"} | {f"laws/{name}.md" for name in isoflop.laws.LAWS}
    for name, law in isoflop.laws.LAWS.items():
        assert all(f"`{parameter}`" in laws[f"laws/{name}.md"] for parameter in law.parameters())
        assert law.caution, f"{name} does not say where it fails"
        assert law.source in laws[f"laws/{name}.md"]
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        assert all(
            option in commands[f"commands/{name}.md"] for p in command.params for option in p.opts if "-" in option
        )
    assert all(f"## {name}\n" in python for name in isoflop.__all__)


def test_the_reference_holds_every_finding_with_what_it_says_and_what_removes_it():
    page = build.findings_page()["findings.md"]
    rows = re.findall(r"^\| `(.*?)` \| (.+) \| (.+) \|$", page, re.MULTILINE)
    codes = [code for code, _, _ in rows]
    assert page.count("\n| ") == len(rows) + 2
    assert all(re.fullmatch(r"[a-z_]+|\.\.\._matters", code) for code in codes)
    named = {code for rule in _RULES for code in rule.findings} | set(
        re.findall(r"^\| `(\w+)` \|", (build.DOCS / "how-sure.md").read_text().split("## Findings")[1], re.MULTILINE)
    )
    assert named - {"kappa_matters", "fail", "warn", "info"} <= set(codes)
    assert dict(zip(codes, rows, strict=True))["exponents_drift"][1].startswith("the residuals follow ln n_params")


@pytest.mark.slow
def test_the_query_of_a_page_reads_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It takes the final rows of the runs, and no other table of a store."""
    query = re.search(r'query = "(.*)"', (build.DOCS / "first-study.md").read_text())[1]
    table = read_runs(RESULTS / "quick.parquet")
    kept = list(table["run_id"].unique()[:3])
    for run_id in kept:
        rows = table[table["run_id"] == run_id].to_dict("records")
        write_run(tmp_path / "runs" / "cells" / run_id / "run.parquet", rows, {})
        other = pd.DataFrame({"position": [0], "loss": [5.0]})  # a store holds other tables too
        other.to_parquet(tmp_path / "runs" / "cells" / run_id / "evaluation.parquet")
    monkeypatch.chdir(tmp_path)
    rows = duckdb.sql(query).fetchall()
    finals = table[table["final"] & table["run_id"].isin(kept)].set_index("run_id")
    assert {row[0] for row in rows} == set(kept)
    for run_id, n_params, tokens, loss in rows:
        assert (n_params, tokens, loss) == tuple(finals.loc[run_id, ["n_params_total", "tokens", "loss"]])


@pytest.mark.parametrize("there", [True, False])
def test_the_calibration_page_is_the_proofs_table_or_says_how_to_make_it(
    there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(build, "DOCS", tmp_path)
    if there:
        (tmp_path / "calibration.md").write_text("# Calibration\n\nfit: .9\n")
    text = build.calibration_page()["calibration.md"]
    assert text.startswith("# Calibration\n")
    assert ("fit: .9" in text) == there
    assert ("tests.proofs.calibration --write" in text) == (not there)
    assert build.pages() == []
