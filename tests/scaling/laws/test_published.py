"""The one copy of the published constants, held against what their papers say of them."""

import numpy as np
import pandas as pd
import pytest

from isoflop.scaling.fitting.fit import predict_loss
from isoflop.scaling.fitting.objective import huber
from isoflop.scaling.laws.published import PUBLISHED


@pytest.mark.parametrize("name", PUBLISHED)
def test_each_names_its_conventions_range_and_source(name):
    entry = PUBLISHED[name]
    assert entry.params
    assert entry.compute
    assert entry.tokenizer
    assert "arXiv" in entry.source
    assert entry.n_params[0] < entry.n_params[1]
    assert entry.flops[0] < entry.flops[1]


@pytest.mark.parametrize(
    ("name", "a"),
    [
        ("hoffmann-2022", 0.4565),
        ("besiroglu-2024", 0.5126),
        ("gadre-2024-c4", 0.5),
        ("kaplan-2020", 0.575),
        ("porian-2024", 0.4969),
        ("llama3-2024", 0.47),
        ("deepseek-2024", 0.5243),
    ],
)
def test_exponent_of_the_optimal_size(name, a):
    assert PUBLISHED[name].law.exponents()["a"] == pytest.approx(a, abs=5e-4)


@pytest.mark.parametrize("name", ["porian-2024", "llama3-2024", "deepseek-2024"])
def test_allocation_rules_spend_the_budget(name):
    entry = PUBLISHED[name]
    C = np.geomspace(*entry.flops, 5)
    best = entry.law.optimal(C)
    assert np.allclose(6 * best.N * best.D, C, rtol=0.01)
    assert np.isnan(best.loss).all()


def test_hoffmann_says_twenty_tokens_per_parameter_near_its_own_budget():
    assert PUBLISHED["besiroglu-2024"].law.optimal(5.76e23).tokens_per_param == pytest.approx(20, rel=0.25)


def test_kaplan_single_column_laws_agree_with_the_joint_one_far_from_the_other_limit():
    joint, size = PUBLISHED["kaplan-2020"].law, PUBLISHED["kaplan-2020-n"].law
    assert joint(1e8, 1e14) == pytest.approx(size(1e8), rel=0.05)
    assert PUBLISHED["kaplan-2020-c"].law(3.1e8 * 8.64e19) == pytest.approx(1.0)


def test_muennighoff_constants_score_what_the_authors_report(public_data):
    table = pd.read_csv(public_data / "datablations" / "fit182.csv")
    residual = np.log(predict_loss(PUBLISHED["muennighoff-2023"].law, table) / table["loss"].to_numpy())
    assert huber(residual, np.ones(len(table)), 1e-3) == pytest.approx(0.0158259353, abs=2e-8)


def test_hoffmann_rounded_constants_score_four_times_the_optimum(public_data):
    table = pd.read_csv(public_data / "chinchilla_epoch" / "runs.csv")
    table = table[~table["excluded_top5_loss"]]
    residual = np.log(predict_loss(PUBLISHED["hoffmann-2022"].law, table) / table["loss"].to_numpy())
    assert huber(residual, np.ones(240), 1e-3) / 1.01827402e-3 == pytest.approx(1.21, abs=0.01)
