"""Shared fixtures. Threads are pinned before numpy or torch is imported, so that no result depends on the machine."""

import atexit
import gc
import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
if not os.path.exists("/dev/nvidiactl"):  # without a GPU kernels in Triton run in its interpreter
    os.environ.setdefault("TRITON_INTERPRET", "1")
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # every process that a test starts would compile the package anew

from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, settings

from tests.support.root import ROOT
from tests.support.skips import pytest_make_collect_report, pytest_runtest_makereport  # noqa: F401 (hooks)
from tests.support.texts import write_texts

MOST_WORKERS = 8  # of a parallel run: each loads torch

# No example fails because the machine is slow.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config):
    """A worker for each core that this process may use: one more costs more imports than it fills of the waiting."""
    from isoflop.experiments.cost.cost import cores

    return min(cores(), MOST_WORKERS)


def pytest_collection_modifyitems(items):
    """Files with a test marked `long` first, each whole: else one would end alone, or two workers begin one file."""
    long = {item.path for item in items if item.get_closest_marker("long")}
    items.sort(key=lambda item: item.path not in long)


def pytest_sessionstart():
    """Search for no garbage while the libraries and the tests are loaded; wait for no disk, whose power stays on."""
    gc.disable()
    os.fsync = lambda file: None


def pytest_collection_finish():
    """Leave what was loaded out of every later search for garbage: it stays to the end."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000)  # objects made between two searches, not 700: they were an eighth of the suite
    gc.enable()


def pytest_sessionfinish():
    """An orderly end, since libraries complain of what is left; pytest's own last searches need not look there."""
    atexit.register(gc.unfreeze)


@pytest.fixture(scope="session")
def public_data() -> Path:
    """The folder of published data sets; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("ISOFLOP_PUBLIC_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"needs public data, which are not at {folder}: set ISOFLOP_PUBLIC_DATA")
    return folder


@pytest.fixture(scope="session")
def study_law():
    """The law behind `study_table`."""
    from isoflop.scaling.laws.chinchilla import Chinchilla

    return Chinchilla(E=0.9, A=33.0, B=332.0, alpha=0.45, beta=0.5)


@pytest.fixture(scope="session")
def study_table(study_law) -> pd.DataFrame:
    """A simulated study: nine sizes, four budgets, 0.5% noise of the loss, curve rows and final rows."""
    from isoflop.scaling.design.simulate import simulate_study

    return simulate_study(study_law, noise=0.005, seed=0)


@pytest.fixture(scope="session", autouse=True)
def shared_compositions():
    """Hydra reads the package's files once a session, where tests that compose are collected."""
    if "isoflop.experiments.compose.compose" not in sys.modules:
        yield
        return
    from tests.support.compositions import shared_compositions

    with shared_compositions():
        yield


@pytest.fixture(scope="session")
def found_searches():
    """What tests of this session searched for and found."""
    return {}


@pytest.fixture(scope="module")
def kept_searches(found_searches):
    """What one test searched for is there for the others, to the bit: for files that are not of searches."""
    from isoflop.scaling.fitting.search.kept_searches import keep_searches

    with keep_searches(found_searches):
        yield


@pytest.fixture
def typed(monkeypatch, capsys):
    """A function that runs a command line in this process; it returns exit code, output and error lines."""
    from isoflop.__main__ import main

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["isoflop", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return ended.value.code or 0, printed.out, printed.err

    return run


@pytest.fixture(scope="session")
def commands(tmp_path_factory):
    """Starts commands as processes forked from one that has imported the libraries."""
    from tests.support.forked import forked_commands

    with forked_commands(tmp_path_factory.mktemp("forked")) as commands:
        yield commands


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """The working directory; its neighbour `text` is a folder of small files."""
    write_texts(tmp_path / "text")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    """A folder of the same files."""
    return write_texts(tmp_path_factory.mktemp("corpus") / "text")
