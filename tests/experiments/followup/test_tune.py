"""Bowls return the optimum they were drawn from with an honest error; edges are refused; transfers pass or fail."""

import math

import numpy as np
import pandas as pd
import pytest

from isoflop.experiments.compose.compose import compose_all
from isoflop.experiments.followup.tune import Bowl, TuneError, bowls, transfers
from isoflop.experiments.followup.tune_report import tune, tune_text
from isoflop.scaling.table.runs import read_runs
from tests.support.root import RESULTS

WIDTHS = (16, 32, 64, 128)
RATES = tuple(0.005 * 2.0**k for k in range(5))
FIXED = {
    "arm": "a", "family": "transformer", "optimizer": "adamw", "parametrization": "mup", "schedule": "wsd",
    "tied": False, "corpus_id": "c", "context_length": 64, "n_layer": 2, "state": "done", "step": 300,
    "budget_flops": math.nan, "horizon_tokens": 153_600, "batch_tokens": 512,
}  # fmt: skip


def table(optimum=lambda width: 0.02, noise=0.0, seeds=2, widths=WIDTHS, rates=RATES, seed=0, **fixed) -> pd.DataFrame:
    """Runs of bowls of 0.3 nats per decade squared around `optimum(width)`."""
    rng = np.random.default_rng(seed)
    rows = [
        FIXED | fixed | {
            "d_model": width, "seed": s, "peak_learning_rate": rate, "run_id": f"{fixed}{width}-{s}-{rate}-{seed}",
            "loss": 2.0 + 0.3 * math.log10(rate / optimum(width)) ** 2 + noise * rng.standard_normal(),
        }
        for width in widths for s in range(seeds) for rate in rates
    ]  # fmt: skip
    return pd.DataFrame(rows)


def standard(width: float) -> float:
    return 0.02 * 16 / width


def test_optimum_is_recovered_exactly_without_noise():
    for bowl in bowls(table(lambda width: 0.013)):
        assert bowl.optimum == pytest.approx(0.013, rel=1e-9)
        assert bowl.loss == pytest.approx(2.0, abs=1e-12)
        assert not bowl.refused


def test_runs_of_one_cell_are_in_one_bowl_however_their_budget_was_written():
    """A study by tokens trained the first of them, one by FLOPs the others; two budgets may come to as many steps."""
    for lost in (math.nan, 2.00001e9):
        runs = table(widths=(16,), budget_flops=2e9)
        runs.loc[runs["peak_learning_rate"] < 0.02, "budget_flops"] = lost
        (bowl,) = bowls(runs)
        assert bowl.optimum == pytest.approx(0.02, rel=1e-9)
        assert len(bowl.runs) == len(runs)


def decayed(best: float, decays=(0.0, 0.03, 0.1, 0.3, 1.0)) -> pd.DataFrame:
    """Bowls of weight decays whose loss is lowest at `best`, each at rates whose best is .02."""
    runs = [table(weight_decay=w, seeds=1).assign(lift=0.2 * math.log10(max(w, 1e-3) / best) ** 2) for w in decays]
    return pd.concat([one.assign(loss=one["loss"] + one["lift"]) for one in runs], ignore_index=True)


def test_weight_decays_each_at_its_best_rate_have_an_optimum_and_none_is_left_out_and_said():
    found = bowls(decayed(0.12), "weight-decay")
    assert [bowl.optimum for bowl in found] == pytest.approx([0.12] * 4)
    (reported,) = [f for f in tune(decayed(0.12), "weight-decay", 0.15)["findings"] if f["code"] == "no_decay"]
    assert reported["message"].startswith("20 runs have no weight decay")


@pytest.mark.slow
def test_rates_at_several_weight_decays_are_bowls_apart():
    found = bowls(decayed(0.12))
    assert {bowl.setting["weight_decay"] for bowl in found} == {0.0, 0.03, 0.1, 0.3, 1.0}
    assert "weight_decay" not in bowls(table())[0].setting


def test_decays_that_are_not_known_of_some_runs_are_refused():
    runs = decayed(0.1)
    runs.loc[runs["weight_decay"] == 1.0, "weight_decay"] = math.nan
    for axis in ("learning-rate", "weight-decay"):
        with pytest.raises(TuneError, match=r"weight_decay is not known of 20 of 100 runs"):
            bowls(runs, axis)
    assert bowls(table().assign(weight_decay=math.nan))


