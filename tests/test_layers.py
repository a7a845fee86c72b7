"""Imports go one way, folders stay small, code is in ASCII, public names are documented, and tests mirror the tree.

Everything is read from the syntax trees. An import inside a function counts, and so does one for type checking alone:
a reader follows both. Each rule returns what offends it.
"""

import ast
import gc
import re
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from tests.support.root import ROOT

# Package: the packages of ours that it may import.
PACKAGES = {
    "models": set(),
    "scaling": set(),
    "experiments": {"models", "scaling"},
    "analysis": {"scaling"},
    "hydra_plugins": {"experiments"},
    "commands": {"models", "scaling", "experiments", "analysis"},
}
# Modules beside the packages, of the standard library alone, that every package may import.
SHARED = {"answer", "arguments", "cache_folder", "package_version", "printable", "read_json"}
# Package: the libraries that it may not import.
FORBIDDEN = {
    "models": {"hydra", "omegaconf", "pandas", "pyarrow", "scipy", "matplotlib", "typer"},
    "scaling": {"torch", "hydra", "omegaconf", "matplotlib", "typer", "rich", "joblib"},
    "experiments": {"matplotlib"},
    "analysis": {"torch", "hydra", "omegaconf"},
}
# Rooms (folders, or files at the top) of a package from the bottom up: each imports only rooms of the lines above it.
# `*` is every file at the top that is not named.
ROOMS = {
    "models": ("*", "families step"),
    "scaling": (
        "laws", "table", "imports fitting", "approaches", "findings", "selection",
        "prediction arms design tuning mixtures", "gate stopping",
    ),
    "experiments": (
        "config files", "data", "study", "compose", "cost", "store", "training", "parallel", "trackers", "sweep", "app",
        "finished", "followup",
    ),
    "analysis": (
        "style background own_files markdown", "evidence", "figure", "figures", "law_tables", "sections", "page",
        "paper", "report hero readme",
    ),
}  # fmt: skip
MOST_MODULES = 12  # of a folder
DOCUMENTED = 0.95  # share of the public names of a package
# Test files that are named after no module, and why.
NAMED_OTHERWISE = {
    "analysis/page/test_browser.py": "page.js, run by a browser",
    "analysis/page/test_script.py": "page.js, run by node",
    "commands/test_modes.py": "every option in every mode of every command",
    "docs/test_site.py": "the site in a browser",
    "docs/test_readme.py": "README.md",
    "docs/test_release.py": "version, changelog and the workflow that releases",
    "docs/test_printed_commands.py": "every command that a page prints",
    "isoflop/test_api.py": "the public names of the package",
    "isoflop/test_front_door.py": "the command line as a whole",
    "isoflop/test_package.py": "the package as it is installed",
    "analysis/test_report_tables.py": "the whole report, on tables that are hard to draw",
    "experiments/data/test_corpus_ids.py": "what every source is identified by, pinned",
    "experiments/data/test_encodings.py": "every source of text, in every encoding",
    "experiments/store/test_bad_disk.py": "every writer of a store, on a disk that refuses",
    "experiments/sweep/test_faults.py": "sweeps whose processes are killed",
    "experiments/sweep/test_mixtures.py": "sweeps over mixtures whose processes are killed",
    "experiments/test_conf.py": "the folder conf, which the runner reads",
    "experiments/test_conf_studies.py": "the studies in conf/experiment",
    "experiments/training/test_compiled.py": "the step that torch.compile makes",
    "experiments/training/test_cuda.py": "whatever needs a card",
    "scaling/imports/test_people.py": "every reader of tables, on tables as people write them",
    "models/test_coordinate_check.py": "what every family keeps when it grows wider and deeper",
}

Edges = dict[str, set[str]]


@cache
def tree(path: str) -> ast.Module:
    return ast.parse((ROOT / path).read_text())


@cache
def files() -> frozenset[str]:
    """Paths of the modules of all packages, as of the root."""
    return frozenset(str(f.relative_to(ROOT)) for package in PACKAGES for f in (ROOT / package).rglob("*.py"))


def files_of_tests() -> list[str]:
    return sorted(str(f.relative_to(ROOT)) for f in (ROOT / "tests").rglob("*.py"))


def file_of(module: str) -> str | None:
    """The file of a module of ours."""
    base = module.removeprefix("isoflop.").replace(".", "/")
    return next((path for path in (f"{base}.py", f"{base}/__init__.py") if path in files()), None)


