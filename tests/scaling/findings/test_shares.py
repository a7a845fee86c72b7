"""What answers print in percent is a share of the loss, and not a difference of logarithms."""

import numpy as np
import pandas as pd
import pytest

from isoflop.scaling.arms.matched import Matched
from isoflop.scaling.findings.diagnose import diagnose
from isoflop.scaling.fitting.fit import fit
from isoflop.scaling.fitting.uncertainty import jackknife
from isoflop.scaling.prediction.spending.memory import MemoryCap
from isoflop.scaling.prediction.spending.text_price import TextPurchase
from tests.support.fits.simulated import BESIROGLU, isoflop_table

pytestmark = pytest.mark.usefixtures("kept_searches")


def test_text_that_lowers_the_loss_by_a_share():
    bought = TextPurchase(
        law="repeated", n_params=1e6, tokens=1e8, unique_tokens=2e7, epochs=5.0, flops=6e14, bought=1e7, loss=1.2,
        loss_without=1.5, gain=float(np.log(1.5 / 1.2)), interval=(float(np.log(0.8)), float(np.log(1.6))),
        price_per_token=1e-6, price_per_flop=1e-12,
    )  # fmt: skip
    assert "loss 1.2000, lower by 20.00% than the 1.5000 without (90% -25.00% to 37.50%)" in str(bought)


def test_experts_that_lower_the_loss_by_a_share():
    runs = pd.DataFrame({"experts": [1.0, 8.0], "n_params": 1e8, "n_params_total": [1e8, 5e8], "tokens": 1e10})
    found = MemoryCap(
        law="experts-joint", flops=1e20, memory=4e9, bytes_per_parameter=2.0,
        runs=runs.assign(loss=[2.5, 2.0], binds=False), open_ended=dict(runs.iloc[1], loss=2.0),
        gain=float(np.log(2.5 / 2.0)), interval=(float(np.log(1.1)), float(np.log(2.0))), points=None, findings=(),
        notes=(),
    )  # fmt: skip
    assert "8 experts lower the loss of 1 by 20.00%, 90% 9.09% to 50.00%" in str(found)


def test_pairs_that_differ_by_a_share():
    ends = (float(np.log(0.8)), float(np.log(1.5)))
    found = Matched("a", "b", 1e20, 2.0, 2.2, 4, float(np.log(1.25)), ends, 0.2, (0, 0), 0.9)
    assert "4 pairs differ by +25.00% [-20.00%, +50.00%]" in str(found)
    assert found.to_dict()["difference"] == pytest.approx(np.log(1.25))


def test_an_outlier_lies_above_the_law_by_a_share():
    table = isoflop_table(BESIROGLU, seed=0)
    table.loc[20, "loss"] *= 1.5
    fitted = fit("chinchilla", table)
    (said,) = [f.message for f in diagnose(fitted, jackknife(fitted), table) if f.code == "outliers"]
    assert f"row 21 ({np.expm1(fitted.residuals[20]):+.1%})" in said
    assert fitted.residuals[20] < 0.45 < np.expm1(fitted.residuals[20])
