"""Verdicts on whole tables: gains that hold, that vanish, that are none, and that nothing can be said of."""

import json

import numpy as np
import pandas as pd
import pytest

from isoflop.scaling.arms.split import MultiplierError
from isoflop.scaling.gate.discrepancy import LearnError
from isoflop.scaling.gate.estimate import Observations, estimate
from isoflop.scaling.gate.gate import GateError, gate
from isoflop.scaling.imports.read_table import read_table
from tests.support.fits.gates import COMPUTES, SLOPE, draw, looks, measured_noise, planned, regmix_arms, scored
from tests.support.root import RESULTS

pytestmark = pytest.mark.usefixtures("kept_searches")

BUDGETS = np.array([1e12, 1e13, 1e14])


def study(gains: dict[str, float], *, drift: float = 0.0, seeds: int = 8, budgets=BUDGETS, noise=0.0005, first=0):
    """Arms of ln m = gain + drift x ln(C / 1e14), loss falling as C^-.1, runs of every seed at every budget."""
    rng = np.random.default_rng(first)
    rows = []
    for arm, gain in {"base": 0.0, **gains}.items():
        for C in budgets:
            for seed in range(seeds):
                m = gain + drift * np.log(C / 1e14) * (arm != "base")
                loss = 3 * np.exp(-0.1 * (np.log(C / 1e12) + m) + rng.normal(0, noise))
                rows.append((arm, seed, f"{arm} {seed} {C:g}", C**0.5 / 2.45, C**0.5 / 2.45, loss))
    return pd.DataFrame(rows, columns=["arm", "seed", "run_id", "n_params", "tokens", "loss"])


def past(arms: int = 12, shrink: float = 1.0, budgets=(1e13, 1e15)):
    rng = np.random.default_rng(5)
    return pd.concat([
        study({f"past{a}": g}, drift=0.02 * rng.normal() + (1 - shrink) * -g / 4.6, seeds=1, first=a,
              budgets=np.array(budgets)).query("arm != 'base'")
        for a, g in enumerate(rng.normal(0, 0.5, arms))
    ], ignore_index=True)  # fmt: skip


def decisions(found) -> dict[str, str]:
    return {v.arm: v.decision for v in found.verdicts}


@pytest.mark.slow
def test_a_gain_that_holds_one_that_vanishes_and_none():
    found = gate(study({"good": 0.2, "none": 0.0, "worse": -0.1}), target=1e15)
    assert decisions(found) == {"good": "promote", "none": "reject", "worse": "reject"}
    good = found.verdicts[0]
    assert good.multiplier == pytest.approx(np.exp(0.2), rel=0.05)
    assert good.interval[0] < np.exp(0.2) < good.interval[1]
    assert good.p > 0.99
    assert good.pairs == 24
    assert good.flops == pytest.approx(2 * 8 * BUDGETS.sum(), rel=0.01)
    assert good.next is None
    fading = gate(study({"fading": 0.1}, drift=-0.1 / np.log(10), noise=0.001), target=1e15)
    assert decisions(fading) == {"fading": "reject"}
    assert fading.verdicts[0].drift == pytest.approx(np.exp(-0.1), abs=0.03)
    assert fading.verdicts[0].by_compute["multiplier"].iloc[0] > 1.25
    assert not fading.failed


@pytest.mark.slow
def test_one_error_over_all_candidates():
    table = study({"a": 0.1, "b": 0.1}, first=3)
    two, one = gate(table, target=1e14), gate(table.query("arm != 'b'"), target=1e14)
    wide, narrow = (next(v for v in g.verdicts if v.arm == "a").interval for g in (two, one))
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


@pytest.mark.parametrize("gain", [0.1, 0.2])
def test_a_single_seed_at_one_size_decides_nothing(gain):
    found = gate(study({"new": gain}, seeds=1, budgets=BUDGETS[:1], noise=0), target=1e14).verdicts[0]
    assert found.decision == "undecided"
    assert np.isnan(found.p)
    assert {f.code for f in found.findings} == {"drift_unknown"}
    assert found.next is not None
    assert found.next.cell["flops"] == pytest.approx(1e12, rel=0.01)


def test_many_seeds_at_one_size_neither():
    assert decisions(gate(study({"new": 0.2}, seeds=40, budgets=BUDGETS[:1]), target=1e14)) == {"new": "undecided"}


@pytest.mark.slow
def test_what_past_changes_did_lets_one_pair_decide():
    table = study({"new": 0.6, "small": 0.03}, seeds=1, budgets=BUDGETS[1:2], noise=0)
    found = gate(table, target=1e15, learned=past())
    assert decisions(found) == {"new": "promote", "small": "undecided"}
    assert found.learnt is not None
    assert found.learnt.changes == 12
    assert 0.5 < found.verdicts[1].p < 0.99


