"""Compute multipliers: the truth inside the interval, verdicts at the right rate, Findings when they are due."""

import numpy as np
import pandas as pd
import pytest

import isoflop
from isoflop.scaling.arms.joint_fit import ArmsFit, Frontier, choose_form, fit_arms, frontier
from isoflop.scaling.arms.matched import matched_ranking
from isoflop.scaling.arms.multiplier import _at_computes, _at_losses, multiplier
from isoflop.scaling.arms.pairs import cluster_labels, pair_cells
from isoflop.scaling.arms.split import MultiplierError
from isoflop.scaling.laws.chinchilla import Chinchilla
from isoflop.scaling.laws.cost import Cost
from isoflop.scaling.laws.power import Power
from isoflop.scaling.table.conventions import points
from tests.support.fits.decision_checks import arms_coverage
from tests.support.fits.simulated import BASE, cheaper, steeper, two_arms

pytestmark = pytest.mark.usefixtures("kept_searches")


def test_frontier_is_the_laws_own():
    cost = Cost(k=5.0, slope=-0.05)
    front = frontier(BASE, cost)
    flops = np.array([1e12, 1e15, 1e18])
    assert np.allclose(front.loss(flops), BASE.optimal(flops, cost).loss)
    assert np.allclose(front.compute(front.loss(flops)), flops)
    assert np.isnan(front.compute(np.array(BASE.E - 0.1)))


@pytest.mark.parametrize(
    "cost",
    [
        Cost(10.0, -0.037, limit=6.0, terms=(0.0, 0.23, 0.0, 0.0)),
        Cost(4.0, 0.02, limit=6.0, terms=(0.0, 0.05, 1.0, 0.0), below=True),
        Cost(5.0, -0.05, within=(1e5, 1e7)),
        Cost(5.0, 0.03, within=(1e5, 1e7)),
    ],
    ids=["from above", "from below", "constant beyond, falling", "constant beyond, rising"],
)
def test_a_frontier_beyond_the_table_is_that_of_the_cost_and_inside_that_of_the_power_law(cost):
    ends = 1e11, 1e14
    front, straight = frontier(BASE, cost, ends), frontier(BASE, cost.power)
    flops = np.geomspace(1e7, 1e28, 43)
    inside = (flops >= ends[0]) & (flops <= ends[1])
    assert front.loss(flops[inside]) == pytest.approx(straight.loss(flops[inside]), rel=1e-12)
    end = np.clip(flops, *ends)
    excess = [BASE.optimal(at, cost).loss - BASE.E for at in (flops, end)]
    assert front.loss(flops) - BASE.E == pytest.approx((straight.loss(end) - BASE.E) * excess[0] / excess[1], rel=1e-3)
    assert front.compute(front.loss(flops)) == pytest.approx(flops)
    assert np.isnan(front.compute(np.array([BASE.E, BASE.E - 0.1]))).all()
    far = np.log((front.loss(np.array([1e20, 1e30])) - BASE.E) / BASE.B)
    limit = BASE.alpha * BASE.beta / (BASE.alpha + BASE.beta)
    assert (far[0] - far[1]) / np.log(1e10) == pytest.approx(limit, rel=0.01)


def test_a_constant_multiplier_stays_constant_where_the_rates_of_both_arms_have_come_to_one():
    """One arm has attention, whose share falls with size; a power law of cost would go below 6 and drift on."""
    other, dense = Cost(10.0, -0.037, limit=6.0, terms=(0.0, 0.23, 0.0, 0.0)), Cost()
    ours, theirs = frontier(BASE, dense, (1e11, 9e12)), frontier(BASE, other, (1e11, 9e12))
    flops = np.array([1e11, 9e12, 1e16, 1e20, 1e24])
    ratio = theirs.compute(ours.loss(flops)) / flops
    assert (np.diff(ratio) <= 0).all()
    assert ratio[3:] == pytest.approx(ratio[2], rel=0.03)
    straight = frontier(BASE, other.power)
    assert (straight.compute(ours.loss(flops)) / flops)[-1] < 0.75 * ratio[-1]


@pytest.mark.slow
def test_a_multiplier_far_beyond_the_table_says_that_the_cost_is_extrapolated():
    table = isoflop.example("transformer_vs_lstm")
    near, far = (multiplier(table, target=flops) for flops in (None, 1e16))
    assert near.pairs[0].at_compute.equals(far.pairs[0].at_compute.head(3))
    assert far.pairs[0].at_compute["multiplier"].iloc[-1] == pytest.approx(1.1, abs=0.02)  # 1.0 by a falling power law
    assert [
        note for note in far.notes if note.startswith("transformer: FLOPs per parameter and token are extrapolated")
    ]
    assert not any("extrapolated" in note for note in near.notes)


