"""What a notebook takes from `isoflop.scaling` is there by name, and loaded only when it is used."""

import doctest
import subprocess
import sys

import pytest

import isoflop
from isoflop import scaling
from tests.support.root import ROOT


def test_every_name_loads_and_no_other():
    assert sorted(scaling._PLACES) == sorted(scaling.__all__)
    assert all(callable(getattr(scaling, name)) for name in scaling.__all__)
    assert set(scaling.__all__) <= set(dir(scaling))
    with pytest.raises(AttributeError, match="no attribute 'fitt'; there are"):
        scaling.fitt  # noqa: B018


def test_there_is_one_reader_of_tables():
    assert scaling.read_table is isoflop.read_table


def test_the_package_by_itself_loads_nothing_heavy():
    code = "import sys, isoflop.scaling; print(sorted({'numpy', 'pandas', 'scipy', 'torch'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert found.stdout.strip() == "[]", found.stderr


def test_the_example_holds():
    assert doctest.testmod(scaling).failed == 0
