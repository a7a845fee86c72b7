"""Approaches 1 and 2 recover what is known, published data give published exponents, refused profiles stay visible."""

import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import linregress, truncnorm
from scipy.stats import t as t_distribution

from isoflop.scaling.approaches.approaches import (
    METHODS,
    Approaches,
    NoAllocationError,
    PowerFit,
    Row,
    allocation,
    approaches,
    envelope,
    isoflop_profiles,
    parabola_bias,
)
from isoflop.scaling.approaches.isoflop_profiles import _cut_off, _steepness
from isoflop.scaling.design.simulate import simulate_points, simulate_study
from isoflop.scaling.findings.diagnose import diagnose_approaches
from isoflop.scaling.laws.chinchilla import Chinchilla
from isoflop.scaling.table.conventions import points

pytestmark = pytest.mark.usefixtures("kept_searches")

HOFFMANN = Chinchilla(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)
SKEWED = Chinchilla(E=1.69, A=8000.0, B=82.0, alpha=0.465, beta=0.155)
BUDGETS = np.geomspace(1e18, 1e21, 4)
PORIAN = {0: 0.834, 1: 0.701, 2: 0.604, 3: 0.571, 4: 0.497}


def isoflop_points(law, decades, n_sizes, *, shift=0.0, noise=0.0):
    sizes = np.array([law.optimal(c).N * np.exp(shift) * np.logspace(-decades, decades, n_sizes) for c in BUDGETS])
    return points(simulate_points(law, sizes, BUDGETS[:, None] / 6 / sizes, noise=noise))


@pytest.mark.parametrize("law", [HOFFMANN, SKEWED])
@pytest.mark.parametrize("shift", [0.0, 0.7])
def test_the_exact_profile_recovers_the_optimum_without_noise(law, shift):
    data = isoflop_points(law, np.log10(16), 15, shift=shift)
    for profile in isoflop_profiles(data, window=64):
        best = law.optimal(profile.flops)
        assert profile.accepted
        assert profile.n_opt == pytest.approx(best.N, rel=1e-6)
        assert profile.tokens_opt == pytest.approx(best.D, rel=1e-6)
        assert profile.loss_opt == pytest.approx(best.loss, rel=1e-9)


@pytest.mark.parametrize(
    ("law", "decades", "bias"),
    [(HOFFMANN, 0.6, 0.015), (HOFFMANN, 1.0, 0.042), (HOFFMANN, 1.2, 0.061),
     (SKEWED, 0.6, 0.08), (SKEWED, 1.0, 0.23), (SKEWED, 1.2, 0.35)],
)  # fmt: skip
def test_the_parabola_misses_by_as_much_as_is_known_and_says_so(law, decades, bias):
    data = isoflop_points(law, decades, 7)
    exact = isoflop_profiles(data, window=64)
    for parabola, profile in zip(isoflop_profiles(data, method="parabola", window=64), exact, strict=True):
        off = parabola.n_opt / law.optimal(parabola.flops).N - 1
        assert off == pytest.approx(bias, abs=0.006)
        assert np.expm1(parabola_bias(profile, window=64)) == pytest.approx(off, abs=1e-6)


def test_the_exact_profile_follows_attention_in_the_cost(study_law):
    data = points(simulate_study(study_law, sizes=range(8, 81, 8), factor=16))
    for profile in isoflop_profiles(data):
        assert profile.n_opt == pytest.approx(study_law.optimal(profile.flops, data.cost).N, rel=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("step", PORIAN)
def test_porian_exponents(public_data, step):
    table = pd.read_csv(public_data / "porian_discrepancies" / "isoflop_points.csv").dropna()
    data = points(table[(table["group"] == "rw") & (table["row"] == step)])
    akima = allocation(isoflop_profiles(data, method="akima"))
    parabola = allocation(isoflop_profiles(data, method="parabola"))
    assert akima.n_exponent == pytest.approx(PORIAN[step], abs=0.005)
    assert parabola.n_exponent == pytest.approx(PORIAN[step], abs=0.03)
    assert akima.n_interval[0] < PORIAN[step] < akima.n_interval[1]


def one_budget(sizes, loss):
    n = np.asarray(sizes, float)
    return points(pd.DataFrame({"n_params": n, "tokens": 1e18 / 6 / n, "loss": loss}))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("loss", "why"),
    [
        ([3.4, 3.2, 3.1, 3.05, 3.02], "no interior minimum.*largest size, add larger"),
        ([3.02, 3.05, 3.1, 3.2, 3.4], "no interior minimum.*smallest size, add smaller"),
        ([3.0, 3.3, 3.4, 3.3, 3.0], "concave|no interior minimum"),
    ],
)
def test_a_profile_without_a_minimum_is_refused_with_a_reason_and_kept(method, loss, why):
    (profile,) = isoflop_profiles(one_budget([1e7, 2e7, 4e7, 8e7, 16e7], loss), method=method)
    assert not profile.accepted
    assert len(profile.frame) == 5
    with pytest.raises(NoAllocationError, match="0 budgets"):
        allocation([profile])
    assert re.search(why, profile.reason), profile.reason


