"""The next pair: where variance falls most per FLOP, and how many decide."""

import numpy as np
import pytest

from isoflop.scaling.gate.discrepancy import Discrepancy
from isoflop.scaling.gate.estimate import Observations, estimate
from isoflop.scaling.gate.next_pair import Planner

CELLS = np.array([1e12, 1e13, 1e14])


def observed(x, gain, slope=0.1):
    x = np.asarray(x, float)
    return Observations(np.asarray(gain, float), np.full(len(x), slope), x, np.arange(len(x)))


def planner(target, learnt=None):
    return Planner(CELLS, np.full(3, 0.1), target, learnt)


def removed(pairs, x, sigma, C):
    """Variance removed per FLOP by one pair at x, by the formula written out."""

    def variance(xs):
        design = 0.1 * np.column_stack([np.ones(len(xs)), xs])
        return np.linalg.inv(design.T @ design / sigma**2 + np.diag([1e-6, 1 / 0.3**2]))[0, 0]

    return (variance(pairs.x) - variance(np.append(pairs.x, x))) / C  # fmt: skip


@pytest.mark.parametrize("target", [1e14, 1e15])
def test_the_pair_removes_the_most_variance_per_flop(target):
    x = np.log(np.array([1e12, 1e12, 1e13]) / target)
    pairs = observed(x, [0.01, 0.02, 0.015])
    found = estimate(pairs)
    best = max(range(3), key=lambda k: removed(pairs, np.log(CELLS[k] / target), found.sigma, CELLS[k]))
    assert planner(target).first(pairs, found) == best


def test_another_compute_where_one_alone_shows_no_drift():
    learnt = Discrepancy(1.0, 2.0, 30.0, 4.6, 40)
    pairs = observed(np.full(400, np.log(1e12 / 1e14)), 0.02 + 0.01 * np.tile([1.0, -1.0], 200))
    assert planner(1e14, learnt).first(pairs, estimate(pairs, learnt)) > 0


def test_how_many_pairs_decide():
    rng = np.random.default_rng(0)
    pairs = observed(np.zeros(8), 0.0095 + rng.normal(0, 0.019, 8))
    found = estimate(pairs)
    one = Planner(np.array([1e14]), np.array([0.1]), 1e14, None)
    more, flops = one.until_decided(pairs, found, 0.05, 1.03)
    assert more is not None
    assert flops == pytest.approx(more * 2e14)
    sure = observed(np.zeros(8), 0.05 + rng.normal(0, 0.001, 8))
    assert one.until_decided(sure, estimate(sure), 0.05, 1.03)[0] == 1
    assert one.until_decided(observed([], []), estimate(observed([], [])), 0.05, 1.03) == (None, None)


def test_a_drift_that_stays_unknown_is_no_obstacle_where_larger_pairs_show_it():
    learnt = Discrepancy(1.0, 5.0, 30.0, 4.6, 40)
    pairs = observed([np.log(1e12 / 1e14)] * 4, [0.02, 0.021, 0.019, 0.022])
    more, flops = planner(1e14, learnt).until_decided(pairs, estimate(pairs, learnt), 0.05, 1.03)
    assert more is not None
    assert flops is not None
    assert flops >= 2e12 * more
