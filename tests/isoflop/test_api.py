"""The public API: lazy, one class with the command line, each name with an example that runs."""

import doctest
import json
import subprocess
import sys
from types import ModuleType

import pytest

import isoflop
from tests.support.root import RESULTS, ROOT

pytestmark = pytest.mark.usefixtures("kept_searches")


def documented(name: str) -> list[doctest.DocTest]:
    value = getattr(isoflop, name)
    return [t for t in doctest.DocTestFinder(recurse=False).find(value, name, globs={}) if t.examples]


@pytest.mark.slow
@pytest.mark.parametrize("name", isoflop.__all__)
def test_every_public_name_has_an_example_that_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tests = documented(name)
    assert tests, f"isoflop.{name} has no example in its docstring"
    for test in tests:
        runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
        report: list[str] = []
        runner.run(test, out=report.append)
        assert runner.failures == 0, "".join(report)


def test_the_import_loads_nothing_heavy():
    code = (
        "import sys, isoflop; dir(isoflop); print({'numpy', 'pandas', 'torch', 'hydra', 'matplotlib'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_names_are_listed_once_and_all_are_there():
    assert sorted(isoflop._PLACES) == sorted(isoflop.__all__)
    assert {*isoflop.__all__} <= {*dir(isoflop)}
    for name in isoflop.__all__:
        value = getattr(isoflop, name)
        assert callable(value) or isinstance(value, ModuleType)


def test_a_name_that_is_not_there_lists_those_that_are():
    with pytest.raises(AttributeError, match=r"no attribute 'fitt'; there are .*fit"):
        isoflop.fitt  # noqa: B018
    with pytest.raises(AttributeError, match=r"no figure 'nope'; there are isoflop"):
        isoflop.plot.nope  # noqa: B018


ANSWERS = {
    "approaches": ({}, []),
    "multiplier": ({"by": "arm"}, ["--by", "arm"]),
    "gate": ({"target": 1e12, "baseline": "transformer"}, ["--target", "1e12", "--baseline", "transformer"]),
    "predict": ({"flops": 3e12, "laws": "chinchilla"}, ["--flops", "3e12", "--laws", "chinchilla"]),
    "suggest": ({"budget": 1e12, "target": 1e13}, ["--budget", "1e12", "--target", "1e13"]),
    "compare": ({"laws": "chinchilla"}, ["--laws", "chinchilla"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ANSWERS)
def test_the_command_line_gives_the_same_answer(name, typed):
    keywords, options = ANSWERS[name]
    path = RESULTS / ("transformer_vs_lstm.parquet" if name in ("multiplier", "gate") else "quick.parquet")
    code, out, _ = typed(name, path, *options, "--json")
    answer = getattr(isoflop, name)(isoflop.read_table(path), **keywords).to_dict()
    printed = json.loads(out)
    assert code == 0
    assert {key: printed[key] for key in answer} == json.loads(json.dumps(answer))


def test_the_version_is_that_of_the_package():
    assert isoflop.__version__.count(".") == 2


def test_every_best_size_that_a_page_or_docstring_shows_is_under_the_cost_of_its_table():
    shown = [*(ROOT / "docs").glob("*.md"), ROOT / "README.md", ROOT / "isoflop" / "__init__.py"]
    shown += (ROOT / "scaling" / "fitting").rglob("*.py")
    texts = [line for path in shown for line in path.read_text().splitlines() if "law.optimal(" in line]
    assert len(texts) >= 3
    assert not [line for line in texts if "lambda law" in line and "cost" not in line]
