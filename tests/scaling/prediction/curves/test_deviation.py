"""Trunks of one length are worked on together: what each has is what it has alone."""

import numpy as np

from isoflop.scaling.prediction.curves.deviation import Deviation, Places, Trunks, in_order


def test_products_of_trunks_are_those_of_each_alone():
    lengths, rng = [3, 5, 3, 1, 5], np.random.default_rng(0)
    n = sum(lengths)
    every = Places(np.sort(rng.uniform(1, 9, n)), rng.random(n) < 0.3, rng.random(n))
    columns, deviation, trunks = rng.normal(size=(n, 5)), Deviation(), Trunks(lengths)
    factors = [np.linalg.cholesky(deviation.covariance(places)) for places in trunks.places(every)]
    gram, slope, square = trunks.products(factors, columns)
    for k, end in enumerate(np.cumsum(lengths)):
        own = slice(end - lengths[k], end)
        places = Places(every.at[own], every.ends[own], every.slope[own])
        white = np.linalg.solve(np.linalg.cholesky(deviation.covariance(places)), columns[own])
        alone = white.T @ white
        assert np.allclose(gram[k], alone[:-1, :-1])
        assert np.allclose(slope[k], alone[:-1, -1])
        assert np.isclose(square[k], alone[-1, -1])


def test_sums_are_taken_one_after_another():
    assert in_order(1.0, np.array([1e100, -1e100, 1.0])) == 1.0
