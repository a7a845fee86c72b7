"""`isoflop tune TABLE`: optima of exact sweeps, intervals and regret under noise, findings on edges and scales."""

import json

import numpy as np
import pandas as pd
import pytest

from isoflop.scaling.table.read import read_table
from isoflop.scaling.table.runs import final_rows
from isoflop.scaling.tuning.best import Scale, best_rate_with, best_setting, loss_at
from isoflop.scaling.tuning.choice import fit_bowl
from isoflop.scaling.tuning.sweep import NoOptimumError, sweep_of
from isoflop.scaling.tuning.tune import tune
from tests.support.fits.tuned_sweeps import AT, KINDS, NOISE, outcome, sweep, truth
from tests.support.root import RESULTS

pytestmark = pytest.mark.usefixtures("kept_searches")


def drawn(kind: str, seed: int = 0, noise: float = 0.0):
    rng = np.random.default_rng([seed, 5])
    law = truth(kind, rng)
    return law, sweep(law, 1, rng, noise)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_exact_sweeps_give_back_their_optimum(kind):
    law, table = drawn(kind)
    at = {"n_params": AT.n_params} | ({"tokens": AT.tokens} if "D" in law.inputs else {})
    found = tune(table, at).best
    scale = found.at if "T" not in law.inputs else AT
    best = best_setting(law, scale)
    for part in found.intervals:
        assert getattr(found.optimum, part) == pytest.approx(getattr(best, part), rel=0.02), part
    assert set(found.intervals) == {"learning_rate"} | ({"batch_tokens"} if "T" in law.inputs else set()) | (
        {"weight_decay"} if "W" in law.inputs else set()
    )


@pytest.mark.parametrize("kind", ["rates and batches", "rates, batches and decays"])
def test_the_best_setting_has_the_lowest_loss(kind):
    law, _ = drawn(kind)
    best = best_setting(law, AT)
    lowest = loss_at(law, AT, best)
    for part in ("learning_rate", "batch_tokens", "weight_decay"):
        for factor in (0.9, 1.1):
            value = getattr(best, part)
            moved = type(best)(**{**vars(best), part: value * factor}) if np.isfinite(value) else best
            assert loss_at(law, AT, moved) >= lowest
    for factor in (0.5, 2.0):
        other = type(best)(best.learning_rate, best.batch_tokens * factor, best.weight_decay)
        rate = best_rate_with(law, AT, other)
        losses = [
            loss_at(law, AT, type(best)(rate * f, other.batch_tokens, other.weight_decay)) for f in (0.97, 1, 1.03)
        ]
        assert min(losses) == losses[1]


@pytest.mark.slow
def test_regret_of_a_setting_is_the_loss_that_it_gives_away():
    law, table = drawn("rates")
    at = {"n_params": 1e8, "tokens": 4e9}
    found = tune(table, at, setting={"peak_learning_rate": 1e-2}).best
    true = loss_at(law, found.at, type(found.optimum)(1e-2)) - loss_at(law, found.at, best_setting(law, found.at))
    assert found.requested is not None
    assert found.requested.lost == pytest.approx(true, rel=1e-3)
    noisy = tune(drawn("rates", noise=NOISE)[1], at, setting={"learning_rate": 1e-2}).best
    assert noisy.requested is not None
    lo, hi = noisy.requested.interval
    assert lo < true < hi
    (inside,) = noisy.inside.values()
    low, high = noisy.intervals["learning_rate"]
    ends = [noisy.law.regret(end, noisy.optimum.learning_rate) for end in (low, high)]
    assert inside == pytest.approx(ends)
    assert noisy.most_lost == max(inside)


@pytest.mark.slow
def test_intervals_hold_the_optimum_and_the_setting_loses_little():
    """Twelve sweeps: a 90% interval misses 4 of 12 in 2.6% of such tests; the seeds are fixed."""
    found = [outcome("rates at one horizon", seed) for seed in range(12)]
    assert sum(one.holds["learning_rate"] for one in found) >= 9
    assert np.median([one.regret for one in found]) <= 0.0025


@pytest.mark.slow
def test_a_cliff_above_the_best_rate_does_not_drag_it_down():
    """A parabola through such bowls has its bottom too low."""
    law, table = drawn("rates below a cliff", seed=3, noise=NOISE)
    found = tune(table, {"n_params": 1e9, "tokens": 2e10}).best
    best = best_setting(law, found.at).learning_rate
    lo, hi = found.intervals["learning_rate"]
    assert "s" in found.law.parameters()
    assert lo < best < hi
    assert any("a skewed bowl" in note for note in found.notes)
    assert not any("of runs whose rate is within" in note for note in found.notes), "all rates follow one bowl"
    _, even = drawn("rates", noise=NOISE)
    assert "s" not in tune(even).best.law.parameters(), "even bowls stay parabolas"


