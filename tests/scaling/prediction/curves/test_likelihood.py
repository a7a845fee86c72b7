"""The likelihood of deviations: against one covariance of all rows, differences, and another search."""

from itertools import pairwise

import numpy as np
import pytest
from scipy.linalg import block_diag
from scipy.optimize import minimize

from isoflop.scaling.prediction.curves.deviation import DEFAULT, Deviation, Places, Trunks
from isoflop.scaling.prediction.curves.likelihood import LEAST, WEAK, Likelihood

LENGTHS = (6, 9, 6, 4, 9, 7, 8, 5)
KNOTS = np.arange(1.0, 8.0)
NAMES = ("run", "length", "row", "end", "shared", "steep")
TRUTH = Deviation(run=0.02, length=1.5, row=0.004, end=0.001, shared=0.03, steep=0.7)


def study(seed: int, knots=KNOTS) -> Likelihood:
    """Trunks whose ln loss is a plane in two columns, the misfit at knots, and deviations drawn from TRUTH."""
    rng = np.random.default_rng(seed)
    at = np.concatenate([np.sort(rng.uniform(1, 7, n)) for n in LENGTHS])
    places = Places(at, rng.random(len(at)) < 0.25, rng.uniform(0, 1, len(at)))
    hats = np.stack([np.interp(at, KNOTS, one) for one in np.eye(len(KNOTS))], axis=1)[:, : len(knots)]
    columns = np.column_stack([np.ones(len(at)), at, hats])
    drawn = hats @ rng.multivariate_normal(np.zeros(len(KNOTS)), TRUTH.misfit(KNOTS))[: len(knots)]
    for rows, own in zip(rows_of(LENGTHS), own_places(places), strict=True):
        columns[rows, :2] += 0.01 * rng.normal(size=2)
        drawn[rows] += rng.multivariate_normal(np.zeros(len(rows)), TRUTH.covariance(own))
    columns = np.column_stack([columns, drawn + columns[:, :2] @ [0.1, -0.05]])

    def precision(deviation: Deviation) -> np.ndarray:
        return block_diag(np.diag([0.0, 4.0]), *([np.linalg.inv(deviation.misfit(knots))] if len(knots) else []))

    away = np.zeros(2 + len(knots))
    away[1:] = rng.normal(0, 0.02, 1 + len(knots))
    return Likelihood(Trunks(LENGTHS), places, columns, away, precision, len(knots))


def rows_of(lengths) -> list[np.ndarray]:
    return [np.arange(end - n, end) for n, end in zip(lengths, np.cumsum(lengths), strict=True)]


def own_places(places: Places) -> list[Places]:
    return [Places(places.at[rows], places.ends[rows], places.slope[rows]) for rows in rows_of(LENGTHS)]


def dense(likelihood: Likelihood, logs: np.ndarray) -> float:
    """The same with all rows in one normal distribution, theta's flat coordinate with a prior of sd 100 instead."""
    deviation = Deviation(**dict(zip(NAMES, np.exp(logs), strict=True)))
    design, left = likelihood.columns[:, :-1], likelihood.columns[:, -1]
    prior = np.zeros((design.shape[1], design.shape[1]))
    prior[0, 0], prior[1, 1] = 1e4, 1 / 4.0
    if likelihood.misfit:
        prior[2:, 2:] = deviation.misfit(KNOTS)
    covariance = whole(likelihood, logs) + design @ prior @ design.T
    residual, weak = left - design @ likelihood.away, ((logs - logs_of(DEFAULT)) ** 2).sum() / WEAK**2
    return float(residual @ np.linalg.solve(covariance, residual) + np.linalg.slogdet(covariance)[1] + weak)


def logs_of(deviation: Deviation) -> np.ndarray:
    return np.log([getattr(deviation, name) for name in NAMES])


@pytest.mark.parametrize("knots", [KNOTS, KNOTS[:0]], ids=["misfit", "no misfit"])
def test_it_is_the_likelihood_of_all_rows_at_once(knots):
    likelihood, rng = study(0, knots), np.random.default_rng(1)
    places = [logs_of(TRUTH) + rng.normal(0, 0.7, 6) for _ in range(4)]
    for one, other in pairwise(places):
        apart = likelihood.score(one)[0] - likelihood.score(other)[0]
        assert apart == pytest.approx(dense(likelihood, one) - dense(likelihood, other), abs=1e-3)