@pytest.mark.slow
def test_a_target_one_span_beyond_pairs_whose_compute_is_nearly_their_budget_is_within_reach():
    lowest, largest = BUDGETS[0], BUDGETS[-1]
    found = gate(study({"new": 0.3}), target=1.05 * largest**2 / lowest).verdicts[0]
    assert "out_of_reach" not in {f.code for f in found.findings}


@pytest.mark.slow
def test_a_target_out_of_reach():
    found = gate(study({"new": 0.3}), target=1e17).verdicts[0]
    assert found.decision == "undecided"
    assert "out_of_reach" in {f.code for f in found.findings}
    assert gate(study({"new": 0.3}), target=9e15).verdicts[0].decision == "promote"


@pytest.mark.slow
def test_losses_on_two_rulers_decide_nothing():
    table = study({"new": 0.3}).assign(eval_id=lambda t: t["arm"])
    found = gate(table, target=1e14).verdicts[0]
    assert found.decision == "undecided"
    assert "different_ruler" in {f.code for f in found.findings}


@pytest.mark.slow
def test_the_time_multiplier_takes_the_ratio_of_speeds():
    rng = np.random.default_rng(0)
    table = study({"new": 0.2})
    slow = np.where(table["arm"] == "new", 0.5, 1.0)
    table["tokens_per_second"] = 1e4 * slow * np.exp(rng.normal(0, 0.01, len(table)))
    found = gate(table, target=1e14).verdicts[0]
    assert found.time_multiplier == pytest.approx(0.5 * found.multiplier, rel=0.02)
    assert found.time_interval[0] < 0.5 * found.multiplier < found.time_interval[1] < 1
    assert np.isnan(gate(study({"new": 0.2}), target=1e14).verdicts[0].time_multiplier)


@pytest.mark.slow
def test_the_sequence_ends_where_the_verdict_is():
    found = gate(study({"new": 0.2}, noise=0.01), target=1e14).verdicts[0]
    last = found.sequence.iloc[-1]
    assert (last["pairs"], last["multiplier"]) == (found.pairs, found.multiplier)
    assert (last["lo"], last["hi"]) == found.interval
    assert list(found.sequence["pairs"]) == list(range(1, 25))


KEYS = {
    "arm", "decision", "why", "p", "multiplier", "multiplier_interval", "time_multiplier", "time_multiplier_interval",
    "drift", "pairs", "flops", "next", "by_compute", "sequence", "findings", "baseline", "target_flops", "error",
    "least", "slope", "learnt", "verdicts", "failed", "notes", "conventions",
}  # fmt: skip


@pytest.mark.slow
def test_json_has_its_keys_and_no_number_that_is_none():
    for table in (study({"new": 0.2, "other": 0.1}), study({"new": 0.1}, seeds=1, budgets=BUDGETS[:1])):
        found = gate(table, target=1e14)
        answer = json.loads(json.dumps(found.to_dict(), allow_nan=False))
        assert set(answer) == KEYS
        assert answer["arm"] == answer["verdicts"][0]["arm"]
        assert str(found)


@pytest.mark.slow
def test_the_order_of_rows_does_not_matter():
    table = study({"new": 0.1}, noise=0.01)
    shuffled = table.sample(frac=1.0, random_state=1)
    one, other = (gate(t, target=1e15, baseline="base").verdicts[0] for t in (table, shuffled))
    assert (one.multiplier, *one.interval) == pytest.approx((other.multiplier, *other.interval), rel=1e-9)


@pytest.mark.slow
def test_tables_that_hold_nothing_to_judge():
    table = study({"new": 0.2})
    with pytest.raises(MultiplierError, match="one arm only"):
        gate(table.query("arm == 'base'"), target=1e14)
    with pytest.raises(MultiplierError, match="not among the arms"):
        gate(table, target=1e14, baseline="nope")
    apart = table.assign(n_params=table["n_params"] * np.where(table["arm"] == "new", 3, 1))
    with pytest.raises(GateError, match="new against base: no pair"):
        gate(apart, target=1e14)
    with pytest.raises(LearnError, match="--learn the table to learn from: at least 4 arms"):
        gate(table, target=1e14, learned=table)


@pytest.mark.slow
def test_an_arm_without_a_pair_is_named_beside_the_others():
    table = study({"new": 0.2, "lone": 0.2})
    table.loc[table["arm"] == "lone", "n_params"] *= 3
    found = gate(table, target=1e14)
    assert list(decisions(found)) == ["new"]
    assert list(found.failed) == ["lone"]


