"""Buying text: more where it is cheap, none where it is dear, never more than the run reads."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from isoflop.scaling.fitting.fit import predict_loss
from isoflop.scaling.laws.axes.repeated import Repeated
from isoflop.scaling.prediction.forecast import Target
from isoflop.scaling.prediction.spending.text_price import TextPurchase, buy_text
from isoflop.scaling.table.conventions import points

TRUE = Repeated(1.5, 60.0, 200.0, 0.002, 0.35, 0.37, 0.3, 0.4, float(np.log(49021)), 1.0)


@pytest.fixture(scope="module")
def forecast():
    """What `buy_text` reads of a forecast at 1e19 FLOPs with 1e8 unique tokens: exact losses of the law."""
    axes = np.meshgrid(np.geomspace(1e6, 1e9, 5), np.geomspace(1e8, 1e10, 4), [3e7, 3e8, 1e11])
    N, D, U = (a.ravel() for a in axes)
    frame = pd.DataFrame({"n_params": N, "tokens": D, "unique_tokens": np.minimum(U, D), "vocab_size": 49021})
    data = points(frame.assign(loss=predict_loss(TRUE, frame)))
    return SimpleNamespace(target=Target(1e19, unique_tokens=1e8), points=data, fitted={"repeated": TRUE})


@pytest.mark.slow
def test_the_purchase_is_the_best_of_all_and_falls_with_the_price(forecast):
    bought = []
    for price in (1e-12, 1e-9, 1e-7):
        found = buy_text(forecast, price, 1.4e-18)
        money = 1.4e-18 * 1e19
        assert found.flops * 1.4e-18 + found.bought * price == pytest.approx(money)
        for other in np.array([0.0, 0.5, 0.9, 1.1, 2.0]) * found.bought:
            if price * other < money:
                flops = (money - price * other) / 1.4e-18
                loss = TRUE.optimal(flops, forecast.points.cost, unique_tokens=1e8 + other).loss
                assert found.loss <= float(loss) * (1 + 1e-6)
        bought.append(found.bought)
    assert bought[0] > bought[1] > bought[2]
    cheap = buy_text(forecast, 1e-12, 1.4e-18)
    assert cheap.epochs == pytest.approx(1, abs=0.1)
    assert cheap.gain == pytest.approx(np.log(cheap.loss_without / cheap.loss))
    assert f"buy {cheap.bought:.4g} tokens" in str(cheap)


@pytest.mark.slow
def test_dear_text_is_not_bought(forecast):
    found = buy_text(forecast, 1e-2, 1.4e-18)
    assert found.bought == 0
    assert found.loss == found.loss_without
    assert str(found).startswith("buy no text")


def test_what_a_purchase_needs(forecast):
    fixed = SimpleNamespace(**vars(forecast) | {"target": replace(forecast.target, n_params=1e8, tokens=1e9)})
    with pytest.raises(ValueError, match="--flops and --unique-tokens"):
        buy_text(fixed, 1e-9)
    with pytest.raises(ValueError, match="prices must be positive"):
        buy_text(forecast, float("nan"))


def test_text_that_lowers_the_loss_by_a_share():
    bought = TextPurchase(
        law="repeated", n_params=1e6, tokens=1e8, unique_tokens=2e7, epochs=5.0, flops=6e14, bought=1e7, loss=1.2,
        loss_without=1.5, gain=float(np.log(1.5 / 1.2)), interval=(float(np.log(0.8)), float(np.log(1.6))),
        price_per_token=1e-6, price_per_flop=1e-12,
    )  # fmt: skip
    assert "loss 1.2000, lower by 20.00% than the 1.5000 without (90% -25.00% to 37.50%)" in str(bought)
