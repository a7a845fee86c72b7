"""What is installed: one import package beside whatever the user's own folders are called, whole in sdist and wheel."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.support.root import RESULTS, ROOT

pytestmark = [pytest.mark.slow, pytest.mark.process]
PARTS = ("analysis", "commands", "conf", "experiments", "models", "scaling")
QUICK = RESULTS / "quick.parquet"
NO_TORCH = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "hydra", "omegaconf", "joblib", "safetensors"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
from isoflop.__main__ import main
sys.argv = ["isoflop", *sys.argv[1:]]
main()
"""


def python(*arguments: object, cwd: Path, path: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run Python in `cwd` with the package at `path`."""
    environment = os.environ | {"PYTHONPATH": str(path)}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def distributions(tmp_path_factory) -> Path:
    """A folder with the sdist and the wheel of the checkout's files."""
    folder = tmp_path_factory.mktemp("package")
    tree, out = folder / "tree", folder / "dist"
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    for name in filter(lambda name: os.path.lexists(ROOT / name), listed.stdout.splitlines()):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, tree / name, follow_symlinks=False)
    out.mkdir()
    build = (
        "from setuptools import build_meta as b; import sys; out = sys.argv[1]; b.build_sdist(out); b.build_wheel(out)"
    )
    done = python("-W", "ignore", "-c", build, out, cwd=tree)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.fixture(scope="module")
def installed(distributions, tmp_path_factory) -> Path:
    """A folder with what the wheel puts into site-packages."""
    target = tmp_path_factory.mktemp("site")
    zipfile.ZipFile(next(distributions.glob("*.whl"))).extractall(target)
    return target


def test_the_wheel_holds_one_package_and_the_plugins(installed):
    info = next(installed.glob("*.dist-info"))
    assert (info / "top_level.txt").read_text().split() == ["hydra_plugins", "isoflop"]
    assert {path.name for path in installed.iterdir()} == {"hydra_plugins", "isoflop", info.name}
    assert (installed / "isoflop" / "py.typed").exists()
    names = {path.relative_to(ROOT / part) for part in PARTS for path in (ROOT / part).rglob("*.*")
             if path.suffix != ".pyc"}  # fmt: skip
    packed = {path.relative_to(installed / "isoflop" / part)
              for part in PARTS for path in (installed / "isoflop" / part).rglob("*.*")}  # fmt: skip
    assert names - packed == set()


def test_neither_archive_holds_a_link(distributions):
    with tarfile.open(next(distributions.glob("*.tar.gz"))) as archive:
        assert not [member.name for member in archive if member.issym() or member.islnk()]
    with zipfile.ZipFile(next(distributions.glob("*.whl"))) as archive:
        assert not [
            entry.filename for entry in archive.infolist() if (entry.external_attr >> 16) & 0o170000 == 0o120000
        ]


def test_a_wheel_made_from_the_sdist_is_the_same(distributions, installed, tmp_path):
    with tarfile.open(next(distributions.glob("*.tar.gz"))) as archive:
        archive.extractall(tmp_path, filter="data")
    tree = next(tmp_path.iterdir())
    (tmp_path / "again").mkdir()
    build = "from setuptools import build_meta as b; import sys; b.build_wheel(sys.argv[1])"
    done = python("-W", "ignore", "-c", build, tmp_path / "again", cwd=tree)
    assert done.returncode == 0, done.stderr[-3000:]
    with zipfile.ZipFile(next((tmp_path / "again").glob("*.whl"))) as archive:
        again = {name for name in archive.namelist() if not name.endswith("/")}
    assert again == {str(path.relative_to(installed)) for path in installed.rglob("*") if path.is_file()}


def test_the_wheel_runs_a_study_from_any_folder(installed, tmp_path):
    where = python("-c", "import isoflop; print(isoflop.__file__)", cwd=tmp_path, path=installed)
    assert Path(where.stdout.strip()).is_relative_to(installed)
    done = python("-m", "isoflop", "run", "experiment=smoke", "study.sizes=[d8]", cwd=tmp_path, path=installed)
    assert done.returncode == 0, done.stderr[-3000:]
    assert list(tmp_path.glob("runs/cells/*/run.parquet"))


@pytest.mark.parametrize(
    "command",
    ["fit", "approaches", "plot -o isoflop.png", "predict --flops 3e12", "report --bootstrap 20", "multiplier"],
)
def test_the_fitting_half_needs_neither_torch_nor_hydra(command, installed, tmp_path):
    name, *options = command.split()
    table = RESULTS / ("transformer_vs_lstm.parquet" if name == "multiplier" else "quick.parquet")
    done = python("-c", NO_TORCH, name, table, *options, cwd=tmp_path, path=installed)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize(
    "command", ["run experiment=smoke", "plan experiment=smoke", "prepare", "tune", "generate abc"]
)
def test_a_command_of_the_other_half_says_what_to_install(command, installed, tmp_path):
    done = python("-c", NO_TORCH, *command.split(), cwd=tmp_path, path=installed)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "pip install" in done.stderr


@pytest.mark.parametrize("part", PARTS)
def test_a_folder_of_the_checkout_cannot_be_imported_beside_the_package(part):
    done = python("-c", f"import {part}", cwd=ROOT)
    assert f"ImportError: import isoflop.{part}" in done.stderr


@pytest.fixture(scope="module")
def shadowed(tmp_path_factory) -> Path:
    """A user's folder whose packages have our folders' names, and raise when they are imported."""
    folder = tmp_path_factory.mktemp("shadow")
    for part in (*PARTS, "tests"):
        (folder / part).mkdir()
        (folder / part / "__init__.py").write_text(f"raise RuntimeError('the user\\'s own {part}')\n")
    done = python("-m", "isoflop", "run", "experiment=smoke", "study.sizes=[d8,d12]", "study.budgets=[1e9]", cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


COMMANDS = [
    f"fit {QUICK}",
    f"approaches {QUICK}",
    f"compare {QUICK} --laws chinchilla",
    f"multiplier {RESULTS / 'transformer_vs_lstm.parquet'}",
    f"predict {QUICK} --flops 3e12",
    f"suggest {QUICK} --budget 1e12 --target 1e13",
    f"report {QUICK} --bootstrap 20",
    f"plot {QUICK} -o isoflop.png",
    f"import {QUICK} --out table.parquet",
    f"tune --table {RESULTS / 'lr_transfer.parquet'}",
    "plan --calibrate experiment=smoke study.sizes=[d8]",
    "status runs",
    "retry runs --mark",
    "clean runs",
    "compact runs -o all.parquet",
    "prepare data=synthetic",
    "positions runs",
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.split()[0])
def test_commands_work_in_a_folder_with_packages_of_our_names(command, shadowed):
    done = python("-m", "isoflop", *command.split(), cwd=shadowed)
    assert done.returncode == 0, done.stderr[-3000:]


def test_commands_on_a_model_work_there_too(shadowed):
    run_id = next(path.parent.name for path in (shadowed / "runs").glob("cells/*/run.parquet"))
    for command in (f"generate {run_id} --max-tokens 4", f"export {run_id} --out exported"):
        done = python("-m", "isoflop", *command.split(), cwd=shadowed)
        assert done.returncode == 0, done.stderr[-3000:]


def test_python_imports_the_package_there(shadowed):
    done = python("-c", "import isoflop; print(isoflop.fit('chinchilla', isoflop.example()).status)", cwd=shadowed)
    assert (done.returncode, done.stdout.strip()) == (0, "converged"), done.stderr
