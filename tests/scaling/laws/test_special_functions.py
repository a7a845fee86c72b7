"""Special functions are SciPy's own, whether its package was loaded before them, after them, or has no such module."""

import subprocess
import sys

import pytest
import scipy.special

from isoflop.scaling.laws import special_functions

AFTER = "import isoflop.scaling.laws.special_functions as ours, scipy.special, scipy.stats"
BEFORE = "import scipy.special, isoflop.scaling.laws.special_functions as ours"
SAME = (
    "assert all(getattr(ours, n) is getattr(scipy.special, n) for n in ours.__all__); print(scipy.stats.t.ppf(0.9, 3))"
)


@pytest.mark.process
@pytest.mark.parametrize("order", [AFTER, f"{BEFORE}, scipy.stats"])
def test_they_are_scipys(order):
    found = subprocess.run([sys.executable, "-c", f"{order}; {SAME}"], capture_output=True, text=True, check=False)
    assert float(found.stdout) == pytest.approx(1.6377443537), found.stderr


def test_a_scipy_without_that_module_is_loaded_whole(monkeypatch):
    monkeypatch.delitem(sys.modules, "scipy.special")
    monkeypatch.setattr(special_functions, "import_module", _without("scipy.special._ufuncs"))
    assert special_functions.compiled() is scipy.special


def _without(absent):
    def load(name):
        if name == absent:
            raise ImportError(name)
        return scipy.special

    return load