@cache
def modules(path: str) -> set[str]:
    """Every module that a file imports, anywhere in it; a name imported from a package is a module if it is a file."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; imports are absolute here"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if file_of(name) else node.module for name in inner}
        elif isinstance(node, ast.Constant) and (named := re.fullmatch(r"(isoflop(\.\w+)+)(:\w+)?", str(node.value))):
            found |= {named[1]} if file_of(named[1]) else set()  # a module that is loaded by its name, or a class of it
    return found


@cache
def edges() -> Edges:
    """The files of ours that each file of ours imports."""
    found = {path: {file_of(module) for module in modules(path)} for path in files()}
    return {path: {other for other in others if other and other != path} for path, others in found.items()}


def room(path: str) -> str:
    """`scaling/laws` of `scaling/laws/law.py`, `experiments/app` of `experiments/app.py`."""
    return "/".join(Path(path).with_suffix("").parts[:2])


def rank(path: str) -> int | None:
    """How high the room of a file stands in its package; None of one that the order does not name."""
    package, _, name = room(path).partition("/")
    levels = [level.split() for level in ROOMS.get(package, ())]
    if name == "__init__":
        return None
    at = [i for i, level in enumerate(levels) if name in level]
    if not at and path.count("/") == 1:
        at = [i for i, level in enumerate(levels) if "*" in level]
    return at[0] if at else None


def top(module: str) -> str:
    """The library, or the package of ours."""
    first, _, rest = module.partition(".")
    return rest.partition(".")[0] or first if first == "isoflop" else first


def packages() -> set[str]:
    """Files that import a package above their own, or a library that is not for it."""
    found = set()
    outer = {f.stem for f in (ROOT / "isoflop").glob("*.py")} | {"isoflop", "tests", "conf"}
    for path in files():
        layer = path.split("/")[0]
        names = {top(module) for module in modules(path)}
        upward = names & ({*PACKAGES} | outer) - PACKAGES[layer] - SHARED - {layer}
        # conf is data, which the runner and its plugin look up; the command line shows what the package shows.
        upward -= {"conf"} if layer in ("experiments", "hydra_plugins") else outer if layer == "commands" else set()
        found |= {f"{path} -> {name}" for name in upward | names & FORBIDDEN.get(layer, set())}
    return found


def rooms() -> set[str]:
    """Imports within a package that go up, or to a room at the same height."""
    found = set()
    for path, others in edges().items():
        for other in others:
            if room(path) == room(other) or path.split("/")[0] != other.split("/")[0]:
                continue
            own, theirs = rank(path), rank(other)
            wrong = None not in (own, theirs) and theirs >= own
            alike = own == theirs is not None and path.count("/") == other.count("/") == 1  # files at the top
            if wrong and not alike:
                found.add(f"{path} -> {other}")
    return found


def unranked() -> set[str]:
    """Rooms that the order does not name."""
    inside = {path for path in files() if path.split("/")[0] in ROOMS and not path.endswith("__init__.py")}
    return {room(path) for path in inside if rank(path) is None}


def circles() -> set[str]:
    """Groups of files each of which imports, through others, all of its group (Tarjan's algorithm)."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found = set()

    def visit(path: str) -> None:
        order[path] = lowest[path] = len(order)
        stack.append(path)
        for other in edges()[path]:
            if other not in order:
                visit(other)
            if other in stack:
                lowest[path] = min(lowest[path], lowest[other])
        if lowest[path] == order[path]:
            group = stack[stack.index(path) :]
            del stack[stack.index(path) :]
            if len(group) > 1:
                found.add(" - ".join(sorted(group)))

    for path in sorted(files()):
        if path not in order:
            visit(path)
    return found


def folders() -> set[str]:
    """Folders of too many modules."""
    count = Counter(str(Path(path).parent) for path in files() if not path.endswith("__init__.py"))
    return {folder for folder, number in count.items() if number > MOST_MODULES}


def public(path: str) -> dict[str, bool]:
    """Every public module, class, function and method of a file, and whether it has a docstring."""
    found = {path: ast.get_docstring(tree(path)) is not None} if tree(path).body else {}

    def visit(body: list[ast.stmt], before: str) -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name[0] != "_":
                found[f"{before}{node.name}"] = ast.get_docstring(node) is not None
                if isinstance(node, ast.ClassDef):
                    visit(node.body, f"{before}{node.name}.")

    visit(tree(path).body, f"{path}:")
    return found


def docstrings() -> set[str]:
    """Packages too few of whose public names are documented."""
    found = set()
    for package in PACKAGES:
        names = {k: v for path in files() if path.startswith(f"{package}/") for k, v in public(path).items()}
        if sum(names.values()) < DOCUMENTED * len(names):
            found.add(package)
    return found


def borrowed() -> set[str]:
    """Files of tests that import another one which is not in tests/support, or name it in code for another process."""
    found = set()
    for path in files_of_tests():
        names = {name for module in modules(path) if (name := module.partition("tests.")[2])}
        names |= {*re.findall(r"(?:from|import) tests\.([\w.]+)", (ROOT / path).read_text())}
        found |= {f"{path} -> tests.{name}" for name in names if name.partition(".")[0] != "support"}
    return found


def mirror() -> set[str]:
    """Test files in a folder that the tree lacks, or named after no module or folder there, nor after the folder."""
    found = set()
    for path in files_of_tests():
        inner = Path(path).relative_to("tests")
        if not inner.name.startswith("test_") or len(inner.parts) == 1 or str(inner) in NAMED_OTHERWISE:
            continue
        folder, name = ROOT / inner.parent, inner.stem.removeprefix("test_")
        if not folder.is_dir() or not (name == folder.name or any((folder / n).exists() for n in (name, f"{name}.py"))):
            found.add(path)
    return found


def ascii_only() -> set[str]:
    """Files of code with a letter beyond ASCII."""
    every = {*files(), *files_of_tests(), *(str(f.relative_to(ROOT)) for f in (ROOT / "isoflop").glob("*.py"))}
    return {path for path in every if not (ROOT / path).read_text().isascii()}


def fixed_losses() -> set[str]:
    """Losses written to four decimals, which leave nothing of 6e-5: `printable.loss_text` writes them."""
    found = set()
    for path in files():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FormattedValue) and ".4f" in ast.unparse(node.format_spec or ast.Pass()):
                name = re.sub(r"[\[\]'\"]", " ", ast.unparse(node.value)).split(".")[-1].strip()
                found |= {f"{path}:{node.lineno}"} if re.search(r"loss(_opt|_arm|_se)?$|^lost$|_byte$", name) else set()
    return found