def test_an_interval_beyond_floating_point_is_open_and_no_warning():
    wide = [Frontier(0.0, k, 4e-4) for k in (2.0, 2.2, 1.8)]
    fitted = ArmsFit("E", (wide[0], wide[0]), tuple((a, wide[0]) for a in wide), 0.0, 4, ())
    flops = np.array([1e12, 1e13])
    one = np.ones(1)
    assert np.isinf(_at_computes([fitted], one, flops, 0.9)["hi"]).all()
    assert np.isinf(_at_losses([fitted], one, wide[0].loss(flops), 0.9)["hi"]).all()


def test_compute_beyond_floating_point_is_no_forecast_and_no_warning():
    flat = Frontier(0.0, 2.0, 1e-4)
    fitted = ArmsFit("constant", (flat, flat), ((flat, flat),) * 3, 0.0, 4, ())
    losses = np.array([1.0, 1.9999])
    assert np.isinf(flat.compute(losses)).tolist() == [True, False]
    ratio = fitted.forecast(lambda a, b: np.log(b.compute(losses) / a.compute(losses)))
    assert np.isnan(ratio.mean).tolist() == np.isnan(ratio.sd).tolist() == [True, False]


def test_a_constant_multiplier_is_found_exactly_without_noise():
    pair = multiplier(two_arms(cheaper(1.5), seed=0, noise=1e-7), baseline="base").pairs[0]
    assert np.allclose(pair.at_loss["multiplier"], 1.5, rtol=1e-3)
    assert np.allclose(pair.at_compute["multiplier"], 1.5, rtol=1e-3)
    assert (pair.at_compute["p_better"] > 0.99).all()
    assert pair.paired
    assert not pair.crossover["possible"]
    assert "multiplier_varies" not in [f.code for f in pair.findings]


@pytest.mark.slow
def test_a_growing_multiplier_crosses_where_the_laws_cross():
    pair = multiplier(two_arms(steeper(), seed=0, noise=1e-7), baseline="base").pairs[0]
    assert pair.crossover["flops"] == pytest.approx(3e13, rel=0.02)
    assert pair.crossover["probability_in_data"] > 0.9
    assert pair.at_loss["multiplier"].is_monotonic_increasing
    assert "multiplier_varies" in [f.code for f in pair.findings]


@pytest.mark.slow
def test_intervals_cover_and_false_claims_are_rare():
    reported = arms_coverage(cheaper(1.0), repeats=16)
    assert 0.8 <= reported["coverage"] <= 0.97  # of 96 intervals, six a study
    assert reported["claimed better"] <= 0.12  # of 48 claims at level .05, three a study
    assert reported["claimed worse"] <= 0.12
    assert arms_coverage(cheaper(1.5), repeats=8)["coverage"] >= 0.8
    assert arms_coverage(steeper(), repeats=8)["crossover inside"] >= 0.75


@pytest.mark.slow
def test_sharing_is_weighed_by_the_data():
    same, other = (two_arms(law, seed=1, noise=0.002) for law in (cheaper(1.3), steeper()))
    weight = [multiplier(t, baseline="base").pairs[0].sharing["E and exponents"] for t in (same, other)]
    assert weight[0] > 0.5 > 0.05 > weight[1]


@pytest.mark.slow
def test_a_multiplier_that_grows_is_not_taken_for_a_constant_one():
    """AICc prefers equal exponents here; intervals at both ends that took its word would miss the truth."""
    pair = multiplier(two_arms(steeper(), seed=0, noise=0.015), baseline="base").pairs[0]
    assert pair.sharing["E and exponents"] > 0.5
    assert not any(f.constant for f in pair.fits)
    loss = pair.at_loss["loss"].to_numpy()
    true = frontier(BASE, Cost()).compute(loss) / frontier(steeper(), Cost()).compute(loss)
    assert ((pair.at_loss["lo"] < true) & (true < pair.at_loss["hi"])).all()
    widths = np.log(pair.at_loss["hi"] / pair.at_loss["lo"]).to_numpy()
    assert widths[[0, -1]].max() > 1.3 * widths[1]
    assert "multiplier_assumed_constant" not in [f.code for f in pair.findings]


