"""Laws of several terms averaged: weights by what is left out, draws of each, one law where the runs are few."""

import numpy as np
import pytest

from isoflop.scaling.mixtures.member import MANY, MOST_TERMS
from isoflop.scaling.mixtures.surrogate import PARTS, surrogate, weighed
from tests.support.fits.mixed_studies import study

SEED = 4  # whose runs two laws tell better than one


def test_weights_are_those_whose_mean_errs_least():
    true = np.random.default_rng(0).normal(size=200)
    errs = np.random.default_rng(1).normal(size=(3, 200))
    assert weighed(true + errs * [[1.0], [0.0], [2.0]], true) == pytest.approx([0, 1, 0])
    opposite = np.stack([true + errs[0], true - errs[0] / 3, true + 2 + errs[2]])
    assert weighed(opposite, true) == pytest.approx([0.25, 0.75, 0])
    assert weighed(opposite[:1], true) == pytest.approx([1])
    assert weighed(np.stack([true, true]), true) == pytest.approx([1, 0])


@pytest.fixture(scope="module")
def many():
    domains = ("code", "prose")
    runs = MANY * (1 + 3 * MOST_TERMS)
    law, table = study(2, SEED, runs=runs)
    return law, table, surrogate(table, domains)


def test_many_runs_are_told_by_an_average_of_laws(many):
    law, table, found = many
    assert len(found.members) > 1
    assert sum(found.weights) == pytest.approx(1)
    assert np.array(found.weights) * PARTS == pytest.approx(np.rint(np.array(found.weights) * PARTS))
    h = np.stack([np.linspace(0.05, 0.95, 19), np.linspace(0.95, 0.05, 19)])
    each = [np.log(one.loss(h)) for one in found.members]
    assert np.log(found.loss(h)) == pytest.approx(np.average(each, axis=0, weights=found.weights))
    assert np.log(found.loss(h) / law(h)) == pytest.approx(0, abs=0.01)
    assert found.noise == pytest.approx(0.01, rel=0.4)
    error = np.log(found.left_out / table["loss"])
    assert 0.007 < error.std() < 0.013  # the noise of a run: they were predicted without it
    assert found.written().count(" of L = E + ") == len(found.members)


def test_draws_are_of_each_law_as_often_as_its_weight(many):
    found = many[2]
    drawn = found.drawn(40, np.random.default_rng(0))
    terms = [len(one.law.terms) for one in drawn]
    for weight, one in zip(found.weights, found.members, strict=True):
        assert terms.count(len(one.law.terms)) == pytest.approx(40 * weight, abs=1)
    assert terms != sorted(terms)  # draws of several losses are paired: not by their terms


def test_few_runs_are_told_by_the_likeliest_law():
    _, table = study(2, 0, runs=MANY * (1 + 3 * MOST_TERMS) - 1)
    found = surrogate(table, ("code", "prose"))
    assert found.weights == (1.0,)
    assert found.written().startswith("L = E + ")
