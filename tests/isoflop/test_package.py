"""What is installed: one import package beside whatever the user's own folders are called, whole in sdist and wheel."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import isoflop
from tests.support.fits.mixed_studies import study as mixtures
from tests.support.root import RESULTS, ROOT
from tests.support.session import RUNNER, Ended, session

pytestmark = [pytest.mark.slow, pytest.mark.process, pytest.mark.long]
PARTS = ("analysis", "commands", "conf", "experiments", "models", "scaling")
QUICK = RESULTS / "quick.parquet"
# These are typed where the user's packages have our names, too. Of a report a table of few rows, no resamples: every
# module is loaded, few fits are made.
FITTING_HALF = (
    f"fit {QUICK} --bootstrap 20 --json",
    f"approaches {QUICK} --json",
    f"compare {QUICK} --laws chinchilla,power-n --json",
    f"predict {QUICK} --flops 3e12 --laws chinchilla --json",
    f"multiplier {RESULTS / 'transformer_vs_lstm.parquet'} --json",
    f"gate {RESULTS / 'transformer_vs_lstm.parquet'} --target 1e12 --json",
    "suggest plain.csv --budget 1e15 --target 1e17 --json",  # of a run table it names sizes of conf/, which Hydra reads
    f"plot {QUICK} --figure surface --law chinchilla -o out.png",
    "report plain.csv --law chinchilla --bootstrap 0 --json",
)
OTHER_HALF = ("run experiment=smoke", "plan experiment=smoke", "prepare", "tune", "generate abc")


def python(*arguments: object, cwd: Path, path: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run Python in `cwd` with the package at `path`."""
    environment = os.environ | {"PYTHONPATH": str(path)}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def write_shadows(folder: Path) -> None:
    """Make it a user's folder whose packages have our folders' names, and raise when they are imported; and plain.csv.

    The table has 12 runs of three sizes.
    """
    for part in (*PARTS, "tests"):
        (folder / part).mkdir()
        (folder / part / "__init__.py").write_text(f"raise RuntimeError('the user\\'s own {part}')\n")
    sizes, tokens = (1e4, 1e5, 1e6), (1e6, 5e6, 2e7, 1e8)
    rows = [f"{n},{d},{0.9 + 33 * n**-0.45 + 332 * d**-0.5 + 0.001 * (7 * i % 5)}"
            for i, (n, d) in enumerate((n, d) for n in sizes for d in tokens)]  # fmt: skip
    (folder / "plain.csv").write_text("\n".join(["n_params,tokens,loss", *rows]))


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
             if path.suffix != ".pyc" and "v1" not in path.parts}  # fmt: skip
    packed = {path.relative_to(installed / "isoflop" / part)
              for part in PARTS for path in (installed / "isoflop" / part).rglob("*.*")}  # fmt: skip
    assert names - packed == set()
    assert not (installed / "isoflop" / "experiments" / "results" / "v1").exists(), "frozen tables are for the checkout"


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
    study = ("experiment=smoke", "study.sizes=[d8]", "study.budgets=[1e9]", "where.workers=1")
    done = python("-m", "isoflop", "run", *study, cwd=tmp_path, path=installed)
    assert done.returncode == 0, done.stderr[-3000:]
    assert list(tmp_path.glob("runs/cells/*/run.parquet"))


@pytest.fixture(scope="module")
def without_the_runner(installed, tmp_path_factory) -> dict[str, Ended]:
    """How commands of the wheel end in such a folder, where torch, Hydra and what else the runner needs are absent."""
    commands = (*FITTING_HALF, *OTHER_HALF)
    folder = tmp_path_factory.mktemp("fitting")
    write_shadows(folder)
    ended = session([command.split() for command in commands], cwd=folder, path=installed, absent=RUNNER)
    return dict(zip(commands, ended, strict=True))


@pytest.mark.parametrize("command", FITTING_HALF, ids=lambda command: command.split()[0])
def test_the_fitting_half_needs_neither_torch_nor_hydra_nor_a_package_of_the_user(command, without_the_runner):
    ended = without_the_runner[command]
    assert ended.code == 0, ended.err[-3000:]
    assert "the user's own" not in ended.err
    if "--json" in command:
        assert json.loads(ended.out)