@pytest.mark.slow
def test_the_predicted_setting_loses_less_than_a_seed_at_sizes_that_were_held_out():
    """Trained there with three seeds, against the best of all settings measured; figures are those of the page."""
    whole = sweep_of(read_table(RESULTS / "hp_law.parquet"))
    kept, _, fitted = fit_bowl(whole)
    assert len(kept.rows) < len(whole.rows), "losses jump beyond the rates near the lowest, which no bowl follows"
    runs = final_rows(read_table(RESULTS / "hp_law_held_out.parquet"))
    found = []
    for (size, _), of in runs.groupby(["n_params_active", runs["horizon_tokens"].round(-4)]):
        tokens = float(of["horizon_tokens"].min())
        batch = 64 * round(best_setting(fitted.law, Scale(size, tokens)).batch_tokens / 64)
        rate = best_setting(fitted.law, Scale(size, tokens, batch)).learning_rate
        ends = of.groupby(["batch_tokens", "peak_learning_rate"])["loss"].agg(["mean", "var", "size"])
        ends = ends[ends["size"] > 1]
        (trained,) = [r for r in ends.loc[batch].index if abs(np.log(r / rate)) < 1e-3]
        sd = np.sqrt(((ends["size"] - 1) * ends["var"]).sum() / (ends["size"] - 1).sum())
        found.append((size, (ends.loc[(batch, trained), "mean"] - ends["mean"].min()) / sd))
    assert [size for size, _ in found] == [49920, 49920, 128576]
    assert [lost for _, lost in found] == pytest.approx([0.91, 0.0, 0.55], abs=0.02)


@pytest.mark.slow
def test_the_committed_sweep_of_two_parametrizations():
    table = read_table(RESULTS / "lr_transfer.parquet")
    found = tune(table, {"n_params": 1e7}, tokens=153_600)
    assert [arm.arm for arm in found.arms] == ["mup", "standard"]
    mup, standard = found.arms
    assert abs(mup.law.m_N) < 0.1, "under muP the best rate stays"
    assert -0.7 < standard.law.m_N < -0.4
    assert {f.code for f in standard.findings} >= {"outside_data", "extrapolates"}
    answer = json.loads(json.dumps(found.to_dict()))
    assert {"optimum", "intervals", "regret", "edges", "law", "findings", "conventions", "cells", "arms"} <= set(answer)
    assert answer["optimum"]["learning_rate"] == mup.optimum.learning_rate
    assert [arm["arm"] for arm in answer["arms"]] == ["mup", "standard"]
    text = str(found)
    assert "lowest loss at its best setting: mup" in text
    assert tune(table, {"n_params": 1e7}, arm="standard").best.law == standard.law
    with pytest.raises(ValueError, match=r"--arm mpu: column arm of .* has 'mup', 'standard'; did you mean 'mup'"):
        tune(table, arm="mpu")


GRID = 2.0 ** np.arange(-12, -6)


def rates(best, sizes=(1e6, 1e7, 1e8), seeds=3, grid=GRID, **columns) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    rows = [
        (n, 2e8, rate, 2 + 30 * n**-0.3 + 0.05 * np.log(rate / best(n)) ** 2 + rng.normal(0, 0.002))
        for n in sizes
        for rate in grid
        for _ in range(seeds)
    ]
    return pd.DataFrame(rows, columns=["n_params", "tokens", "peak_learning_rate", "loss"]).assign(**columns)


def codes(found) -> set[str]:
    return {f.code for f in found.findings}


@pytest.mark.slow
def test_cells_at_an_edge_are_told_and_what_the_optimum_is_without_them():
    found = tune(rates(lambda n: 0.02 * (n / 1e6) ** -0.5, sizes=(1e6, 3e6, 1e7, 3e7, 1e8)), {"n_params": 1e8}).best
    (edge,) = [f for f in found.findings if f.code == "rate_at_edge"]
    assert "0.0078125, the highest tried at n_params 1e+06" in edge.message
    assert "without them the best rate is" in edge.message
    assert found.to_dict()["edges"][0]["edge"] == "high"


@pytest.mark.slow
def test_scales_beyond_the_runs_are_told_with_their_factor():
    table = rates(lambda n: 0.0015 * (n / 1e7) ** -0.4)
    far = tune(table, {"n_params": 1e10}, tokens=1e12).best
    assert codes(far) >= {"extrapolates", "outside_data", "input_never_varies"}
    reported = {f.code: f.message for f in far.findings}
    assert "n_params 1e+10 is 100 times the largest of the sweep" in reported["extrapolates"]
    assert "tokens is 2e+08 in every run" in reported["input_never_varies"]
    assert "below all that were tried" in reported["outside_data"]
    near = tune(table).best
    assert not codes(near) & {"extrapolates", "outside_data", "input_never_varies"}
    assert near.at.n_params == 1e8
    assert any("n_params is that of the largest run" in note for note in near.notes)


