"""Laws of mixtures: their derivatives, what they say of pure and of mixed data, exact losses that give them back."""

import numpy as np
import pandas as pd
import pytest

from isoflop.scaling.fitting.fit import LeastSquares, fit, predict_loss
from isoflop.scaling.laws.mixtures.means import effective_data, exponential, joint, mixture_law

DOMAINS = ("code", "prose", "web-text")
FORMS = {
    "exponential": exponential(DOMAINS),
    "effective": effective_data(DOMAINS),
    "two terms": effective_data(DOMAINS, 2),
    "size and tokens": joint(DOMAINS),
    "tokens": joint(DOMAINS, "D"),
    "size": joint(DOMAINS, "N"),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_derivatives_are_those_of_the_formula(form):
    rng = np.random.default_rng(0)
    h = rng.dirichlet(np.ones(3), 9).T
    h[:, 0] = 0.0, 0.4, 0.6
    x = {"h": h, "N": np.log(rng.uniform(1e6, 1e9, 9)), "D": np.log(rng.uniform(1e8, 1e11, 9))}
    theta = rng.normal(0, 0.5, (2, len(form.parameters())))
    theta[:, 0] = 2.0
    loss, jacobian = form.evaluate(theta, x)
    formula, slopes = form._by_complex_step(theta, [x[k] if k == "h" else np.exp(x[k]) for k in form.inputs])
    assert loss == pytest.approx(formula, rel=1e-13)
    assert jacobian == pytest.approx(slopes, abs=1e-13)
    weight, step = rng.normal(size=(2, 9)), 1e-5
    exact = form.curvature(theta, x, jacobian, weight)
    for j in range(theta.shape[1]):
        shift = np.zeros_like(theta)
        shift[:, j] = step
        change = (form.evaluate(theta + shift, x)[1] - form.evaluate(theta - shift, x)[1]) / (2 * step)
        assert exact[:, :, j] == pytest.approx(np.einsum("bpn,bn->bp", change, weight), abs=1e-8)


def test_a_mixture_of_one_domain_leaves_its_own_excess_and_means_are_ordered():
    law = effective_data(DOMAINS)(2.0, 0.5, 1.0, 2.0, 3.0)
    assert law(np.eye(3)) == pytest.approx([3.0, 4.0, 5.0])
    assert law.alone == pytest.approx([3.0, 4.0, 5.0])
    even = np.full(3, 1 / 3)
    geometric = exponential(DOMAINS)(2.0, 1.0, 2.0, 3.0)(even)
    assert law(even) < geometric == pytest.approx(2.0 + 6 ** (1 / 3))
    assert effective_data(DOMAINS)(2.0, 3.9, 1.0, 2.0, 3.0)(even) == pytest.approx(geometric, rel=0.02)


TRUE = {
    "exponential": (2.0, 0.5, 1.0, 2.0),
    "effective": (2.0, 0.4, 0.5, 1.0, 2.0),
    "size and tokens": (1.8, 0.3, 0.3, 0.5, 0.8, 0.4, 0.2, 0.5, 0.9),
}


@pytest.mark.parametrize("kind", TRUE)
def test_exact_losses_give_back_their_law(kind):
    form, rng = FORMS[kind], np.random.default_rng(1)
    true = form(*TRUE[kind])
    h = rng.dirichlet(np.ones(3), 60)
    table = pd.DataFrame(h, columns=[f"weight_{name}" for name in DOMAINS])
    table = table.assign(n_params=rng.choice([1e7, 1e8, 1e9], 60), tokens=rng.choice([1e9, 1e10, 1e11], 60))
    table["loss"] = predict_loss(true, table)
    found = fit(form, table, objective=LeastSquares())
    assert np.abs(found.residuals).max() < 1e-6
    assert found.law.values() == pytest.approx(true.values(), rel=1e-3)


@pytest.mark.parametrize("domains", [("code",), ("prose", "code"), ("code", "code")])
def test_domains_are_two_or_more_in_order(domains):
    with pytest.raises(ValueError, match="two or more names in alphabetical order"):
        mixture_law(domains, ())
