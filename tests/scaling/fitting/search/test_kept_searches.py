"""A search is made once inside `keep_searches`, whatever it is asked for, and its answer is that of `search`."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from isoflop.scaling.fitting.fit import FitError, Huber, fit, search_for_fits
from isoflop.scaling.fitting.search import kept_searches
from isoflop.scaling.fitting.search.kept_searches import keep_searches
from isoflop.scaling.fitting.uncertainty import jackknife, jackknife_together
from isoflop.scaling.selection import comparison
from isoflop.scaling.table.conventions import points
from tests.support.fits.hard_fits import SURFACE, isoflop


@pytest.fixture
def data():
    frame = isoflop(24)
    noise = np.exp(np.random.default_rng(0).normal(0, 0.01, len(frame)))
    frame = frame.assign(loss=SURFACE(frame["n_params"], frame["tokens"]) * noise)
    return points(frame[["n_params", "tokens", "loss"]])


@pytest.fixture
def searched(monkeypatch):
    """What `search` was asked."""
    requested, search = [], kept_searches.search
    monkeypatch.setattr(
        kept_searches, "search", lambda *given, **named: requested.append(given) or search(*given, **named)
    )
    return requested


def test_the_same_numbers_are_searched_once_and_give_the_same_bits(data, searched):
    alone = fit("chinchilla", data, falls=0.0)
    assert len(searched) == 1
    with keep_searches():
        first, again = fit("chinchilla", data, falls=0.0), fit("chinchilla", replace(data, compute="6nd"), falls=0.0)
        assert len(searched) == 2
    assert again.points.compute == "6nd"
    for fitted in (first, again):
        np.testing.assert_array_equal(fitted.theta, alone.theta)
        assert fitted.value == alone.value
    fit("chinchilla", data, falls=0.0)
    assert len(searched) == 3  # nothing is kept after the block


def test_what_is_given_to_keep_them_in_outlives_the_block(data, searched):
    kept = {}
    for _ in range(2):
        with keep_searches(kept):
            fit("chinchilla", data, falls=0.0)
    assert len(searched) == len(kept) == 1


def test_a_comparison_asks_nothing_twice(data, searched, monkeypatch):
    for part in ("compare", "likelihood_ratio_tests", "chinchilla_sensitivity"):
        monkeypatch.setattr(comparison, part, lambda *_, **__: [fit("chinchilla", data, falls=0.0)])
    found = comparison.comparison(data.frame[["n_params", "tokens", "loss"]])
    assert len(found.tests) == 1
    assert len(searched) == 1


def test_fits_searched_for_together_and_refitted_together_are_to_the_bit_those_of_each_alone(data, searched):
    tables = [data, replace(data, frame=data.frame.iloc[:15]), replace(data, frame=data.frame.iloc[:3])]  # 3 are few
    alone = [fit("chinchilla", some, falls=0.0) for some in tables[:2]]
    with keep_searches():
        search_for_fits((("chinchilla", table) for table in tables), Huber("auto"))
        together = [fit("chinchilla", some, falls=0.0) for some in tables[:2]]
        with pytest.raises(FitError, match="3 data points cannot"):
            fit("chinchilla", tables[2])
    assert len(searched) == len(alone)
    jackknife_together(together)
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one.theta, other.theta)
        pd.testing.assert_frame_equal(one.starts, other.starts)
        pd.testing.assert_frame_equal(jackknife(one).frame, other.__dict__["_jackknife"].frame)


@pytest.mark.parametrize(
    "laws",
    [
        pytest.param(("bnsl", "bnsl-n", "bnsl-d"), marks=pytest.mark.slow),
        ("power", "power-n", "power-d", "kaplan"),
    ],
)
def test_laws_of_one_box_searched_for_together_are_to_the_bit_those_of_each_alone(data, searched, laws):
    alone = [fit(law, data, falls=0.0) for law in laws]
    assert len(searched) == len(laws)
    with keep_searches():
        search_for_fits(((law, data) for law in laws), Huber("auto"))
        together = [fit(law, data, falls=0.0) for law in laws]
    assert len(searched) == len(laws) + ("kaplan" in laws)  # of a box of its own
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one.theta, other.theta)
        pd.testing.assert_frame_equal(one.starts, other.starts)


def changed(frame, column):
    return frame.assign(**{column: frame[column].to_numpy() * np.r_[1 + 1e-12, np.ones(len(frame) - 1)]})


OTHERS = {
    "a loss": lambda data: fit("chinchilla", replace(data, frame=changed(data.frame, "loss")), falls=0.0),
    "a size": lambda data: fit("chinchilla", replace(data, frame=changed(data.frame, "n_params")), falls=0.0),
    "a row": lambda data: fit("chinchilla", replace(data, frame=data.frame.iloc[1:]), falls=0.0),
    "the law": lambda data: fit("kaplan", data, falls=0.0),
    "what is free": lambda data: fit("chinchilla-kappa", data, falls=0.0),
    "what is fixed": lambda data: fit("chinchilla", data, fixed={"E": 1.5}, falls=0.0),
    "the objective": lambda data: fit("chinchilla", data, objective=Huber(1e-3), falls=0.0),
    "the residual": lambda data: fit("chinchilla", data, objective=Huber("auto", "raw"), falls=0.0),
    "the seed": lambda data: fit("chinchilla", data, seed=1, falls=0.0),
    "the starts": lambda data: fit("chinchilla", data, n_starts=9, falls=0.0),
    "the noise": lambda data: fit("chinchilla", data, falls=0.1),
    "the weights": lambda data: fit("chinchilla", data, weights=np.arange(1.0, 1 + len(data)), falls=0.0),
    "one exponent": lambda data: fit("chinchilla", data, tied=True, falls=0.0),
}


@pytest.mark.parametrize("what", OTHERS)
def test_whatever_differs_is_another_search(what, data, searched):
    with keep_searches():
        fit("chinchilla", data, falls=0.0)
        OTHERS[what](data)
    assert len(searched) == 2