@pytest.mark.parametrize("method", METHODS)
def test_an_optimum_far_below_every_run_is_refused(method):
    """Two sizes 1% apart whose noise is taken for a slope: every curve dives beside them."""
    sizes = [1e8, 1.01e8, 3e8, 3.03e8]
    (profile,) = isoflop_profiles(one_budget(sizes, [3.02, 3.0, 3.0, 3.02]), method=method)
    assert not profile.accepted
    assert "further below the lowest run (3) than the highest lies above it" in profile.reason


def test_an_off_centre_parabola_is_refused_and_the_exact_profile_is_not():
    sizes = HOFFMANN.optimal(1e18).N * np.geomspace(0.65, 8, 6)
    data = one_budget(sizes, HOFFMANN(sizes, 1e18 / 6 / sizes))
    (parabola,) = isoflop_profiles(data, method="parabola", window=64)
    assert not parabola.accepted
    assert "off-centre" in parabola.reason
    (exact,) = isoflop_profiles(data)
    assert exact.accepted
    assert "only one size is smaller" in exact.reason


def test_two_sizes_are_no_profile():
    (profile,) = isoflop_profiles(one_budget([1e7, 2e7], [3.1, 3.0]))
    assert "at least 3" in profile.reason
    assert np.isnan(profile.n_opt)


def test_a_curve_reads_the_sizes_within_its_window_on_both_sides_and_at_least_five():
    budget = 1e18
    for method, step, used in (
        ("exact", 2.0, range(3, 12)),
        ("parabola", 2.0, range(5, 10)),
        ("akima", 2.0, range(15)),
    ):
        sizes = HOFFMANN.optimal(budget).N * step ** np.arange(-7.0, 8)
        (profile,) = isoflop_profiles(one_budget(sizes, HOFFMANN(sizes, budget / 6 / sizes)), method=method)
        assert np.flatnonzero(profile.frame["used"]).tolist() == list(used)
    apart = HOFFMANN.optimal(budget).N * 8.0 ** np.array([-3.3, -2.1, -1.0, 0.0, 1.2, 2.4, 3.6])
    (profile,) = isoflop_profiles(one_budget(apart, HOFFMANN(apart, budget / 6 / apart)), method="parabola")
    assert np.flatnonzero(profile.frame["used"]).tolist() == [1, 2, 3, 4, 5]


def test_an_unknown_method_names_the_choices():
    with pytest.raises(ValueError, match="exact, akima, parabola"):
        isoflop_profiles(one_budget([1e7, 2e7], [3.1, 3.0]), method="cubic")


def test_allocation_recovers_a_power_law_and_its_interval_keeps_the_grid_in_mind():
    flops = np.geomspace(1e18, 1e21, 5)
    frame = pd.DataFrame({"flops": flops, "n_opt": 0.1 * flops**0.5, "tokens_opt": flops**0.5 / 0.6})
    clean = allocation(frame)
    assert (clean.n_exponent, clean.n_coef) == pytest.approx((0.5, 0.1), rel=1e-9)
    np.testing.assert_allclose(clean.n(flops), frame["n_opt"])
    np.testing.assert_allclose(clean.tokens(flops), frame["tokens_opt"])
    assert np.ptp(clean.n_interval) < 1e-9
    coarse = allocation(frame.assign(log_n_sd=0.2))
    spread = np.log(flops) - np.log(flops).mean()
    assert np.ptp(coarse.n_interval) / 2 == pytest.approx(1.6449 * 0.2 / np.sqrt(spread @ spread), rel=1e-3)
    with pytest.raises(NoAllocationError, match="at least two"):
        allocation(frame.head(1))


@pytest.mark.slow
def test_the_sd_of_an_optimum_is_that_of_its_scatter():
    """Without noise 0, but for the parabola, whose skew the grid's step stands for; with noise as studies scatter."""
    for method in METHODS:
        for profile in isoflop_profiles(isoflop_points(HOFFMANN, 1.0, 9), method=method):
            least = np.log(10) / 4 / 4 if method == "parabola" else 0.0
            assert profile.log_n_sd == pytest.approx(least, rel=1e-6, abs=5e-3)
    clean = isoflop_points(HOFFMANN, 1.0, 9)
    rng = np.random.default_rng(0)
    optima, sds = [], []
    for _ in range(20):
        noisy = clean.frame["loss"] * np.exp(rng.normal(0, 0.003, len(clean)))
        found = isoflop_profiles(replace(clean, frame=clean.frame.assign(loss=noisy)))
        optima.append([np.log(p.n_opt) for p in found])
        sds.append([p.log_n_sd for p in found])
    assert np.mean(sds) == pytest.approx(np.std(optima, axis=0, ddof=1).mean(), rel=0.35)