@pytest.mark.parametrize("knots", [KNOTS, KNOTS[:0]], ids=["misfit", "no misfit"])
@pytest.mark.parametrize("seed", range(4))
def test_its_derivatives_are_those_of_differences(seed, knots):
    likelihood = study(seed, knots)
    at = logs_of(TRUTH) + np.random.default_rng(seed).normal(0, 0.8, 6)
    ahead = np.array([likelihood.score(at + step)[0] for step in 1e-5 * np.eye(6)])
    behind = np.array([likelihood.score(at - step)[0] for step in 1e-5 * np.eye(6)])
    np.testing.assert_allclose(likelihood.score(at)[1], (ahead - behind) / 2e-5, rtol=2e-5, atol=2e-4)


@pytest.mark.parametrize("seed", range(6))
def test_it_is_climbed_from_anywhere_to_what_another_search_finds(seed):
    likelihood, rng = study(seed), np.random.default_rng(seed)
    theirs = minimize(lambda logs: likelihood.score(logs)[0], logs_of(TRUTH), method="Nelder-Mead",
                      options={"xatol": 1e-5, "fatol": 1e-8, "maxiter": 20_000, "maxfev": 20_000})  # fmt: skip
    far = [Deviation(*np.exp(logs_of(TRUTH) + rng.normal(0, 2.0, 6))) for _ in range(3)]
    at_ends = [Deviation(LEAST, 0.05, LEAST, LEAST, LEAST, LEAST), Deviation(run=100.0, length=100.0, shared=100.0)]
    for start in (DEFAULT, *far, *at_ends):
        found = logs_of(likelihood.likeliest(start))
        assert likelihood.score(found)[0] == pytest.approx(theirs.fun, abs=1e-4)
        np.testing.assert_allclose(found, theirs.x, atol=0.02)


def test_a_climb_begins_with_the_curvature_that_is_expected():
    likelihood, at = study(1), logs_of(TRUTH)
    own = [np.linalg.inv(whole(likelihood, at)), []]
    for step in 1e-5 * np.eye(6):
        own[1].append((whole(likelihood, at + step) - whole(likelihood, at - step)) / 2e-5)
    expected = np.array([[np.trace(own[0] @ one @ own[0] @ other) for one in own[1]] for other in own[1]])
    expected[4, 4] = 2 * len(KNOTS)
    np.testing.assert_allclose(likelihood.expected(at), expected + np.eye(6) * 2 / WEAK**2, rtol=1e-4, atol=1e-3)


def whole(likelihood: Likelihood, logs: np.ndarray) -> np.ndarray:
    """The covariance (n, n) of all rows, theta known."""
    deviation = Deviation(**dict(zip(NAMES, np.exp(logs), strict=True)))
    return block_diag(*(deviation.covariance(some) for some in own_places(likelihood.every)))


def test_a_deviation_that_nothing_shows_is_never_below_its_least():
    likelihood = study(3)
    likelihood.columns[:, -1] = 0.0  # no row deviates
    likelihood.away[:] = 0.0
    found = likelihood.likeliest(DEFAULT)
    for size in (found.run, found.row, found.end, found.shared):
        assert 0.999 * LEAST < size < 2 * LEAST
    bounds = [(np.log(LEAST), 5.0)] * 6
    bounds[1] = (np.log(0.05), np.log(100.0))
    theirs = minimize(likelihood.score, logs_of(found), jac=True, method="L-BFGS-B", bounds=bounds)
    assert likelihood.score(logs_of(found))[0] <= theirs.fun + 1e-4


def test_a_climb_that_begins_where_no_logarithm_may_move_stays_there(monkeypatch):
    likelihood, lowest = study(0), Deviation(LEAST, 0.05, LEAST, LEAST, LEAST, LEAST)
    monkeypatch.setattr(Likelihood, "score", lambda self, logs: (float(logs.sum()), np.ones(6)))
    assert logs_of(likelihood.likeliest(lowest)) == pytest.approx(logs_of(lowest))
