"""The law of bits: what few of them cost, and exact losses."""

import numpy as np
import pandas as pd
import pytest

from isoflop.scaling.findings.diagnose import diagnose
from isoflop.scaling.fitting.fit import LeastSquares, fit, predict_loss
from isoflop.scaling.laws.axes.precision import Precision
from isoflop.scaling.laws.chinchilla import Chinchilla
from isoflop.scaling.table.read import read_table
from isoflop.scaling.table.runs import final_rows
from tests.support.root import RESULTS

TRUE = Precision(1.9, 520.0, 1490.0, 0.35, 0.36, 2.67, 2.21)


def test_many_bits_are_the_law_without_them_and_few_are_fewer_parameters():
    plain = Chinchilla(*TRUE.values()[:5])
    assert TRUE(1e9, 2e10, 64.0, 64.0) == pytest.approx(plain(1e9, 2e10))
    share = (1 - np.exp(-4 / 2.67)) * (1 - np.exp(-8 / 2.21))
    assert TRUE(1e9, 2e10, 4.0, 8.0) == pytest.approx(plain(1e9 * share, 2e10))


@pytest.mark.slow
def test_objections_to_runs_at_a_few_budgets_do_not_ask_for_one_number_of_bits():
    """Every size meets every budget: the best size of a budget depends on the bits, and is not looked for."""
    grid = np.meshgrid(np.geomspace(1e7, 1e9, 4), np.geomspace(1e18, 1e20, 3), [2.0, 4.0, 16.0])
    frame = pd.DataFrame(dict(zip(["n_params", "flops", "weight_bits"], map(np.ravel, grid), strict=True)))
    frame = frame.assign(tokens=frame["flops"] / 6 / frame["n_params"], activation_bits=frame["weight_bits"])
    frame = frame.assign(loss=predict_loss(TRUE, frame))
    found = fit("precision", frame, fixed={"G_a": 2.21})
    assert not {"no_interior_minimum", "lopsided_profile"} & {f.code for f in diagnose(found, None, frame)}


def test_exact_losses_give_back_their_law():
    grid = np.meshgrid(np.geomspace(1e7, 1e9, 4), np.geomspace(1e9, 1e11, 3), [2.0, 4.0, 16.0], [3.0, 8.0])
    frame = pd.DataFrame(
        dict(zip(["n_params", "tokens", "weight_bits", "activation_bits"], map(np.ravel, grid), strict=True))
    )
    found = fit("precision", frame.assign(loss=predict_loss(TRUE, frame)), objective=LeastSquares())
    assert np.allclose(found.law.values(), TRUE.values(), rtol=1e-4)


def test_own_runs_lose_more_with_fewer_bits_and_more_of_it_after_more_tokens():
    ends = final_rows(read_table(RESULTS / "precision.parquet"))
    losses = (
        ends.groupby(["horizon_tokens", "d_model", "weight_bits", "activation_bits"])["loss"].mean().unstack([2, 3])
    )
    assert losses.shape == (6, 9)
    assert losses.notna().all(axis=None)
    for other in (2, 3, 16):
        for pair in ((lambda bits, o=other: (bits, o)), (lambda bits, o=other: (o, bits))):
            assert (losses[pair(2)] > losses[pair(3)] - 0.03).all(), "by what two runs differ: sd of a seed .03"
            assert (losses[pair(3)] > losses[pair(16)]).all()
    lost = losses.sub(losses[16, 16], axis=0).drop(columns=[(16, 16)])
    short, long = (lost.loc[tokens] for tokens in sorted(ends["horizon_tokens"].unique()))
    assert (long.mean() > short.mean()).all()
