"""The version of the package, also of a copy that was not installed."""

import importlib.metadata

import isoflop
from isoflop.analysis.evidence import Evidence
from isoflop.analysis.paper.bibliography import _own
from isoflop.analysis.report import provenance
from isoflop.package_version import UNKNOWN, package_version
from isoflop.scaling.table.runs import code_version


def test_the_version_is_that_of_what_is_installed():
    assert package_version("numpy") == importlib.metadata.version("numpy")
    assert package_version("no-such-package") == UNKNOWN


def test_every_place_that_names_the_version_does_without_one(monkeypatch):
    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    code_version.cache_clear()
    try:
        assert code_version().startswith(UNKNOWN)
    finally:
        code_version.cache_clear()
    assert isoflop.__version__ == UNKNOWN
    assert f"isoflop {UNKNOWN}, numpy {UNKNOWN}" in provenance(Evidence(isoflop.example("quick")), "")
    assert f"version {UNKNOWN}" in _own()


def test_no_other_place_asks_for_it(pytestconfig):
    asking = {
        path.relative_to(pytestconfig.rootpath).as_posix()
        for room in ("isoflop", "scaling", "analysis", "experiments", "models", "commands")
        for path in (pytestconfig.rootpath / room).rglob("*.py")
        if "version('isoflop')" in (text := path.read_text()) or 'version("isoflop")' in text
    }
    assert asking == set()