def test_tokens_that_follow_the_size_are_told_apart_from_it_only_by_a_finding():
    table = rates(lambda n: 0.002 * (n / 1e7) ** -0.3)
    table["tokens"] = 20 * table["n_params"]
    found = tune(table, {"n_params": 1e9}, tokens=5e11).best
    assert "D" not in found.law.inputs
    assert "collinear_inputs" in codes(found)
    assert found.optimum.learning_rate == pytest.approx(0.002 * 100**-0.3, rel=0.05)


@pytest.mark.slow
def test_runs_of_several_optimizers_in_one_arm_are_objected_to():
    table = rates(lambda n: 0.002, optimizer=["adamw", "muon"] * 27)
    assert "mixed_experiment" in codes(tune(table).best)
    assert "mixed_experiment" not in codes(tune(table, by="optimizer").best)


@pytest.mark.slow
def test_batches_without_a_best_one_inside_are_said():
    parts = [rates(lambda n: 0.002, batch_tokens=b) for b in (1e4, 4e4, 1.6e5)]
    for k, part in enumerate(parts):
        part["loss"] += 0.05 * k
    found = tune(pd.concat(parts, ignore_index=True)).best
    assert found.optimum.batch_tokens == 1e4
    assert "batch_tokens" not in found.intervals
    assert any("the loss falls to the smallest batch tried" in note for note in found.notes)
    two = tune(pd.concat(parts[:2], ignore_index=True)).best
    assert two.optimum.batch_tokens == 1e4
    assert any("2 batches (1e+04, 4e+04) tell no best one" in note for note in two.notes)
    assert tune(pd.concat(parts, ignore_index=True), batch=3e4).best.optimum.batch_tokens == 3e4


@pytest.mark.parametrize(
    ("question", "says"),
    [
        ({"at": {"n_param": 1e8}}, r"--at n_param=1e\+08: not one of n_params, tokens, batch_tokens; did you mean"),
        ({"at": {"n_params": 0.0}}, "--at n_params=0: it must be positive"),
        ({"at": {"tokens": 1e8}, "tokens": 1e9}, "keep one of them"),
        ({"setting": {"weight_decay": 0.1}}, "--setting weight_decay=0.1: the table does not vary it"),
        ({"setting": {"rate": 0.1}}, "--setting rate=0.1: not one of peak_learning_rate"),
        ({"by": "optimiser"}, "--by optimiser: table has no such column"),
        ({"level": 1.0}, "it must lie between 0 and 1"),
    ],
)
def test_questions_that_mean_nothing_are_refused(question, says):
    with pytest.raises(ValueError, match=says):
        tune(rates(lambda n: 0.002), **question)


@pytest.mark.slow
def test_an_arm_without_an_optimum_is_named_beside_the_others():
    both = pd.concat([rates(lambda n: 0.002, arm="a"), rates(lambda n: 10.0, arm="b")], ignore_index=True)
    found = tune(both)
    assert [arm.arm for arm in found.arms] == ["a"]
    assert "in all 3 cells" in found.failed["b"]
    assert found.to_dict()["failed"] == dict(found.failed)
    with pytest.raises(NoOptimumError, match=r"b: .*in all 3 cells"):
        tune(both, arm="b")


def test_few_rates_do_not_make_a_symmetric_bowl_skewed():
    """Five rates and four parameters: a likelihood ratio says skewed in one of 18, the F test in one of 500."""
    rng, rates = np.random.default_rng(4), 1e-3 * 2.0 ** np.arange(-2, 3)
    bowl = 3.2 * np.exp(0.01 * np.log(rates / 1.1e-3) ** 2)
    named = []
    for _ in range(60):
        rows = {
            "n_params": 1e7,
            "tokens": 2e8,
            "learning_rate": rates,
            "loss": bowl * np.exp(0.004 * rng.normal(size=5)),
        }
        named.append(fit_bowl(sweep_of(pd.DataFrame(rows)))[2].law.parameters())
    assert sum("s" in one for one in named) <= 1


@pytest.mark.parametrize("written", [np.nan, np.inf, -np.inf])
def test_rates_that_have_no_loss_were_tried_and_diverged(written):
    """The lowest loss of both cells lies below rates at which nothing came out: no edge of what was tried."""
    rates = np.tile([0.0005, 0.001, 0.002, 0.004, 0.008, 0.016], 2)
    loss = [5.6, 5.40, 5.30, 5.25, written, written, 5.0, 4.80, 4.70, 4.66, written, written]
    table = pd.DataFrame({"n_params": np.repeat([1e6, 3e6], 6), "tokens": np.repeat([2e7, 6e7], 6), "lr": rates})
    found = sweep_of(table.assign(loss=loss))
    assert found.cells["edge"].tolist() == ["", ""]
    assert found.cells["rates"].tolist() == [6, 6]
    assert any("4 rows have a learning rate and no loss" in note for note in found.notes)
    with pytest.raises(NoOptimumError, match="at an edge of the rates tried"):
        sweep_of(table.assign(loss=loss).dropna().replace([np.inf, -np.inf], np.nan).dropna())
