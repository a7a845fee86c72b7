"""The cost of training: what it tends to, its optima, and what it does where FLOPs per parameter go elsewhere."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoflop.scaling.laws.chinchilla import Chinchilla
from isoflop.scaling.laws.cost import SIX_ND, Cost, fitted_cost

LAW = Chinchilla(E=1.8, A=480.0, B=2100.0, alpha=0.35, beta=0.37)
SIZES = np.geomspace(4e3, 2e5, 8)


@pytest.mark.slow
@given(
    share=st.floats(0.05, 3), power=st.floats(0.2, 0.6), first=st.floats(3, 7), count=st.integers(2, 9),
    decades=st.floats(0.3, 3),
)  # fmt: skip
def test_rates_that_fall_towards_six_tend_to_it_from_above(share, power, first, count, decades):
    sizes = 10**first * np.geomspace(1, 10**decades, count)
    rate = 6 * (1 + share * (sizes / sizes[0]) ** -power)
    cost = fitted_cost(sizes, rate)
    everywhere = cost.rate(np.geomspace(1e3, 1e13, 60))
    assert (everywhere > 6).all()
    assert cost.rate(1e25) == pytest.approx(6, rel=1e-2)
    if power == pytest.approx(1 / 3, abs=0.05):
        assert cost.rate(sizes) == pytest.approx(rate, rel=0.05)


def test_attention_of_a_constant_width_per_layer_is_exact():
    rate = 6 * (1 + 1 / (0.3 * SIZES ** (1 / 3) + 2))
    cost = fitted_cost(SIZES, rate)
    far = np.geomspace(1e2, 1e12, 20)
    assert cost.rate(far) == pytest.approx(6 * (1 + 1 / (0.3 * far ** (1 / 3) + 2)), rel=1e-9)
    assert (cost.k * SIZES**cost.slope) == pytest.approx(rate, rel=0.02)


def test_counts_with_an_embedding_tend_to_six_from_below():
    cost = fitted_cost(SIZES, 6 / (1 + 8 / SIZES ** (1 / 3)))
    assert cost.rate(SIZES[0]) == pytest.approx(6 / (1 + 8 / SIZES[0] ** (1 / 3)), rel=1e-9)
    assert cost.rate(1e15) == pytest.approx(6, rel=1e-2)
    assert (cost.rate(np.geomspace(1e3, 1e15, 50)) < 6).all()


@pytest.mark.parametrize("rate", [1.2 * SIZES**0.05, 7.0 * SIZES**0.02, 1e-15 * SIZES**0.03, 2.5 * SIZES**-0.01])
def test_rates_that_go_elsewhere_are_constant_beyond_the_table(rate):
    cost = fitted_cost(SIZES, rate)
    assert cost.rate(SIZES) == pytest.approx(rate, rel=1e-9)
    assert cost.rate(1e12) == pytest.approx(rate[-1], rel=1e-9)
    assert cost.rate(1.0) == pytest.approx(rate[0], rel=1e-9)
    assert cost.growth(1e12) == 1


def test_a_constant_rate_is_a_constant():
    assert fitted_cost(SIZES, np.full(8, 6.0)) == Cost(pytest.approx(6.0))
    assert fitted_cost(SIZES[:1], np.array([7.1])) == Cost(pytest.approx(7.1))
    assert SIX_ND.is_power
    assert SIX_ND.rate(1e9) == 6


COSTS = {
    "power law": Cost(9.0, -0.04),
    "attention": fitted_cost(SIZES, 6 * (1 + 1 / (0.23 * SIZES ** (1 / 3)))),
    "embedding": fitted_cost(SIZES, 6 / (1 + 8 / SIZES ** (1 / 3))),
    "head left out": Cost(9.0, -0.1, 6.0, (1e-3, 0.04, 0.0, 0.0)),
    "vocabulary": Cost(9.0, -0.1, 6.0, (0.0, 0.2, 1.0, 80.0)),
    "elsewhere": fitted_cost(SIZES, 1.2 * SIZES**0.05),
}


@pytest.mark.parametrize("cost", COSTS.values(), ids=COSTS)
def test_tokens_and_sizes_are_what_the_flops_pay_for(cost):
    sizes = np.geomspace(1e3, 1e11, 9)
    flops = cost.flops(sizes, 3e9)
    assert cost.tokens(flops, sizes) == pytest.approx(np.full(9, 3e9), rel=1e-12)
    assert cost.size(flops, tokens=3e9) == pytest.approx(sizes, rel=1e-9)
    assert cost.size(cost.flops(sizes, 20 * sizes), ratio=20) == pytest.approx(sizes, rel=1e-9)


@pytest.mark.parametrize("cost", COSTS.values(), ids=COSTS)
def test_growth_is_the_derivative_of_the_compute(cost):
    sizes = np.geomspace(2.1e3, 1e11, 9)
    step = 1e-6
    numeric = np.log(cost.flops(sizes * (1 + step), 1.0) / cost.flops(sizes * (1 - step), 1.0)) / (2 * step)
    assert cost.growth(sizes) == pytest.approx(numeric, abs=1e-7)


@pytest.mark.parametrize("cost", COSTS.values(), ids=COSTS)
def test_the_optimum_is_where_the_loss_along_the_budget_is_least(cost):
    budgets = np.array([1e12, 1e15, 1e18])
    best = LAW.optimal(budgets, cost)
    searched = LAW.search(budgets, cost, LAW)
    assert best.loss == pytest.approx(searched.loss, rel=1e-9)
    if cost.within == (0.0, np.inf):  # else the optimum may lie at a bend
        assert pytest.approx(searched.N, rel=1e-6) == best.N
    assert cost.flops(best.N, best.D) == pytest.approx(budgets, rel=1e-9)


@pytest.mark.parametrize("cost", [Cost(10.0, -0.05, 6.0, (0.0, 0.2, 0.0, 0.0)), Cost(7.0, 0.02, within=(1e4, 1e9))])
def test_optima_of_laws_asked_together_are_those_of_each_alone_to_the_bit(cost):
    budgets = 10 ** np.arange(9, 24, 0.25)
    values = np.array(
        [[1.7, 400.0, 410.0, 0.34, 0.28, 1.0], [0.0, 9.0, 2e4, 0.9, 0.1, 0.6], [1.0, 80.0, 7.0, 0.2, 0.5, 1.0]]
    )
    together = Chinchilla(*values.T[..., None]).optimal(np.tile(budgets, (3, 1)), cost)
    for k, row in enumerate(values.tolist()):
        alone = Chinchilla(*row).optimal(budgets, cost)
        assert np.array_equal(together.N[k], alone.N)
        assert np.array_equal(together.loss[k], alone.loss)