@pytest.mark.parametrize("command", OTHER_HALF)
def test_a_command_of_the_other_half_says_what_to_install(command, without_the_runner):
    ended = without_the_runner[command]
    assert ended.code == 2
    assert len(ended.err.strip().splitlines()) == 1
    assert "pip install" in ended.err


@pytest.mark.parametrize("part", PARTS)
def test_a_folder_of_the_checkout_cannot_be_imported_beside_the_package(part):
    done = python("-c", f"import {part}", cwd=ROOT)
    assert f"ImportError: import isoflop.{part}" in done.stderr


STUDY = ("experiment=smoke", "study.sizes=[d8,d12]", "study.budgets=[1e9]")  # trained by two workers
TRAINED = "RUN"  # stands for a run of it
# Command lines besides, and how each ends; `serve` of a run that is not there, since a server would not end.
COMMANDS = {
    f"run {' '.join(STUDY)}": 0,
    "accuracy scores.csv": 0,
    "batch steps.csv": 0,
    "mix mixed.csv": 0,
    f"suggest {QUICK} --budget 1e12 --target 1e13": 0,
    f"share {QUICK} --to bundle": 0,
    f"import {QUICK} --out table.parquet": 0,
    f"tune --table {RESULTS / 'lr_transfer.parquet'}": 0,
    "plan --calibrate experiment=smoke study.sizes=[d8]": 0,
    "status runs": 0,
    "retry runs --mark": 0,
    "clean runs": 0,
    "compact runs -o all.parquet": 0,
    "prepare data=synthetic data.synthetic.tokens=60000 data.synthetic.chains=100": 0,
    "positions runs": 0,
    f"generate {TRAINED} --max-tokens 4": 0,
    f"export {TRAINED} --out exported": 0,
    f"evaluate {TRAINED}": 0,
    "serve nowhere": 2,
}


@pytest.fixture(scope="module")
def shadowed(tmp_path_factory) -> Path:
    """Such a folder, with other tables."""
    folder = tmp_path_factory.mktemp("shadow")
    write_shadows(folder)
    scores = [f"{n},{d},{2 + n**-0.3 + d**-0.3},{0.2 + 0.1 * (i % 7)}" for i, (n, d) in enumerate(
        (10.0**i, 10.0**j) for i in range(3, 7) for j in range(4, 8)
    )]  # fmt: skip
    mixtures(2, 0, runs=24)[1].to_csv(folder / "mixed.csv", index=False)
    (folder / "scores.csv").write_text("\n".join(["n_params,tokens,loss,accuracy", *scores]))
    steps = [f"1e8,{batch},{1500 * (1 + 8e5 / batch):.0f}" for batch in (3e4, 1e5, 4e5, 2e6, 8e6)]
    (folder / "steps.csv").write_text("\n".join(["n_params,batch_tokens,steps_to_target", *steps]))
    return folder


@pytest.fixture(scope="module")
def ended_there(shadowed) -> dict[str, Ended]:
    """How each command ends in that folder."""
    run_id = isoflop.plan(overrides=STUDY, calibrate=False)["studies"][0]["cells"][0]["run_id"]
    ended = session([command.replace(TRAINED, run_id).split() for command in COMMANDS], cwd=shadowed)
    return dict(zip(COMMANDS, ended, strict=True))


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.split()[0])
def test_commands_work_in_a_folder_with_packages_of_our_names(command, ended_there):
    ended = ended_there[command]
    assert ended.code == COMMANDS[command], ended.err[-3000:]
    assert "the user's own" not in ended.err


def test_every_command_is_among_them():
    from isoflop.__main__ import app

    names = {command.name or command.callback.__name__ for part in app.registered_groups
             for command in part.typer_instance.registered_commands}  # fmt: skip
    assert names == {command.split()[0] for command in (*FITTING_HALF, *COMMANDS)}


def test_python_imports_the_package_there(shadowed):
    done = python("-c", "import isoflop; print(isoflop.fit('chinchilla', isoflop.example()).status)", cwd=shadowed)
    assert (done.returncode, done.stdout.strip()) == (0, "converged"), done.stderr
