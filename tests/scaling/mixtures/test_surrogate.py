"""Laws of several terms averaged: weights by what is left out, draws of each, one law where the runs are few."""

import numpy as np
import pytest

from isoflop.scaling.mixtures.member import MANY, MOST_TERMS, members
from isoflop.scaling.mixtures.surrogate import Surrogate, surrogate, weighed
from tests.support.fits.mixed_studies import study

DOMAINS = ("code", "prose")
ENOUGH = MANY * (1 + 3 * MOST_TERMS)
LINE = np.stack([np.linspace(0.05, 0.95, 19), np.linspace(0.95, 0.05, 19)])


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
    """A law, its runs on just enough mixtures, and the surrogate of them."""
    law, table = study(2, 0, runs=ENOUGH)
    return law, table, surrogate(table, DOMAINS)


@pytest.fixture(scope="module")
def averaged(many):
    """Laws of one and of two terms, one quarter and three."""
    made = members(many[1], DOMAINS)
    assert [len(one.law.terms) for one in made] == [1, 2]  # a term a domain at most
    return Surrogate(tuple(made), (0.25, 0.75), many[2].left_out, many[2].noise)


def test_mixtures_left_out_are_told_to_the_noise_of_a_run(many):
    law, table, found = many
    assert sum(found.weights) == pytest.approx(1)
    assert np.log(found.loss(LINE) / law(LINE)) == pytest.approx(0, abs=0.01)
    assert found.noise == pytest.approx(0.01, rel=0.4)
    assert 0.007 < np.log(found.left_out / table["loss"]).std() < 0.013


def test_the_average_is_the_geometric_mean(averaged):
    one, two = (np.log(law.loss(LINE)) for law in averaged.members)
    assert np.log(averaged.loss(LINE)) == pytest.approx(one / 4 + two * 3 / 4)
    assert np.abs(one - two).max() > 1e-3
    assert averaged.written().startswith("0.25 of L = E + ")
    assert "; 0.75 of L = E + " in averaged.written()


def test_draws_are_of_each_law_as_often_as_its_weight(averaged):
    terms = [len(one.law.terms) for one in averaged.drawn(40, np.random.default_rng(0))]
    assert (terms.count(1), terms.count(2)) == (10, 30)
    assert terms != sorted(terms)  # draws of several losses are paired, and not by their terms


@pytest.mark.slow
def test_few_mixtures_are_told_by_the_likeliest_law(many):
    repeated = many[1].iloc[[*range(ENOUGH - 1), 0]]
    assert len(members(repeated, DOMAINS)) == 1
