"""Calls in a process of their own: the value, the error as it was raised, and a process that dies."""

import gc
import sys

import pytest

from isoflop.analysis.background import BackgroundCall
from isoflop.analysis.evidence import BEGUN, WORTH_A_PROCESS, Evidence
from isoflop.scaling.design.simulate import simulate_points
from isoflop.scaling.laws.chinchilla import Chinchilla
from isoflop.scaling.selection.scoreboard import CompareError

pytestmark = pytest.mark.process


def test_the_value_of_a_call():
    call = BackgroundCall("operator", "add", [1, "x" * 100_000], [2.5])  # more than a pipe holds
    assert call.value == [1, "x" * 100_000, 2.5]
    assert call.value is call.value


def test_an_error_is_raised_as_it_was():
    with pytest.raises(CompareError, match="no law can be compared"):
        raise BackgroundCall("isoflop.scaling.selection.scoreboard", "CompareError", "no law can be compared").value
    with pytest.raises(ZeroDivisionError):
        _ = BackgroundCall("operator", "truediv", 1, 0).value
    with pytest.raises(ModuleNotFoundError):
        _ = BackgroundCall("not_here", "f").value


def test_a_process_that_dies_is_an_error():
    with pytest.raises(RuntimeError, match="ended with 3"):
        _ = BackgroundCall("os", "_exit", 3).value


@pytest.mark.slow
def test_the_scoreboard_is_the_same_in_the_background():
    law, sizes, tokens = Chinchilla(1.7, 400.0, 1200.0, 0.34, 0.37), [], []
    for size in (1e6, 2e6, 4e6, 8e6, 16e6, 32e6):
        for k in range(WORTH_A_PROCESS // 6 + 1):
            sizes.append(size)
            tokens.append(1e7 * 1.2**k)
    table = simulate_points(law, sizes, tokens, noise=0.01, seed=1)
    here, elsewhere = Evidence(table), Evidence(table)
    elsewhere.begin()
    assert BEGUN in elsewhere.done
    assert BEGUN not in here.done
    assert elsewhere.scoreboard.frame.equals(here.scoreboard.frame)


def test_an_answer_that_nobody_waits_for_is_given_up():
    call = BackgroundCall("time", "sleep", 60.0)
    process = call._process
    del call
    assert process.returncode is not None


def test_a_process_that_cannot_be_started_leaves_nothing_to_end(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(FileNotFoundError):
        BackgroundCall("operator", "add", 1, 2)
    gc.collect()  # an error of __del__ is a warning, which the tests make an error