@pytest.mark.slow
def test_a_gain_that_shrinks_must_survive_a_faster_shrinking_beyond_the_pairs():
    """ln m .06 at the largest compute and .02 at the target, known well: gone if it shrank twice as fast."""
    found = gate(study({"new": 0.06}, drift=-0.04 / np.log(10), noise=1e-5), target=1e15).verdicts[0]
    assert found.interval[0] > 1
    assert found.decision == "reject"  # and below 1.03
    kept = gate(study({"new": 0.1}, drift=-0.06 / np.log(10), noise=1e-5), target=1e15).verdicts[0]
    assert kept.interval[0] > 1.03
    assert kept.decision == "undecided"
    assert "twice as fast" in kept.why


def test_many_gates_at_once_are_as_one():
    """What the proof simulates is what the gate estimates."""
    sizes = planned(4.1e12, 12)
    x = np.log(COMPUTES[sizes] / 4.1e12)
    gain = np.random.default_rng(0).normal(0.01, 0.02, (3, 12))
    seen = looks(gain, x)
    for k in (3, 7, 12):
        one = estimate(Observations(gain[1, :k], np.full(k, SLOPE), x[:k], np.arange(k)))
        assert one.mean == pytest.approx(seen.mean[1, k - 1])
        assert one.bounds(0.05) == pytest.approx((seen.lo[1, k - 1], seen.hi[1, k - 1]), rel=1e-4)


def test_nulls_are_seldom_promoted_with_the_noise_of_our_own_runs():
    """A quick part of tests/proofs/verdicts/gate.py."""
    noise = measured_noise(pd.read_parquet(RESULTS / "lr_transfer.parquet"))
    for times in (1.0, 10.0):
        sizes = np.full(60, 3) if times == 1 else planned(times * COMPUTES[-1], 60)
        x = np.log(COMPUTES[sizes] / (times * COMPUTES[-1]))
        promoted, _ = looks(draw(noise, sizes, 1000, 1), x).decided()
        assert 0.005 < np.isfinite(promoted).mean() <= 0.05


@pytest.mark.slow
def test_a_stated_probability_is_what_happens(public_data):
    """RegMix: arms at 1M, judged at 60M, the discrepancy learnt on half of them."""
    data = regmix_arms(*(pd.read_csv(public_data / "regmix" / f"test_{size}.csv") for size in ("1m", "60m")))
    half = np.arange(0, len(data), 2)
    both = np.array([scored(data, part) for part in (half, half + 1)])
    count, stated, held = (both[:, :, k] for k in range(3))
    off = np.average(stated, axis=0, weights=count) - np.average(held, axis=0, weights=count)
    assert (np.abs(off) <= 0.03).all()


@pytest.mark.slow
def test_the_committed_gate_of_four_changes():
    table = read_table(RESULTS / "gates" / "gate_arms.parquet")
    found = {target: gate(table, target=target, baseline="baseline") for target in (3e11, 1e12)}
    assert decisions(found[3e11]) == {
        "muon": "promote", "lstm": "undecided", "standard": "undecided", "decay": "reject",
    }  # fmt: skip
    assert decisions(found[1e12])["muon"] == "undecided"
    assert {v.arm: v.pairs for v in found[3e11].verdicts} == {"muon": 56, "lstm": 56, "standard": 56, "decay": 51}
    unlabelled = gate(table.drop(columns="gate_pair"), target=3e11, baseline="baseline")
    assert {v.arm: v.pairs for v in unlabelled.verdicts}["lstm"] < 56  # it counts other parameters at the same size


@pytest.mark.parametrize("seeds_known", [True, False])
def test_the_order_of_rows_decides_nothing_and_a_lot_is_reported(seeds_known):
    table = study({"new": 0.2}, seeds=3, noise=0.003).drop(columns=["run_id"] if seeds_known else ["run_id", "seed"])
    one, *others = (
        gate(table.sample(frac=1, random_state=order), target=1e14, baseline="base") for order in range(4)
    )  # fmt: skip
    assert ("drawn by lot" in str(one)) == (not seeds_known)
    for other in others:
        assert other.verdicts[0].interval == pytest.approx(one.verdicts[0].interval, rel=1e-9)


def test_losses_of_one_arm_on_two_texts_decide_nothing_even_where_the_other_has_both():
    table = study({"new": 0.2})
    assert decisions(gate(table, target=1e14)) == {"new": "promote"}
    mixed = table.assign(eval_id=np.where(table["seed"] % 2, "one", "other"))
    found = gate(mixed, target=1e14)
    assert decisions(found) == {"new": "undecided"}
    assert "arm new: the losses are not one quantity (eval_id: other, one)" in found.verdicts[0].why
