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


def test_only_public_names_are_listed():
    assert dir(isoflop) == sorted([*isoflop.__all__, "__version__"])


def test_the_catalogue_is_a_module_to_import_from():
    from isoflop.laws import LAWS, Box, Law

    assert isoflop.laws is sys.modules["isoflop.laws"] is sys.modules["isoflop.scaling.laws"]
    assert (isoflop.laws.LAWS, isoflop.laws.Law, isoflop.laws.Box) == (LAWS, Law, Box)
    code = "from isoflop.laws import Law; import isoflop; print(isoflop.laws.Law is Law)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "True\n"


def test_a_fit_and_its_draws_are_dictionaries_of_the_keys_of_the_command():
    fitted = isoflop.fit("chinchilla", isoflop.example("quick"))
    draws = isoflop.jackknife(fitted)
    alone, drawn = (json.loads(json.dumps(found.to_dict(), allow_nan=False)) for found in (fitted, draws))
    assert alone["params"]["alpha"] == fitted.law.alpha
    assert alone["intervals"] == {}
    assert drawn["intervals"]["a"] == pytest.approx(draws.interval("a"))
    assert {*drawn} - {*alone} == {"refits"}
    assert "jackknife" not in dir(fitted)


@pytest.mark.process
def test_a_script_of_a_user_passes_the_strict_checks_of_types(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        """
import isoflop
from isoflop.laws import Law

table = isoflop.example("quick")
fitted = isoflop.fit("chinchilla", table, objective=isoflop.Huber(1e-3), free=["kappa"])
print(fitted.law.alpha + 1, fitted.to_dict()["status"])
law: Law = isoflop.laws.LAWS["chinchilla"](E=1.8, A=480.0, B=2100.0, alpha=0.35, beta=0.37)
lo, hi = isoflop.jackknife(fitted).interval(lambda law: law.optimal(1e13, fitted.cost).N)
evidence = isoflop.plot.Evidence(table, law="chinchilla")
axes = isoflop.plot.isoflop(evidence)
isoflop.fit(table, "chinchilla", fixed={"E": 0.0})
isoflop.suggest(table, budget=1e12, target=1e14, out="next.yaml")
print([finding.code for finding in isoflop.diagnose(fitted, table=table)])
"""
    )
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", str(script)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
