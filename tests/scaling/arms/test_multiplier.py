"""Compute multipliers: the truth inside the interval, verdicts at the right rate, Findings when they are due."""

import numpy as np
import pandas as pd
import pytest

from isoflop.scaling.arms.joint_fit import Frontier, choose_form, fit_arms, frontier
from isoflop.scaling.arms.multiplier import MultiplierError, multiplier
from isoflop.scaling.laws.chinchilla import Chinchilla
from isoflop.scaling.laws.law import Cost
from isoflop.scaling.laws.power import Power
from isoflop.scaling.table.conventions import points
from tests.support.fits.decision_checks import arms_coverage
from tests.support.fits.simulated import BASE, cheaper, steeper, two_arms


def test_frontier_is_the_laws_own():
    cost = Cost(k=5.0, slope=-0.05)
    front = frontier(BASE, cost)
    flops = np.array([1e12, 1e15, 1e18])
    assert np.allclose(front.loss(flops), BASE.optimal(flops, cost).loss)
    assert np.allclose(front.compute(front.loss(flops)), flops)
    assert np.isnan(front.compute(np.array(BASE.E - 0.1)))


def test_a_constant_multiplier_is_found_exactly_without_noise():
    pair = multiplier(two_arms(cheaper(1.5), seed=0, noise=1e-7), baseline="base").pairs[0]
    assert np.allclose(pair.at_loss["multiplier"], 1.5, rtol=1e-3)
    assert np.allclose(pair.at_compute["multiplier"], 1.5, rtol=1e-3)
    assert (pair.at_compute["p_better"] > 0.99).all()
    assert pair.paired
    assert not pair.crossover["possible"]


def test_a_growing_multiplier_crosses_where_the_laws_cross():
    pair = multiplier(two_arms(steeper(), seed=0, noise=1e-7), baseline="base").pairs[0]
    assert pair.crossover["flops"] == pytest.approx(3e13, rel=0.02)
    assert pair.crossover["probability_in_data"] > 0.9
    assert pair.at_loss["multiplier"].is_monotonic_increasing
    assert "multiplier_varies" in [f.code for f in pair.findings]


@pytest.mark.slow
def test_intervals_cover_and_false_claims_are_rare():
    told = arms_coverage(cheaper(1.0), repeats=24)
    assert 0.75 <= told["coverage"] <= 1.0
    assert told["claimed better"] <= 0.17
    assert arms_coverage(cheaper(1.5), repeats=12)["coverage"] >= 0.75
    assert arms_coverage(steeper(), repeats=12)["crossover inside"] >= 0.66


def test_sharing_is_weighed_by_the_data():
    same, other = (two_arms(law, seed=1, noise=0.002) for law in (cheaper(1.3), steeper()))
    weight = [multiplier(t, baseline="base").pairs[0].sharing["E and exponents"] for t in (same, other)]
    assert weight[0] > 0.5 > 0.05 > weight[1]


def test_shared_parameters_are_shared():
    table = two_arms(steeper(), seed=0)
    data = [points(table[table["arm"] == a].drop(columns="arm")) for a in ("rival", "base")]
    labels = [np.arange(12), np.arange(12)]
    by_name = {f.sharing: f for f in fit_arms(data, labels)}
    full, floor, none = (by_name[k].laws for k in ("E and exponents", "E", "nothing"))
    assert (full[0].E, full[0].alpha, full[0].beta) == (full[1].E, full[1].alpha, full[1].beta)
    assert floor[0].E == floor[1].E
    assert floor[0].alpha != floor[1].alpha
    assert none[0].E != none[1].E


def test_one_tpp_needs_a_law_of_compute():
    n = np.geomspace(1e6, 1e8, 8)
    assert choose_form([points(pd.DataFrame({"n_params": n, "tokens": 20 * n, "loss": BASE(n, 20 * n)}))]) is Power


def test_findings_on_a_comparison():
    table = two_arms(cheaper(1.5), seed=0)
    table["peak_learning_rate"] = np.where(np.arange(len(table)) == 0, 0.01, 0.02)
    table["eval_id"] = table["arm"]
    codes = {f.code: f.severity for f in multiplier(table, baseline="rival").pairs[0].findings}
    assert codes["unequal_tuning"] == "warn"
    assert codes["different_ruler"] == "fail"
    short = two_arms(cheaper(1.5), seed=0)
    short = short[(short["arm"] == "base") | (6 * short["n_params"] * short["tokens"] < 5e13)]
    assert "unequal_ends" in [f.code for f in multiplier(short, baseline="base").pairs[0].findings]


def test_disagreement_with_the_matched_ranking_is_said():
    table = two_arms(cheaper(1.2), seed=0, noise=1e-4)
    top = (table["arm"] == "base") & (table["n_params"] * table["tokens"] > 1.5e13)
    best = table[top]["loss"].idxmin()
    table.loc[best, "loss"] *= 0.97
    pair = multiplier(table, baseline="base").pairs[0]
    assert pair.matched.winner == "base"
    assert "verdicts_disagree" in [f.code for f in pair.findings]
    assert "verdicts_disagree" in str(pair)


def test_bad_arms_are_refused_plainly():
    table = two_arms(cheaper(1.5), seed=0)
    with pytest.raises(MultiplierError, match="one arm only"):
        multiplier(table[table["arm"] == "base"])
    with pytest.raises(MultiplierError, match="baseline 'x' is not among"):
        multiplier(table, baseline="x")
    with pytest.raises(MultiplierError, match="no column 'colour'"):
        multiplier(table, by="colour")
    apart = table.copy()
    apart.loc[apart["arm"] == "rival", "loss"] *= 3
    with pytest.raises(MultiplierError, match="no loss that both arms reach"):
        multiplier(apart, baseline="base")


def test_partial_answers_are_kept():
    table = two_arms(cheaper(1.5), seed=0)
    third = table[table["arm"] == "rival"].head(2).assign(arm="stub")
    found = multiplier(pd.concat([table, third]), baseline="base")
    assert [p.arm for p in found.pairs] == ["rival"]
    assert "stub" in found.failed


def test_power_frontier_passes_through():
    law = Power(1.0, 50.0, 0.15)
    assert frontier(law, None) == Frontier(1.0, 50.0, 0.15)
    assert isinstance(BASE, Chinchilla)