def test_a_normal_is_cut_off_at_the_sizes():
    for ends in ((-1.0, 1.0), (-0.3, 2.0), (-9.0, 9.0)):
        expected = 0.7 * truncnorm.std(ends[0] / 0.7, ends[1] / 0.7)
        assert _cut_off(0.7, np.array(ends)) == pytest.approx(expected, rel=1e-6)


def test_a_profile_that_noise_flattens_is_as_sure_as_the_others():
    """Its own steepness would make its optimum the least sure of all, and widen the interval just where it errs."""
    clean = isoflop_points(HOFFMANN, 1.0, 9)
    flat, loss = np.isclose(clean.frame["flops"], BUDGETS[2], rtol=0.01), clean.frame["loss"].to_numpy(copy=True)
    loss[flat] = loss[flat].min() + 0.3 * (loss[flat] - loss[flat].min())
    loss *= np.exp(np.random.default_rng(0).normal(0, 0.003, len(loss)))
    for method in ("exact", "parabola"):
        found = isoflop_profiles(replace(clean, frame=clean.frame.assign(loss=loss)), method=method)
        sd = np.array([p.log_n_sd for p in found])
        steep = np.array([_steepness(p) for p in found])
        assert steep[2] < 0.6 * np.median(steep)
        assert sd[2] < 1.4 * np.median(sd)


def test_replicates_of_a_size_count_in_every_method():
    sizes = np.repeat(HOFFMANN.optimal(1e18).N * np.geomspace(1 / 4, 4, 7), 2)
    loss = HOFFMANN(sizes, 1e18 / 6 / sizes) * np.tile([1.01, 0.99], 7)
    for method in METHODS:
        (profile,) = isoflop_profiles(one_budget(sizes, loss), method=method)
        assert profile.n_opt == pytest.approx(HOFFMANN.optimal(1e18).N, rel=0.05)


@pytest.mark.slow
def test_the_envelope_finds_the_exponent_from_curves(study_law):
    dense = simulate_study(study_law, sizes=range(8, 97, 8), factor=1e9)
    found = envelope(dense)
    truth = study_law.exponents(points(dense).cost)
    assert found.allocation.n_exponent == pytest.approx(truth["a"], abs=0.04)
    assert found.allocation.n_interval[0] < truth["a"] < found.allocation.n_interval[1]
    inside = found.frame[found.frame["bracketed"]]
    assert inside["n_params"].is_monotonic_increasing
    assert (np.diff(found.frame["loss"]) < 0).mean() > 0.95
    assert set(found.frame["run_id"]) <= set(dense["run_id"])
    assert "constant learning rate" in found.notes[0]


def test_no_curves_no_envelope(study_law):
    with pytest.raises(NoAllocationError, match="no training curves"):
        envelope(simulate_study(study_law, curves=False))


@pytest.mark.slow
def test_side_by_side_on_a_study_everything_agrees(study_table, study_law):
    found = approaches(study_table)
    assert [r.approach for r in found.rows] == [1, 2, 2, 2, 3, 3]
    truth = study_law.exponents(found.points.cost)["a"]
    for row in found.rows:
        assert row.power is not None, row.reason
        assert row.power.n_interval[0] < truth < row.power.n_interval[1]
    assert found.agree
    assert "agree within their intervals" in str(found)
    text = json.dumps(found.to_dict(), allow_nan=False)
    assert set(json.loads(text)["budgets"][0]) >= {"flops", "parabola_bias", *METHODS}


@pytest.mark.slow
def test_a_disagreement_is_named(study_table):
    found = approaches(study_table, laws=("chinchilla",))
    *others, law = found.rows
    far = replace(law.power, n_exponent=law.power.n_exponent + 1)
    moved = replace(found, rows=(*others, replace(law, power=far)))
    assert not moved.agree
    assert "2 profiles, exact and 3 chinchilla" in moved.disagreements
    assert "DISAGREE" in str(moved)