def deep(move: float, layers=(1, 2, 4)) -> pd.DataFrame:
    """Studies of three depths and two widths, the best rate of depth n a factor n^move from that of depth 1."""
    parts = [table(lambda width, n=n: 0.02 * n**move, n_layer=n, widths=(16, 32)) for n in layers]
    return pd.concat(parts, ignore_index=True)


@pytest.mark.slow
def test_whether_a_rate_stays_along_depth_is_asked_at_each_width():
    moved = transfers(bowls(deep(-0.5)), limit=0.15, along="depth")
    assert [(t.setting["d_model"], t.places) for t in moved] == [(16, [1, 2, 4]), (32, [1, 2, 4])]
    assert [t.slope for t in moved] == pytest.approx([-0.5, -0.5])
    text = tune_text(tune(deep(-0.5), "learning-rate", 0.15, "depth"))
    assert "fail: the optimum of width 16 moves -0.50 decades per decade of depth" in text
    assert "over depths 1 to 4" in text
    assert "the shallowest model's optimum costs" in text
    assert {t["verdict"] for t in tune(deep(0.0), "learning-rate", 0.15, "depth")["transfers"]} == {"pass"}


def test_depths_of_one_width_are_transfers_along_width_apart():
    moved = transfers(bowls(deep(-0.5)), limit=0.15)
    assert [(t.setting["n_layer"], t.places) for t in moved] == [(1, [16, 32]), (2, [16, 32]), (4, [16, 32])]
    assert all(abs(t.slope) < 1e-6 for t in moved)
    grown = pd.concat([table(n_layer=n, widths=(w,)) for n, w in ((2, 16), (3, 32))], ignore_index=True)
    (one,) = transfers(bowls(grown), limit=0.15)
    assert "n_layer" not in one.setting, "depth that grows with width is no axis of its own"


@pytest.mark.slow
def test_whether_a_rate_stays_as_models_train_for_longer():
    parts = [table(lambda width, d=d: 0.02 * (d / 1e5) ** -0.25, horizon_tokens=d) for d in (100_000, 400_000)]
    both = pd.concat(parts, ignore_index=True)
    moved = transfers(bowls(both), limit=0.15, along="horizon")
    assert [(t.setting["d_model"], t.setting["n_layer"]) for t in moved] == [(w, 2) for w in WIDTHS]
    assert [t.slope for t in moved] == pytest.approx([-0.25] * 4)
    text = tune_text(tune(both, "learning-rate", 0.15, "horizon"))
    assert text.count("the optimum of width 16, depth 2 moves -0.25 decades per decade of horizon") == 1
    assert "not tested" not in text
    with pytest.raises(ValueError, match=r"--along must be one of width, depth, horizon; not 'time'"):
        transfers(bowls(both), limit=0.15, along="time")


def repeated(times: int, **fields) -> pd.DataFrame:
    """The same study drawn anew as arm 0, 1, ..."""
    return pd.concat([table(arm=str(s), seed=s, **fields) for s in range(times)], ignore_index=True)


def test_a_seed_that_lifts_its_whole_bowl_moves_nothing():
    runs = table(noise=0.002, seeds=3)
    lifted = runs.assign(loss=runs["loss"] + 0.5 * runs["seed"])
    for a, b in zip(bowls(runs), bowls(lifted), strict=True):
        assert (b.optimum, b.error) == pytest.approx((a.optimum, a.error))


@pytest.mark.slow
def test_error_of_the_optimum_is_the_scatter_of_repeats():
    found = bowls(repeated(150, noise=0.004, widths=(16,)))
    optima = np.log10([bowl.optimum for bowl in found])
    scatter = 1.4826 * np.median(np.abs(optima - np.median(optima)))  # a standard deviation, outliers apart
    assert np.median([bowl.error for bowl in found]) == pytest.approx(scatter, rel=0.25)


@pytest.mark.slow
def test_90_percent_intervals_of_the_drift_cover_it_about_as_often():
    found = transfers(bowls(repeated(60, noise=0.01)), limit=0.15)
    inside = np.mean([abs(t.drift) <= 1.645 * t.drift_error for t in found])
    assert len(found) == 60
    assert 0.8 <= inside <= 0.99


