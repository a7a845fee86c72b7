"""One version and one list of Pythons, wherever they are written; the workflows call what exists."""

import re
import tomllib

import yaml

from tests.support.root import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_version_is_that_of_the_package():
    version = PROJECT["version"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version
    headings = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert headings[1].split()[0] == version
    numbers = [tuple(map(int, h.split()[0].split("."))) for h in headings[1:]]
    assert numbers == sorted(set(numbers), reverse=True)


def test_what_is_supported_is_what_is_tested():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    (job,) = workflow["jobs"].values()
    tested = job["strategy"]["matrix"]["python"]
    reported = [
        c.rpartition(" ")[2] for c in PROJECT["classifiers"] if c.startswith("Programming Language :: Python :: ")
    ]
    assert tested == reported == ["3.11", "3.12", "3.13"]
    assert PROJECT["requires-python"] == f">={tested[0]}"
    assert job["steps"][-1]["run"] == ".ci/run"
    assert (ROOT / ".ci/run").stat().st_mode & 0o111


def test_a_release_is_built_from_its_tag_and_tried():
    workflow = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())
    steps = [step.get("run", "") for step in workflow["jobs"]["build"]["steps"]]
    assert workflow[True]["push"]["tags"] == ["v*"]  # `on` is read as a truth value
    assert "python -m build" in steps
    assert any("GITHUB_REF_NAME#v" in run for run in steps)
    assert any("pip" in run and "isoflop run experiment=smoke" in run for run in steps)
    assert workflow["jobs"]["publish"]["needs"] == "build"