@pytest.mark.slow
@pytest.mark.parametrize("trunks", [4, 5])  # of an arm: too few for any AICc, or but for that of equal exponents
def test_a_multiplier_is_said_to_be_taken_as_constant_where_trunks_are_too_few(trunks):
    table = two_arms(cheaper(1.3), seed=0)
    table["trunk_id"] = table["arm"] + (np.arange(len(table)) % trunks).astype(str)
    pair = multiplier(table, baseline="base").pairs[0]
    assert all(f.constant for f in pair.fits)
    assert np.ptp(pair.at_loss["multiplier"]) == pytest.approx(0, abs=1e-9)
    (found,) = [f for f in pair.findings if f.code == "multiplier_assumed_constant"]
    assert "changes with compute only as the costs of training do" in found.message


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


@pytest.mark.slow
def test_findings_on_a_comparison():
    table = two_arms(cheaper(1.5), seed=0)
    table["peak_learning_rate"] = np.where(np.arange(len(table)) == 0, 0.01, 0.02)
    table["eval_id"] = table["arm"]
    codes = {f.code: f.severity for f in multiplier(table, baseline="rival").pairs[0].findings}
    assert codes["unequal_tuning"] == "warn"
    assert codes["different_ruler"] == "fail"
    for unit, severity in (("nats/byte", "warn"), ("nats/token", "fail")):  # each tokenizer has windows of its own
        table["tokenizer_id"], table.attrs["loss_unit"] = table["arm"], unit
        found = multiplier(table, baseline="rival").pairs[0].findings
        assert {f.severity for f in found if f.code == "different_ruler"} == {severity}
    short = two_arms(cheaper(1.5), seed=0)
    short = short[(short["arm"] == "base") | (6 * short["n_params"] * short["tokens"] < 5e13)]
    assert "unequal_ends" in [f.code for f in multiplier(short, baseline="base").pairs[0].findings]


@pytest.mark.slow
def test_disagreement_with_the_matched_runs_is_said():
    """Two sizes at the top, 3% lower for the arm that lags elsewhere, in three seeds: too few to move the laws."""
    tables = [two_arms(cheaper(1.3), seed=seed, noise=0.002).assign(seed=seed) for seed in range(3)]
    top = tables[0]["n_params"] * tables[0]["tokens"] > 1.5e13
    at = tables[0].index[top]
    tables[0].loc[at[[1, 2]], "loss"] *= 0.97
    table = pd.concat([tables[0].drop(at[[0, 3, 4, 7]]), *(t[~top] for t in tables[1:])], ignore_index=True)
    pair = multiplier(table, baseline="base").pairs[0]
    assert pair.matched.winner == "base"
    assert pair.matched.n_pairs == 2
    assert pair.at_compute["p_better"].iloc[-1] > 0.95
    assert "verdicts_disagree" in [f.code for f in pair.findings]
    assert "verdicts_disagree" in str(pair)
    far = multiplier(table, baseline="base", target=1e20).pairs[0]
    assert "at 1e+14 FLOPs (probability" in {f.code: f.message for f in far.findings}["verdicts_disagree"]


@pytest.mark.slow
@pytest.mark.parametrize(("factor", "better"), [(1.5, 1.0), (1 / 1.5, 0.0)])
def test_probabilities_are_of_the_arm_that_is_named(factor, better):
    pair = multiplier(two_arms(cheaper(factor), seed=3, noise=0.002), baseline="base").pairs[0]
    assert pair.at_compute["p_better"].to_numpy() == pytest.approx(better, abs=0.01)
    assert pair.matched.p_better == pytest.approx(better, abs=0.01)
    assert pair.matched.winner == ("rival" if better else "base")
    other = multiplier(two_arms(cheaper(factor), seed=3, noise=0.002), baseline="rival").pairs[0]
    assert other.matched.p_better == pytest.approx(1 - pair.matched.p_better)
    assert other.matched.difference == pytest.approx(-pair.matched.difference)
    assert other.matched.interval == pytest.approx((-pair.matched.interval[1], -pair.matched.interval[0]))


