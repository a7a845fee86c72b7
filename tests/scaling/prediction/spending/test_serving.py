"""Allocation for people who serve: against brute force, and in the limits where the answer is known."""

from dataclasses import replace

import numpy as np
import pytest

from isoflop.scaling.laws.chinchilla import Chinchilla
from isoflop.scaling.laws.cost import Cost
from isoflop.scaling.prediction.forecast import forecast_loss
from isoflop.scaling.prediction.spending.serving import (
    ServingError,
    allocations,
    capped,
    off_optimum,
    off_optimum_line,
    repeated,
    serve,
)
from isoflop.scaling.prediction.target import Target
from tests.support.fits.named_laws import TABLES
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


@pytest.fixture(scope="module")
def scarce():
    """The best run of a table with repeats, as its own law and one without the data's say of them forecast it."""
    data = TABLES["repeats"]()
    return forecast_loss(data, Target(1e21, unique_tokens=2e10), ["chinchilla-no-floor", "data-constrained"])


def test_scarce_tokens_are_allocated_by_the_law_of_the_most_weight_as_it_answers(scarce):
    """It was the law preferred by held-out runs, whatever its weight, with another decay than the answer's."""
    heaviest = scarce.laws["weight"].idxmax()
    preferred = replace(scarce, preferred=scarce.laws["weight"].idxmin())
    (found,), failed, _ = allocations(preferred, unique_tokens=2e10)
    assert not failed
    assert f"({heaviest} without a break)" in found.note
    assert found.n_params == pytest.approx(scarce.laws.loc[heaviest, "n_opt"], rel=1e-6)
    assert found.loss == pytest.approx(scarce.laws.loc[heaviest, "loss"], rel=1e-6)


def test_repeats_decay_in_an_allocation_as_in_the_answer(scarce):
    name, law = scarce.heaviest(Chinchilla)
    found = repeated(law, 1e21, 2e10, scarce.points.cost, scarce.worths)
    assert found.n_params == pytest.approx(scarce.laws.loc[name, "n_opt"], rel=1e-6)
    assert found.loss == pytest.approx(scarce.laws.loc[name, "loss"], rel=1e-6)
    assert "fitted to this table" in found.note


def test_the_epochs_of_a_forecast_are_those_of_the_size_that_it_names(scarce):
    assert scarce.epochs == pytest.approx(float(scarce.points.cost.tokens(1e21, scarce.n_opt)) / 2e10)
    assert scarce.epochs > 1


def test_an_allocation_by_a_law_that_the_answer_hardly_heeds_says_so(scarce):
    name = scarce.heaviest(Chinchilla)[0]
    for weight, said in ((0.02, True), (0.6, False)):
        heeded = replace(scarce, laws=scarce.laws.assign(weight=weight), target=Target(1e21))
        (served,), _, _ = allocations(heeded, token_cap=1e10)
        for line in (served.note, off_optimum_line(heeded)):
            assert f"{name} without a break" in line
            assert ("which has a weight of 0.02 in the answer" in line) == said
