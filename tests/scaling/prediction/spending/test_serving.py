"""Allocation for people who serve: against brute force, and in the limits where the answer is known."""

import numpy as np
import pytest

from isoflop.scaling.laws.chinchilla import Chinchilla
from isoflop.scaling.laws.cost import Cost
from isoflop.scaling.prediction.spending.serving import ServingError, capped, off_optimum, repeated, serve
from tests.support.fits.simulated import BENT, BESIROGLU

C = 1e21


@pytest.mark.parametrize("law", [BESIROGLU, BENT])
@pytest.mark.parametrize("cost", [Cost(), Cost(k=9.0, slope=-0.04)])
@pytest.mark.parametrize("served", [1e10, 1e12, 1e14])
def test_serving_beats_every_other_size_of_the_same_loss(law, cost, served):
    made = serve(law, C, served, cost)
    goal = float(law.optimal(C, cost).loss)
    n = np.exp(np.linspace(np.log(made.n_params) - 1, np.log(made.n_params) + 1, 20001))
    rest = (goal - law.E) ** (1 / law.kappa) - law.A * n**-law.alpha
    with np.errstate(invalid="ignore"):
        d = np.where(rest > 0, (law.B / np.abs(rest)) ** (1 / law.beta), np.inf)
    total = cost.flops(n, d) + 2 * n * served
    assert made.total == pytest.approx(total.min(), rel=1e-6)
    assert made.n_params == pytest.approx(n[np.argmin(total)], rel=1e-3)
    assert float(law(made.n_params, made.tokens)) == pytest.approx(goal)


def test_sardanas_condition():
    made = serve(BESIROGLU, C, 1e13)
    law, n, d = BESIROGLU, made.n_params, made.tokens
    ratio = law.alpha * law.A * n**-law.alpha / (law.beta * law.B * d**-law.beta)
    assert ratio == pytest.approx(1 + 1e13 / (3 * d))
    assert made.saved > 0
    assert made.n_params < BESIROGLU.optimal(C).N


def test_serving_nothing_is_the_training_optimum():
    made = serve(BESIROGLU, C, 0.0)
    assert made.n_params == pytest.approx(float(BESIROGLU.optimal(C).N))
    assert made.saved == pytest.approx(0, abs=1e-9)
    with pytest.raises(ServingError, match="negative"):
        serve(BESIROGLU, C, -1.0)


def test_cost_of_missing_the_optimum():
    assert off_optimum(BESIROGLU, C, 1.0) == pytest.approx((0.0, 1.0), abs=1e-9)
    extra, waste = off_optimum(BESIROGLU, C, 2.0)
    best = BESIROGLU.optimal(C)
    q = BESIROGLU.alpha * BESIROGLU.A * float(best.N) ** -BESIROGLU.alpha
    u = np.log(2.0)
    alpha, beta = BESIROGLU.alpha, BESIROGLU.beta
    assert extra == pytest.approx(q * ((np.exp(-alpha * u) - 1) / alpha + (np.exp(beta * u) - 1) / beta))
    assert float(BESIROGLU.optimal(C / waste).loss) == pytest.approx(float(best.loss) + extra)


def test_a_best_loss_that_is_the_floor_has_no_cost_in_compute():
    steep = Chinchilla(2.0, 1.0, 1.0, 3.0, 3.0)
    extra, waste = off_optimum(steep, 1e24, 2.0)
    assert (extra, np.isnan(waste)) == (0.0, True)


def test_a_token_cap_binds_only_below_the_optimum():
    best = BESIROGLU.optimal(C)
    free = capped(BESIROGLU, C, 10 * float(best.D))
    assert free.n_params == pytest.approx(float(best.N))
    tight = capped(BESIROGLU, C, float(best.D) / 10)
    assert tight.tokens == pytest.approx(float(best.D) / 10)
    assert tight.n_params * tight.tokens * 6 == pytest.approx(C)
    assert tight.loss > free.loss


def test_repeats_are_worth_less_than_new_tokens_and_more_than_none():
    best = BESIROGLU.optimal(C)
    plenty = repeated(BESIROGLU, C, 100 * float(best.D))
    assert plenty.loss == pytest.approx(float(best.loss), rel=1e-6)
    scarce = repeated(BESIROGLU, C, float(best.D) / 8)
    assert scarce.epochs > 4
    assert float(best.loss) < scarce.loss < capped(BESIROGLU, C, float(best.D) / 8).loss
    assert "Muennighoff" in str(scarce)
    bent = repeated(BENT, C, 1e10)
    assert float(BENT.optimal(C).loss) < bent.loss < capped(BENT, C, 1e10).loss
    with pytest.raises(ServingError, match="--unique-tokens 0"):
        repeated(Chinchilla(1, 1, 1, 0.3, 0.3), C, 0.0)