@pytest.fixture(scope="module", autouse=True)
def no_search_for_garbage():
    """The trees are kept and hold no circle: Python would look through them again and again, longer than it parses."""
    gc.disable()
    yield
    gc.enable()


RULES = (packages, rooms, unranked, circles, folders, docstrings, borrowed, mirror, ascii_only, fixed_losses)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_nothing_offends(rule):
    assert rule() == set(), rule.__doc__


def test_there_is_something_to_check():
    assert {path.split("/")[0] for path in files()} == {*PACKAGES}
    assert all((ROOT / "tests" / path).is_file() for path in NAMED_OTHERWISE)


def test_the_rules_see_what_they_forbid(monkeypatch):
    """An import in a function, one for type checking, a module named in a string, a circle of three."""
    sources = {
        "scaling/laws/a.py": "def f():\n    from isoflop.scaling.fitting import b\n",
        "scaling/fitting/b.py": 'import importlib\nimportlib.import_module("isoflop.scaling.selection.c")\n',
        "scaling/selection/c.py": "if TYPE_CHECKING:\n    from isoflop.scaling.laws.a import f\n",
        "scaling/imports/d.py": "import isoflop.scaling.fitting.b\nimport torch\nimport isoflop.analysis\n",
    }
    module = sys.modules[__name__]
    edges.cache_clear()
    monkeypatch.setattr(module, "tree", lambda path: ast.parse(sources[path]))
    monkeypatch.setattr(module, "files", lambda: frozenset(sources))
    try:
        assert rooms() == {
            "scaling/laws/a.py -> scaling/fitting/b.py",
            "scaling/fitting/b.py -> scaling/selection/c.py",
            "scaling/imports/d.py -> scaling/fitting/b.py",
        }
        assert circles() == {"scaling/fitting/b.py - scaling/laws/a.py - scaling/selection/c.py"}
        assert packages() == {"scaling/imports/d.py -> torch", "scaling/imports/d.py -> analysis"}
        assert docstrings() == {"scaling"}
    finally:
        edges.cache_clear()


@pytest.mark.parametrize("path", ["models/config.py", *(f"isoflop/{name}.py" for name in sorted(SHARED))])
def test_a_module_that_needs_the_standard_library_alone(path):
    """The shape of a model, with which a study is planned, and what every package may import."""
    assert {top(module) for module in modules(path)} <= set(sys.stdlib_module_names)


def test_the_front_door_imports_nothing_heavy_until_a_command_runs():
    for path in [ROOT / "isoflop" / "__main__.py", *(ROOT / "commands").glob("*.py")]:
        first = [n for n in ast.parse(path.read_text()).body if isinstance(n, ast.Import | ast.ImportFrom)]
        names = {top(a.name) for n in first if isinstance(n, ast.Import) for a in n.names}
        names |= {top(n.module) for n in first if isinstance(n, ast.ImportFrom)}
        assert names <= set(sys.stdlib_module_names) | {"typer", "commands"} | SHARED, path


@pytest.mark.process
@pytest.mark.parametrize(
    "module",
    [
        "isoflop.scaling.findings.verdict",
        "isoflop.scaling.approaches.approaches",
        "isoflop.scaling.selection.holdout",
        "isoflop.scaling.prediction.registered.register",
        "isoflop.experiments.followup.next_study",
    ],
)
def test_fitting_loads_neither_torch_nor_hydra_nor_matplotlib(module):
    """Nor scipy.special's package with numpy.f2py, nor scipy.optimize: each a tenth of a command's start and more."""
    slow = {"torch", "hydra", "omegaconf", "matplotlib", "numpy.f2py", "scipy.special", "scipy.optimize", "scipy.stats"}
    code = f"import sys, {module}; print(sorted({slow} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.stdout.strip() == "[]", found.stderr
