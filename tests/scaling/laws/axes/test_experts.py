"""The law of experts: published constants, a fit to exact losses, and the public runs of Clark et al. 2022."""

import numpy as np
import pandas as pd
import pytest

from isoflop.scaling.fitting.fit import LeastSquares, fit, predict_loss
from isoflop.scaling.laws.axes.experts import Experts
from isoflop.scaling.laws.axes.experts_joint import ExpertsJoint
from isoflop.scaling.table.read import read_table
from isoflop.scaling.table.runs import final_rows
from tests.support.root import RESULTS

S_BASE = Experts(-0.082, -0.108, 0.009, 1.104, 1.847, 314.478)


def grid(law: Experts) -> pd.DataFrame:
    """Exact losses of six sizes at one to 512 experts."""
    N, E = np.meshgrid(np.geomspace(1e7, 1e9, 6), 2.0 ** np.arange(0, 10, 3))
    frame = pd.DataFrame({"n_params": N.ravel(), "experts": E.ravel()})
    return frame.assign(loss=predict_loss(law, frame))


def test_one_expert_is_the_dense_law_and_many_saturate():
    assert S_BASE(1e8, 1.0) == pytest.approx(
        10 ** (-0.082 * 8 - 0.108 * np.log10(1.847) + 0.009 * 8 * np.log10(1.847) + 1.104)
    )
    few, many, more = (S_BASE(1e8, E) for E in (8, 4096, 65536))
    assert few > many > more
    assert many - more < 0.02 * (few - many)


@pytest.mark.parametrize(("name", "floor"), [("experts", 0.0), ("experts-floor", 1.2)])
def test_exact_losses_give_back_their_law(name, floor):
    true = Experts(-0.15, -0.09, 0.006, 1.5, 1.847, 314.478, floor)
    table = grid(true)
    found = fit(name, table, objective=LeastSquares())
    assert np.abs(found.residuals).max() < 1e-6
    assert predict_loss(found.law, pd.DataFrame({"n_params": [1e10], "experts": [16.0]}))[0] == pytest.approx(
        true(1e10, 16.0), rel=1e-3
    )


@pytest.mark.slow
def test_exact_losses_of_several_numbers_of_tokens_give_back_the_joint_law():
    true = ExpertsJoint(1.4, 40, 40, 0.19, 0.18, -0.2, 0.1, 0.005, -0.005)
    N, D, M = map(np.ravel, np.meshgrid(np.geomspace(1e7, 3e8, 4), np.geomspace(1e9, 1.6e10, 3), [1.0, 2, 4, 8]))
    table = pd.DataFrame({"n_params": N, "tokens": D, "experts": M, "loss": true(N, D, M)})
    found = fit("experts-joint", table, objective=LeastSquares())
    assert found.law.values() == pytest.approx(true.values(), rel=1e-6)


def test_own_runs_gain_by_experts_once_they_are_trained_for_long():
    ends = final_rows(read_table(RESULTS / "experts.parquet"))
    losses = ends.groupby(["horizon_tokens", "d_model", "experts"])["loss"].mean().unstack()
    assert losses.shape == (12, 4)
    assert losses.notna().all(axis=None)
    long = losses.loc[ends["horizon_tokens"].max()]
    assert (long[8] < long[1] - 0.05).all()
    assert (long[8] < long[4]).all()
    assert ends["n_params_active"].groupby(ends["d_model"]).apply(lambda n: n.max() / n.min()).max() < 1.03


@pytest.mark.slow
def test_a_floor_forecasts_the_largest_published_size_better(public_data):
    """S-Base and dense runs, one expert a token, half of the layers routed: fitted up to 132M, predicting 370M."""
    runs = pd.read_csv(public_data / "routed_lm" / "final.csv")
    kept = runs[runs["router_type"].isin(["S-Base", "Dense"]) & (runs["k"] == 1) & (runs["routing_frequency"] == 0.5)]
    columns = {"dense_parameter_count": "n_params", "num_experts": "experts", "loss_validation": "loss"}
    table = kept.rename(columns=columns)[list(columns.values())].reset_index(drop=True)
    small = table[table["n_params"] < 1.5e8].reset_index(drop=True)
    large = table[table["n_params"] > 1.5e8].reset_index(drop=True)
    missed, fitted = {}, {}
    for name in ("experts", "experts-floor"):
        law = fit(name, small, objective=LeastSquares()).law
        missed[name] = float(np.sqrt(np.mean(np.log(large["loss"] / predict_loss(law, large)) ** 2)))
        fitted[name] = float(np.sqrt(np.mean(fit(name, table, objective=LeastSquares()).residuals ** 2)))
    assert fitted["experts"] <= 0.0060
    assert fitted["experts-floor"] <= 0.0030
    assert missed["experts"] == pytest.approx(0.0214, abs=0.001)
    assert missed["experts-floor"] == pytest.approx(0.0119, abs=0.001)