def test_transfer_passes_where_the_optimum_stays_and_fails_where_it_moves():
    both = pd.concat(
        [
            table(noise=0.002, arm="mup"),
            table(
                standard,
                noise=0.002,
                arm="standard",
                parametrization="standard",
                rates=[r / 8 for r in RATES] + list(RATES)[2:],
            ),
        ]
    )
    found = {t.setting["arm"]: t for t in transfers(bowls(both), limit=0.15)}
    assert found["mup"].verdict == "pass"
    assert abs(found["mup"].drift) < 0.1
    assert found["standard"].verdict == "fail"
    assert found["standard"].slope == pytest.approx(-1.0, abs=0.1)
    assert found["standard"].drift == pytest.approx(-math.log10(8), abs=0.1)
    assert found["standard"].cost == pytest.approx(0.3 * math.log10(8) ** 2, rel=0.2)
    assert found["mup"].cost < 0.01


def test_noise_too_large_for_the_limit_is_undecided():
    (transfer,) = transfers(bowls(table(noise=0.05)), limit=0.15)
    assert transfer.verdict == "undecided"


@pytest.mark.parametrize(
    ("optimum", "message"),
    [(1e-4, "the lowest value tried, 0.005; try lower ones"), (1.0, "the highest value tried, 0.08; try higher ones")],
)
def test_an_optimum_at_the_edge_is_refused(optimum, message):
    for bowl in bowls(table(lambda width: optimum)):
        assert message in bowl.refused
        assert math.isnan(bowl.optimum)
    assert transfers(bowls(table(lambda width: optimum)), limit=0.15) == []


def test_divergence_above_bounds_a_bowl():
    runs = table(lambda width: 0.04)
    runs.loc[runs["peak_learning_rate"] > 0.05, ["state", "loss"]] = ["diverged", math.nan]
    assert [bowl.refused for bowl in bowls(runs)] == [""] * len(WIDTHS)
    assert bowls(runs)[0].optimum == pytest.approx(0.04, rel=1e-6)
    runs["state"] = "diverged"
    assert {bowl.refused for bowl in bowls(runs)} == {"every run diverged; try lower values"}


def test_a_slope_that_steepens_to_its_lowest_value_is_refused():
    runs = table(widths=(16,))
    steep = {0.005: 1.20, 0.01: 1.19, 0.02: 1.15, 0.04: 1.0, 0.08: math.nan}
    runs["loss"] = runs["peak_learning_rate"].round(4).map(steep)
    runs.loc[runs["loss"].isna(), "state"] = "diverged"
    (bowl,) = bowls(runs)
    assert bowl.refused.startswith("no bowl: the loss does not curve up around its lowest value")


def test_a_cliff_far_from_the_lowest_loss_does_not_move_the_optimum():
    runs = table()
    cliff = runs["peak_learning_rate"] > 0.05
    for bowl in bowls(runs.assign(loss=runs["loss"] + 3.0 * cliff)):
        assert bowl.optimum == pytest.approx(0.02, rel=1e-6)


def test_without_repeats_the_error_is_unknown_and_nothing_passes():
    found = bowls(table(seeds=1, rates=RATES[1:4]))
    assert all(math.isnan(bowl.error) for bowl in found)
    (transfer,) = transfers(found[:2], limit=0.15)
    assert transfer.verdict == "undecided"
    assert "error unknown" in tune_text(tune(table(seeds=1, rates=RATES[1:4], widths=(16, 32)), "learning-rate", 0.15))


def test_batch_bowls_take_each_batch_at_its_best_rate():
    parts = []
    for batch in (128, 256, 512, 1024, 2048):
        part = table(lambda width, b=batch: 0.02 * (b / 512) ** 0.5, batch_tokens=batch)
        part["loss"] += 0.2 * math.log10(batch / 400) ** 2
        parts.append(part)
    for bowl in bowls(pd.concat(parts), "batch"):
        assert bowl.optimum == pytest.approx(400, rel=0.1)
        assert len(bowl.runs) == 5 * 2


@pytest.mark.slow
def test_settings_are_never_mixed():
    both = pd.concat([table(), table(lambda width: 0.01, horizon_tokens=307_200), table(batch_tokens=1024)])
    optima = {(b.setting["budget"], b.setting["batch_tokens"]): b.optimum for b in bowls(both)}
    assert optima == pytest.approx({(153_600, 512): 0.02, (307_200, 512): 0.01, (153_600, 1024): 0.02})


def test_too_few_values_are_refused_with_the_remedy():
    with pytest.raises(TuneError, match=r"three or more values of peak_learning_rate; vary it in study\.vary"):
        bowls(table(rates=RATES[:2]))
    with pytest.raises(ValueError, match=r"--axis must be one of learning-rate, batch, weight-decay; not 'width'"):
        bowls(table(), "width")