@pytest.mark.slow
def test_equal_arms_with_more_seeds_or_shifted_sizes_are_not_told_apart():
    """Three seeds against one, windows of sizes that overlap in part: pairs of one seed and size, others counted."""
    ahead = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        sizes = BASE.optimal(1e14).N * 2.0 ** np.arange(-2, 3)
        rows = [
            (arm, s, n)
            for arm, seeds, shift in (("a", 3, 0), ("b", 1, 1))
            for s in range(seeds)
            for n in sizes * 2**shift
        ]
        table = pd.DataFrame(rows, columns=["arm", "seed", "n_params"])
        table["tokens"] = 1e14 / 6 / table["n_params"]
        table["flops"] = 1e14 * np.exp(rng.uniform(-0.02, 0.02, len(table)))
        table["loss"] = BASE(table["n_params"], table["tokens"]) * np.exp(rng.normal(0, 0.01, len(table)))
        arms = [table[table["arm"] == a].reset_index(drop=True) for a in "ab"]
        found = matched_ranking("a", arms[0], "b", arms[1])
        assert found.n_pairs == 4
        assert found.unmatched == (11, 1)
        ahead.append(found.winner is not None)
    assert np.mean(ahead) <= 0.2  # level .1: 9 or more of 40 would be one time in 50


def test_twins_pair_whatever_their_compute_rounds_to():
    rng = np.random.default_rng(1)
    flops = np.exp(rng.uniform(25, 40, 300))
    flops = flops[np.abs(np.log(flops[:, None] / flops) + 9 * np.eye(300)).min(axis=1) > 0.2]
    ours = pd.DataFrame({"n_params": flops**0.5, "flops": flops, "seed": 0})
    theirs = ours.assign(flops=flops * np.exp(rng.uniform(-0.03, 0.03, len(flops)))).sample(frac=1, random_state=0)
    found = pair_cells(ours, theirs.reset_index(drop=True))
    assert len(found) == len(ours)
    assert (theirs["n_params"].to_numpy()[found.right] == ours["n_params"].to_numpy()[found.left]).all()


def test_runs_that_are_labelled_pair_within_their_label_whatever_their_sizes():
    ours = pd.DataFrame({"n_params": [1e6, 1e6, 2e6], "flops": 1e13, "seed": 0, "gate_pair": ["a", "b", "c"]})
    theirs = pd.DataFrame({"n_params": [2e6, 1e6, 3e6], "flops": [1e13, 1e13, 2e13], "seed": 0})
    found = pair_cells(ours, theirs.assign(gate_pair=["b", "a", "c"]))
    assert (found.left.tolist(), found.right.tolist()) == ([0, 1], [1, 0])  # c: another budget
    assert len(pair_cells(ours, theirs)) == 2  # by size
    assert len(pair_cells(ours, theirs.assign(gate_pair=["b", None, "c"]))) == 2


def test_pairs_of_one_seed_share_a_cluster_and_are_left_out_together():
    ours = pd.DataFrame({"n_params": [1e6, 1e6, 2e6], "flops": 1e13, "seed": [0, 1, 0], "cluster": ["x", "y", "z"]})
    theirs = pd.DataFrame(
        {"n_params": [1.05e6, 1e6, 4e6], "flops": 1e13, "seed": [1, 0, 0], "cluster": ["p", "q", "r"]}
    )
    labels, one_to_one = cluster_labels(ours, theirs)
    assert labels[1].tolist() == [labels[0][1], labels[0][0], "1 r"]
    assert not one_to_one
    assert len({*labels[0], *labels[1]}) == 4
    assert cluster_labels(ours, ours)[1]
    other_seeds = cluster_labels(ours, ours.assign(seed=[7, 8, 9]))
    assert not other_seeds[1]
    assert not {*other_seeds[0][0]} & {*other_seeds[0][1]}


@pytest.mark.slow
def test_pairs_that_share_noise_give_a_narrower_interval_than_rows_left_out_apart():
    """The noise of a cell is the arms' own: left out pair by pair it cancels in the multiplier."""
    table = two_arms(cheaper(1.3), seed=0, noise=1e-6)
    table["loss"] *= np.exp(np.tile(np.random.default_rng(0).normal(0, 0.01, 12), 2))
    paired = multiplier(table.assign(seed=0), baseline="base").pairs[0]
    apart = multiplier(table.assign(seed=np.repeat([0, 1], 12)), baseline="base").pairs[0]
    assert paired.paired
    assert not apart.paired
    widths = [np.log(p.at_loss["hi"] / p.at_loss["lo"]).median() for p in (paired, apart)]
    assert widths[0] < 0.3 * widths[1]


