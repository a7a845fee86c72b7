"""Imports go one way. The syntax tree says so, not a convention."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.root import ROOT

PACKAGES = ("models", "scaling", "experiments", "analysis", "hydra_plugins", "commands")
OURS = {
    "models": set(),
    "scaling": set(),
    "experiments": {"models", "scaling"},
    "analysis": {"scaling"},
    "hydra_plugins": {"experiments"},
    "commands": {"models", "scaling", "experiments", "analysis"},
}
FORBIDDEN = {
    "models": {"hydra", "omegaconf", "pandas", "pyarrow", "scipy", "matplotlib", "typer"},
    "scaling": {"torch", "hydra", "omegaconf", "matplotlib", "typer", "rich", "joblib", "altair"},
    "experiments": {"matplotlib", "altair"},
    "analysis": {"torch", "hydra", "omegaconf"},
}
FILES = sorted(f for p in PACKAGES for f in (ROOT / p).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Top-level names of every module a file imports, also inside functions; the folder of those that are ours."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {top(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; imports are absolute here"
            names.add(top(node.module or ""))
    return names


def top(module: str) -> str:
    first, _, rest = module.partition(".")
    return rest.partition(".")[0] or first if first == "isoflop" else first


def test_there_is_something_to_check():
    assert {f.relative_to(ROOT).parts[0] for f in FILES} == set(PACKAGES)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_imports_only_what_its_layer_may(path):
    layer, names = path.relative_to(ROOT).parts[0], imported(path)
    upward = names & {*PACKAGES, "isoflop", "tests", "conf"} - OURS[layer] - {layer}
    # conf is data: only the runner and its plugin may look it up.
    upward -= {"conf"} if layer in ("experiments", "hydra_plugins") else set()
    assert not upward, f"{path} imports {upward}"
    heavy = names & FORBIDDEN.get(layer, set())
    assert not heavy, f"{path} imports {heavy}"


def test_the_shape_of_a_model_needs_the_standard_library_alone():
    assert imported(ROOT / "models" / "config.py") <= set(sys.stdlib_module_names)


def test_the_front_door_imports_nothing_heavy_until_asked():
    for path in [ROOT / "isoflop" / "__main__.py", *(ROOT / "commands").glob("*.py")]:
        first = [n for n in ast.parse(path.read_text()).body if isinstance(n, ast.Import | ast.ImportFrom)]
        names = {top(a.name) for n in first if isinstance(n, ast.Import) for a in n.names}
        names |= {top(n.module) for n in first if isinstance(n, ast.ImportFrom)}
        assert names <= set(sys.stdlib_module_names) | {"typer", "commands"}, path


@pytest.mark.parametrize(
    "module",
    ["isoflop.scaling.findings.verdict", "isoflop.scaling.approaches.approaches", "isoflop.scaling.selection.holdout"],
)
def test_fitting_loads_neither_torch_nor_hydra_nor_matplotlib(module):
    code = f"import sys, {module}; print(sorted({{'torch', 'hydra', 'omegaconf', 'matplotlib'}} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert found.stdout.strip() == "[]", found.stderr


@pytest.mark.parametrize("path", [*FILES, *(ROOT / "isoflop").glob("*.py")], ids=lambda p: str(p.relative_to(ROOT)))
def test_files_stay_small_and_in_ascii(path):
    text = path.read_text()
    assert text.count("\n") <= 400
    assert text.isascii()