def test_text_and_json_say_the_same():
    value = tune(pd.concat([table(noise=0.002), table(lambda w: 1.0, arm="b")]), "learning-rate", 0.15)
    text = tune_text(value)
    assert [t["verdict"] for t in value["transfers"]] == ["pass"]
    assert "a: transformer adamw mup wsd" in text
    assert "pass: the optimum moves" in text
    assert text.count("refused: the lowest loss is at the highest value tried") == len(WIDTHS)
    assert "transfer not tested" in text


def codes(runs: pd.DataFrame) -> dict[str, str]:
    value = tune(runs, "learning-rate", 0.15)
    assert all(f"] {finding['code']}: " in tune_text(value) for finding in value["findings"])
    return {finding["code"]: finding["message"] for finding in value["findings"]}


def test_nothing_to_object_to_in_two_arms_tuned_alike():
    assert codes(pd.concat([table(noise=0.002), table(noise=0.002, arm="b")])) == {}


def test_optima_at_an_edge_and_too_few_of_them_are_objected_to():
    found = codes(table(lambda width: 0.02 if width == 16 else 1.0))
    assert "at an edge of the grid in 3 of 4 bowls (a width 32" in found["rate_at_edge"]
    assert "a: an optimum inside the grid at 1 sizes, fewer than 2" in found["few_optima"]


@pytest.mark.parametrize("rates", [RATES[:4], [0.02 * 8.0**k for k in range(-2, 3)]])
def test_unequal_searches_are_objected_to(rates):
    found = codes(pd.concat([table(), table(arm="b", rates=rates)]))
    assert f"5 over a factor 16 for a, {len(rates)} over a factor" in found["unequal_tuning"]


def test_a_rate_that_does_not_transfer_is_objected_to_with_its_cost():
    found = codes(table(standard, rates=[r / 8 for r in RATES] + list(RATES)[2:]))
    assert "the narrowest model's optimum costs the others up to 0.2" in found["costly_rate"]


def test_cost_is_the_parabola():
    bowl = Bowl({}, {"d_model": 16}, pd.DataFrame(), optimum=0.02, curvature=0.3)
    assert bowl.cost(0.02) == 0
    assert bowl.cost(0.2) == pytest.approx(0.3)


@pytest.mark.slow
def test_the_committed_study_transfers_under_mup_and_not_under_one_rate():
    found = {t.setting["arm"]: t for t in transfers(bowls(read_runs(RESULTS / "lr_transfer.parquet")), limit=0.15)}
    assert [[bowl.width for bowl in found[arm].bowls] for arm in ("mup", "standard")] == [[16, 32, 64, 128]] * 2
    assert found["mup"].verdict == "pass"
    assert abs(found["mup"].drift) < 0.15
    assert found["mup"].drift_error < 0.04
    assert found["mup"].cost < 0.005
    assert found["standard"].verdict == "fail"
    assert found["standard"].drift < -0.5
    assert found["standard"].cost > 0.1


@pytest.mark.slow
def test_the_rates_in_conf_are_the_best_of_those_that_were_tried():
    found = bowls(read_runs(RESULTS / "optimizer_rates.parquet"))
    assert [(bowl.setting["optimizer"], bowl.width) for bowl in found] == [
        ("adamw", 16), ("adamw", 32), ("muon", 16), ("muon", 32)
    ]  # fmt: skip
    for bowl in found:
        (config,) = compose_all([f"optim={bowl.setting['optimizer']}"])
        tried = bowl.runs.groupby("value")["loss"]
        means, seeds = tried.mean(), tried.count().min()
        error = np.sqrt(2 * tried.var().median() / seeds)  # of the difference of two means
        assert not bowl.refused
        assert means[config.optim.learning_rate] < means.min() + 2 * error
        assert (means > means.min() + 2 * error).sum() >= 2  # so that a wrong rate is seen


@pytest.mark.parametrize("column", ["eval_id", "activation", "weight_bits"])
def test_bowls_of_two_experiments_are_kept_apart_and_named(column):
    """Pooled as seeds, the optima of .01 and .04 made one between them."""
    one, other = table(lambda width: 0.01, rates=RATES), table(lambda width: 0.04, rates=RATES, seed=1)
    both = pd.concat([one.assign(**{column: 4}), other.assign(**{column: 32})], ignore_index=True)
    assert {round(bowl.optimum, 4) for bowl in bowls(both) if not bowl.refused} == {0.01, 0.04}
    text = tune_text(tune(both, "learning-rate", 0.15))
    assert f"({column} 4)" in text
    assert f"({column} 32)" in text
    assert column not in tune_text(tune(one.assign(**{column: 4}), "learning-rate", 0.15))