@pytest.mark.slow
def test_rows_of_weight_0_do_not_count_and_the_unit_of_weights_does_not_matter():
    table = two_arms(cheaper(1.5), seed=0).assign(weight=1.0)
    damaged = table.copy()
    damaged.loc[[1, 5, 14, 20], ["loss", "weight"]] = 3.0, 0.0
    without = multiplier(table.drop(index=[1, 5, 14, 20]), baseline="base").pairs[0].to_dict()
    assert multiplier(damaged, baseline="base").pairs[0].to_dict() == without
    uneven = table.assign(weight=np.linspace(0.2, 3, len(table)))
    one, hundred = (multiplier(uneven.assign(weight=uneven["weight"] * k), baseline="base").pairs[0] for k in (1, 100))
    assert one.at_loss["multiplier"].to_numpy() == pytest.approx(hundred.at_loss["multiplier"].to_numpy(), rel=1e-5)
    assert one.matched.interval == pytest.approx(hundred.matched.interval)
    equal = multiplier(table, baseline="base").pairs[0]
    assert one.matched.difference != equal.matched.difference


@pytest.mark.slow
def test_trunks_count_as_one_each_when_claims_are_weighed():
    """Four copies of every row in one trunk are no evidence for the richer claim."""
    table = two_arms(steeper(), seed=1, noise=0.004).assign(trunk_id=[f"t{i}" for i in range(24)])
    copies = pd.concat([table] * 4, ignore_index=True)
    data = [[points(t[t["arm"] == a].drop(columns="arm")) for a in ("rival", "base")] for t in (table, copies)]
    labels = [[d.frame["cluster"].to_numpy() for d in pair] for pair in data]
    once, often = (fit_arms(d, la) for d, la in zip(data, labels, strict=True))
    behind = [[f.aicc - fits[0].aicc for f in fits] for fits in (once, often)]
    assert behind[1] == pytest.approx(behind[0], abs=3.0)  # of rows: 4 times as far


@pytest.mark.slow
def test_bad_arms_are_refused_plainly():
    table = two_arms(cheaper(1.5), seed=0)
    with pytest.raises(MultiplierError, match="one arm only"):
        multiplier(table[table["arm"] == "base"])
    with pytest.raises(MultiplierError, match=r"\(without a name\) in column 'arm': .*name the column .* with --by"):
        multiplier(table[table["arm"] == "base"].assign(arm=""))
    with pytest.raises(MultiplierError, match="baseline 'x' is not among"):
        multiplier(table, baseline="x")
    with pytest.raises(MultiplierError, match="no column 'colour'"):
        multiplier(table, by="colour")
    apart = table.copy()
    apart.loc[apart["arm"] == "rival", "loss"] *= 3
    with pytest.raises(MultiplierError, match="no loss that both arms reach"):
        multiplier(apart, baseline="base")


@pytest.mark.slow
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


@pytest.mark.parametrize("column", ["step", "tokens", "learning_rate"])
def test_a_column_that_changes_along_a_run_makes_no_arms(column):
    with pytest.raises(MultiplierError, match=f"--by {column}: it changes along a run"):
        multiplier(isoflop.example("quick"), by=column)


def test_pairs_drawn_by_lot_do_not_follow_the_losses_nor_the_order_of_rows():
    rng = np.random.default_rng(0)
    ours, theirs = (
        pd.DataFrame({"n_params": 1e8, "tokens": 1e9, "flops": 6e17, "loss": 3 + 0.01 * rng.standard_normal(400)})
        for _ in range(2)
    )
    pairs = pair_cells(ours, theirs)
    together = np.corrcoef(ours["loss"].to_numpy()[pairs.left], theirs["loss"].to_numpy()[pairs.right])[0, 1]
    assert abs(together) < 0.15
    other = theirs.sample(frac=1, random_state=1).reset_index(drop=True)
    again = pair_cells(ours, other)
    assert (other["loss"].to_numpy()[again.right] == theirs["loss"].to_numpy()[pairs.right]).all()


def test_copies_of_rows_are_no_runs_of_their_own():
    table = two_arms(cheaper(1.3), seed=0, noise=0.01)
    once, twice = multiplier(table), multiplier(pd.concat([table, table], ignore_index=True))
    pd.testing.assert_frame_equal(twice.pairs[0].at_compute, once.pairs[0].at_compute)
    assert twice.pairs[0].matched == once.pairs[0].matched
    assert sum("repeat another in every column are left out" in note for note in twice.notes) == 2