def test_approaches_disagree_at_one_level_for_all_pairs_together():
    """At 90% for each of six pairs, one study in seven in which all are right had a disagreement."""
    half = t_distribution.isf(0.05, 5)  # an interval of a standard error 1
    powers = [PowerFit(0.0, 1.0, (-half, half), 1.0, 1.0, (0.0, 2.0), 5, n_error=1.0, freedom=5.0) for _ in range(5)]
    names = [(2, "exact"), (2, "parabola"), (2, "akima"), (3, "chinchilla"), (3, "chinchilla-kappa")]
    rows = [Row(*name, power) for name, power in zip(names, powers, strict=True)]
    pairs = 6
    edge = np.sqrt(2) * t_distribution.isf(0.05 / pairs, 5)
    for apart, agrees in ((0.99 * edge, True), (1.01 * edge, False)):
        moved = [replace(r, power=replace(r.power, n_exponent=apart)) if r.approach == 3 else r for r in rows]
        found = Approaches(tuple(moved), {}, None, {}, None)
        assert (len(found.disagreements) == 0) == agrees
        assert len(found.disagreements) in (0, pairs)
    further = replace(rows[3], power=replace(powers[3], n_exponent=1.01 * np.sqrt(2) * half))
    alone = Approaches((rows[0], further), {}, None, {}, None)
    assert alone.disagreements == ("2 profiles, exact and 3 chinchilla",)


def test_what_cannot_be_answered_is_a_row_with_its_reason():
    found = approaches(one_budget([1e7, 2e7, 4e7, 8e7], [3.1, 3.0, 3.0, 3.1]).frame)
    reasons = {r.method: r.reason for r in found.rows if r.power is None}
    assert "no training curves" in reasons["envelope"]
    assert "at least two" in reasons["exact"]
    assert "chinchilla" in reasons
    json.dumps(found.to_dict(), allow_nan=False)
    assert "none:" in str(found)


def test_the_slope_of_optima_has_the_interval_of_a_regression():
    """Without standard deviations of the optima: Student's t on n - 2 degrees of freedom, as scipy has it."""
    flops = np.geomspace(1e18, 1e21, 5)
    wobble = np.exp([0.03, -0.05, 0.02, 0.04, -0.04])
    frame = pd.DataFrame({"flops": flops, "n_opt": flops**0.5 * wobble, "tokens_opt": flops**0.5 / wobble / 6})
    known = linregress(np.log(flops), np.log(frame["n_opt"]))
    half = t_distribution.ppf(0.95, 3) * known.stderr
    assert allocation(frame).n_interval == pytest.approx((known.slope - half, known.slope + half))
    refuted = allocation(frame.assign(log_n_sd=0.001, freedom=45)).n_interval  # they scatter by .04
    assert refuted == pytest.approx((known.slope - half, known.slope + half))
    agreed = allocation(frame.assign(log_n_sd=0.04, freedom=45)).n_interval
    assert np.ptp(agreed) < 0.9 * 2 * half  # 48 degrees of freedom for 3
    unsure = allocation(frame.assign(log_n_sd=0.5, freedom=1e6)).n_interval
    x = np.log(flops) - np.log(flops).mean()
    assert np.ptp(unsure) / 2 == pytest.approx(1.645 * 0.5 / np.sqrt(x @ x), rel=1e-3)


def test_curves_of_runs_that_end_apart_have_an_envelope():
    law = Chinchilla(E=1.8, A=400.0, B=1200.0, alpha=0.34, beta=0.37)
    rows = [
        {"run_id": f"{n:g}-{end:g}", "n_params": n, "tokens": d, "loss": float(law(n, d))}
        for n in (1e5, 2e5, 4e5, 8e5, 16e5) for end in (1e8, 1e9) for d in np.geomspace(1e6, end, 40)
    ]  # fmt: skip
    power = envelope(pd.DataFrame(rows)).allocation
    assert power.n_exponent == pytest.approx(law.beta / (law.alpha + law.beta), abs=0.05)


@pytest.mark.slow
def test_one_approach_alone_agrees_with_nothing():
    N, D = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e7, 1e9, 6), np.geomspace(1e9, 1e11, 5)))
    alone = approaches(simulate_points(HOFFMANN, N * np.geomspace(1, 1.7, 30), D, noise=0.002))
    assert alone.answered == (3,)
    assert (alone.agree, alone.to_dict()["agree"], alone.disagreements) == (None, None, ())
    assert "\nOnly approach 3 has an answer with an interval: there is nothing to agree (90%" in str(alone)
    assert "approaches_disagree" not in {f.code for f in diagnose_approaches(alone)}
    none = approaches(one_budget([1e7, 2e7, 4e7, 8e7], [3.1, 3.0, 3.0, 3.1]).frame, laws=("chinchilla",))
    assert none.verdict.startswith("No approach has an answer")


@pytest.mark.slow
def test_an_envelope_goes_through_no_budgets_and_counts_none(study_table):
    found = approaches(study_table)
    assert [row.power.n_budgets for row in found.rows] == [0, 4, 4, 4, 0, 0]
