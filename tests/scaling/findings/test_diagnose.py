"""Each Finding appears on data made to deserve it, and stays away from data that do not."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom, chi2

from isoflop.scaling.approaches.approaches import approaches
from isoflop.scaling.design.simulate import simulate_points, simulate_study
from isoflop.scaling.findings.diagnose import Finding, diagnose, diagnose_approaches, refused
from isoflop.scaling.findings.finding import Case, likelihood_ratio, variant
from isoflop.scaling.findings.residual_checks import BITS, _in_bits, far_off
from isoflop.scaling.findings.table_checks import protocol
from isoflop.scaling.fitting.fit import Huber, LeastSquares, fit
from isoflop.scaling.fitting.uncertainty import jackknife
from isoflop.scaling.laws.chinchilla import Chinchilla

pytestmark = pytest.mark.usefixtures("kept_searches")

LAW = Chinchilla(E=1.8, A=480.0, B=2100.0, alpha=0.35, beta=0.37)
BENT = Chinchilla(E=0.0, A=1393.6, B=25817.0, alpha=0.641, beta=0.680, kappa=0.355)


def grid(law=LAW, *, noise=0.003, seed=0, sizes=7, repeats=1, **options):
    budgets = np.geomspace(1e18, 1e21, 5)
    n = np.array([law.optimal(c).N * np.geomspace(1 / 4, 4, sizes) for c in budgets])
    n, d = n.ravel(), (budgets[:, None] / 6 / n).ravel()
    return simulate_points(law, np.repeat(n, repeats), np.repeat(d, repeats), noise=noise, seed=seed, **options)


def findings(table, law="chinchilla", *, draws=True, **options) -> dict[str, Finding]:
    fitted = fit(law, table, **options)
    return {f.code: f for f in diagnose(fitted, jackknife(fitted) if draws else None, table)}


@pytest.mark.slow
def test_clean_data_draw_a_warning_at_its_level_and_no_failure():
    """At most .15 of clean studies show one: more than 7 of 20 would be one time in 150."""
    found = [findings(grid(seed=seed, sizes=5, noise=0.01, repeats=2)) for seed in range(20)]
    warned = [{c for c, f in one.items() if f.severity == "warn"} for one in found]
    assert not [c for one in found for c, f in one.items() if f.severity == "fail"]
    assert sum(map(bool, warned)) <= 7, warned


@pytest.mark.slow
def test_worst_first_with_numbers_and_remedy(study_table):
    fitted = fit("chinchilla", study_table)
    found = diagnose(fitted, jackknife(fitted), study_table)
    order = ["fail", "warn", "info"]
    assert [f.severity for f in found] == sorted((f.severity for f in found), key=order.index)
    for f in found:
        assert f.message
        assert f.remedy
        assert str(f).startswith(f"[{f.severity}] {f.code}: ")


@pytest.mark.slow
def test_fixed_tokens_per_parameter_is_collinear_and_refuses_the_optimum():
    n = np.geomspace(1e7, 1e9, 24)
    found = findings(simulate_points(LAW, n, 20 * n, noise=0.003))
    assert found["collinear"].severity == "fail"
    assert "4 times fewer and 4 times more tokens" in found["collinear"].remedy
    assert refused(found.values()) == ("alpha", "beta", "a", "b")
    near = findings(simulate_points(LAW, np.repeat(n, 2), np.concatenate([[20 * x, 60 * x] for x in n]), noise=0.003))
    assert "narrow_tokens_per_param" in near
    assert refused(near.values()) == ()


@pytest.mark.slow
def test_a_floor_at_its_bound_is_not_identified():
    found = findings(grid(BENT), "chinchilla-kappa")
    assert "E is not identified" in found["unidentified"].message
    assert "larger budget" in found["unidentified"].remedy


@pytest.mark.slow
def test_a_floor_that_rests_on_kappa_is_not_identified_either():
    table = simulate_study(BENT, sizes=(8, 12, 16, 20, 24, 32, 40, 48, 56, 64, 80), noise=0.008, seed=1)
    found = findings(table)
    assert "kappa" in found["kappa_matters"].message
    assert "rests on kappa = 1" in found["unidentified"].message


@pytest.mark.slow
def test_a_floor_that_the_data_hold_is_left_in_peace():
    assert "unidentified" not in findings(grid())
    assert "unidentified" not in findings(grid(), "chinchilla-kappa")


@pytest.mark.slow
def test_kappa_needs_spread_in_tokens_per_parameter():
    n = np.repeat(np.geomspace(1e7, 1e9, 6), 2)
    found = findings(simulate_points(LAW, n, n * np.tile([15.0, 25.0], 6), noise=0.01), "chinchilla-kappa", draws=False)
    assert "unidentified" in found


@pytest.mark.slow
def test_a_size_that_does_not_matter_puts_its_amplitude_at_a_bound():
    n, d = np.meshgrid(np.geomspace(1e7, 1e9, 5), np.geomspace(1e9, 1e11, 5))
    table = simulate_points(lambda N, D: 2 + 0.0 * N + 1e3 * D**-0.35, n.ravel(), d.ravel(), noise=0.002)
    found = findings(table, draws=False)
    assert {"at_bound", "ill_conditioned", "not_converged", "few_starts_agree"} & set(found)


@pytest.mark.slow
def test_few_points_and_clusters_are_counted():
    table = grid(sizes=7).iloc[[0, 5, 9, 14, 20, 26, 33]]
    found = findings(table, draws=False)
    assert "7 points for 5 parameters" in found["few_points"].message
    assert "7 independent clusters (by row) for 5" in found["few_clusters"].message
    assert "8 more" in found["few_clusters"].remedy


@pytest.mark.slow
def test_a_tiny_delta_leaves_few_inliers():
    found = findings(grid(noise=0.01), objective=Huber(1e-5))
    assert "few_inliers" in found
    assert "--delta auto" in found["few_inliers"].remedy


@pytest.mark.slow
def test_outliers_are_listed_and_make_least_squares_depend_on_delta():
    table = grid(noise=0.001)
    table.loc[3, "loss"] *= 1.15
    found = findings(table)
    assert "1 of 35 points" in found["outliers"].message
    assert "row 4 (+1" in found["outliers"].message
    at_the_edge = grid(noise=0.001)
    at_the_edge.loc[0, "loss"] *= 1.05
    leaning = findings(at_the_edge, objective=LeastSquares())
    assert "sensitive_to_rows" in leaning or "sensitive_to_delta" in leaning


@pytest.mark.slow
def test_a_run_5_sd_high_is_named_and_no_warning():
    """Noise of heavy tails has such runs, too; among them a run 15 sd off is a warning."""
    table = grid(noise=0.01)
    table.loc[10, "loss"] *= 1.05
    found = findings(table, draws=False)["outliers"]
    assert (found.severity, "row 11 (+" in found.message) == ("info", True)
    table.loc[10, "loss"] *= 1.10
    assert findings(table, draws=False)["outliers"].severity == "warn"


def test_one_wild_run_is_no_lack_of_fit():
    table = grid(noise=0.01)
    again = table.iloc[[3, 10, 11, 17]].assign(loss=lambda t: t["loss"] * [1.01, 0.99, 1.005, 0.992])
    table = pd.concat([table, again], ignore_index=True)
    table.loc[24, "loss"] *= 1.3
    found = findings(table, draws=False)
    assert found["outliers"].severity == "warn"
    assert "lack_of_fit" not in found


@pytest.mark.slow
def test_far_rows_are_found_at_their_level_and_with_the_power_that_is_stated():
    rng = np.random.default_rng(0)
    columns = rng.normal(size=(43, 5))
    clean = rng.normal(size=(200, 43))
    level = np.mean([len(far_off(columns, y)) > 0 for y in clean])
    assert binom.ppf(0.001, 200, 0.08) / 200 <= level <= binom.ppf(0.999, 200, 0.1) / 200
    high, low = (
        np.array([7 in far_off(columns, y + side * (np.arange(43) == 7)) for y in clean[:100]]) for side in (5, -5)
    )
    assert high.mean() > 0.85
    assert 0.7 < low.mean() < high.mean()  # most of the level is for losses that are too high
    masked = clean[:50] + 7 * np.isin(np.arange(43), [3, 20, 31])
    assert np.mean([set(far_off(columns, y)) >= {3, 20, 31} for y in masked]) > 0.9


@pytest.mark.slow
def test_losses_in_bits_among_nats_are_mixed_units():
    table = grid(noise=0.002)
    table.loc[[2, 17, 30], "loss"] /= np.log(2)
    assert "3 points" in findings(table)["mixed_units"].message


@pytest.mark.parametrize(("scale", "window"), [(0.001, 0.02), (0.015, 0.03), (0.2, 0.05)])
@pytest.mark.parametrize("side", [1, -1])
def test_losses_in_bits_lie_near_the_factor_on_both_sides_of_it(scale, window, side):
    for off, seen in ((0.95, 3), (1.05, 0), (-0.95, 3), (-1.05, 0)):
        r = np.zeros(20)
        r[[2, 7, 13]] = side * (BITS + off * window)
        assert _in_bits(r, scale, np.abs(r) > 0.1).sum() == seen


@pytest.mark.slow
def test_a_loss_column_that_sounds_like_bits_is_questioned():
    table = grid()
    table.attrs["mapping"] = {"loss": "val_bpb"}
    assert "val_bpb" in findings(table)["loss_in_bits"].message
    table.attrs["loss_unit"] = "nats/byte"  # read_table converted it
    assert "loss_in_bits" not in findings(table)


@pytest.mark.slow
def test_a_wrong_form_leaves_a_trend():
    assert "residual_trend" in findings(grid(BENT, noise=0.001))


@pytest.mark.slow
def test_lack_of_fit_needs_replicates_and_a_wrong_form():
    assert "no_replicates" in findings(grid())
    right = findings(grid(repeats=3))
    assert "lack_of_fit" not in right
    assert "no_replicates" not in right
    wrong = findings(grid(BENT, noise=0.001, repeats=3))
    assert "times the seed noise" in wrong["lack_of_fit"].message


@pytest.mark.slow
def test_narrow_spans_and_few_sizes():
    table = simulate_points(LAW, np.repeat([1e8, 2e8, 4e8], 6), np.tile(np.geomspace(2e9, 2e10, 6), 3), noise=0.003)
    found = findings(table)
    assert found["few_sizes"].severity == "fail"
    assert "decades" in found["narrow_span"].message


@pytest.mark.slow
def test_duplicate_rows_are_counted_and_kept():
    table = grid()
    table = pd.concat([table, table.iloc[[3, 4]]], ignore_index=True)
    found = findings(table)
    assert "4 rows repeat another row exactly (rows 4, 5, 36, 37)" in found["duplicate_rows"].message


@pytest.mark.slow
def test_checkpoints_without_a_run_are_questioned():
    sizes = np.repeat(np.geomspace(1e7, 1e9, 6), 8)
    table = simulate_points(LAW, sizes, sizes * np.tile(np.geomspace(5, 200, 8), 6), noise=0.003)
    assert "--map run_id=COLUMN" in findings(table)["rows_not_runs"].remedy
    named = table.assign(run_id=[f"r{i // 8}" for i in range(len(table))])
    assert "rows_not_runs" not in findings(named)
    assert "rows_not_runs" not in findings(grid())


@pytest.mark.slow
def test_flops_that_do_not_belong_to_the_sizes():
    table = grid()
    table["flops"] = 6 * table["n_params"] * table["tokens"]
    assert "mixed_conventions" not in findings(table)
    table.loc[table.index[::3], "flops"] *= 3
    assert "mixed_conventions" in findings(table)


@pytest.mark.slow
def test_a_budget_without_a_minimum_names_what_to_train():
    table = grid()
    table["flops"] = 6 * table["n_params"] * table["tokens"]
    lowest_budget = table["flops"] < 2e18
    table = table[~lowest_budget | (table["n_params"] < LAW.optimal(1e18).N * 0.9)]
    extra = simulate_points(LAW, LAW.optimal(1e18).N * np.array([0.3, 0.25, 0.2]), 1e9)
    extra["tokens"] = 1e18 / 6 / extra["n_params"]
    extra["loss"] = LAW(extra["n_params"], extra["tokens"])
    extra["flops"] = 1e18
    found = findings(pd.concat([table, extra], ignore_index=True))
    assert "add larger ones" in found["no_interior_minimum"].message
    assert "1e+18" in found["no_interior_minimum"].message


@pytest.mark.slow
@pytest.mark.parametrize(
    ("column", "value", "code", "severity"),
    [
        ("eval_id", "another", "mixed_conventions", "fail"),
        ("optimizer", "sgd", "mixed_experiment", "warn"),
        ("corpus_id", "another", "mixed_experiment", "warn"),
        ("horizon_tokens", 10**12, "unfinished_schedule", "fail"),
        ("warmup_tokens", 10**12, "long_warmup", "warn"),
        ("epochs", 9.0, "repeated_data", "fail"),
        ("step", 5, "few_steps", "fail"),
        ("code_version", "", "no_provenance", "warn"),
        ("engine", "c+torch", "mixed_engines", "warn"),
        ("vocab_size", 8, "mixed_conventions", "fail"),
    ],
)
def test_protocol_of_a_run_table(study_table, column, value, code, severity):
    table = study_table.copy()
    run = table.loc[table["final"] & (table["n_params_total"] > 20_000), "run_id"].iloc[0]
    assert code not in {f.code for f in _healthy(table)} or code == "few_steps"
    table.loc[table["run_id"] == run, column] = value
    fitted = fit("chinchilla", table)
    assert (code, severity) in {(f.code, f.severity) for f in diagnose(fitted, None, table)}


@pytest.mark.parametrize(
    ("column", "fine", "wrong", "code", "severity"),
    [
        ("warmup_tokens", 1_000, 1_001, "long_warmup", "warn"),
        ("horizon_tokens", 10_000, 10_001, "unfinished_schedule", "fail"),
        ("step", 300, 299, "few_steps", "fail"),
        ("step", 1_000, 999, "few_steps", "warn"),
        ("epochs", 1.0, 1.001, "repeated_data", "warn"),
        ("epochs", 4.0, 4.001, "repeated_data", "fail"),
    ],
)
def test_the_thresholds_of_the_protocol(study_table, column, fine, wrong, code, severity):
    """One run of 10,000 tokens at the edge of what is objected to, and beyond."""
    calm = study_table[study_table["final"]].assign(
        tokens=10_000, horizon_tokens=10_000, warmup_tokens=1_000, epochs=1.0, step=1_000
    )
    fitted = fit("chinchilla", study_table)
    reported = {}
    for value in (fine, wrong):
        table = calm.copy()
        table.loc[table.index[3], column] = value
        reported[value] = {(f.code, f.severity) for f in protocol(Case(fitted, None, table, None, 0.9))}
    assert (code, severity) not in reported[fine]
    assert (code, severity) in reported[wrong]


@pytest.mark.slow
def test_engines_that_nobody_noted_are_no_mixture(study_table):
    fitted = fit("chinchilla", study_table)
    for engines, mixed in ((["c"], False), (["c", ""], False), ([""], False), (["c", "torch", ""], True)):
        number = study_table["run_id"].factorize()[0]
        table = study_table.assign(engine=np.resize(engines, number.max() + 1)[number])
        found = {f.code: f.message for f in diagnose(fit("chinchilla", table), None, table)}
        assert ("mixed_engines" in found) == mixed
        assert not mixed or ("by c" in found["mixed_engines"] and "by torch" in found["mixed_engines"])
    assert "mixed_engines" not in {f.code for f in diagnose(fitted, None, study_table.drop(columns="engine"))}


@pytest.mark.slow
def test_parts_of_one_corpus_are_one_experiment_to_the_law_of_repeats(study_table):
    final = study_table["final"] & (study_table["n_params_total"] > 20_000)
    table = study_table.assign(corpus_id=np.where(final, "part", "whole"))
    table["unique_tokens"] = np.where(final, 500_000, 10_000_000)
    table["epochs"] = table["tokens"] / table["unique_tokens"]
    codes = {
        law: {f.code for f in diagnose(fit(law, table), None, table)} for law in ("chinchilla", "data-constrained")
    }
    assert {"mixed_experiment", "repeated_data"} <= codes["chinchilla"]
    assert not {"mixed_experiment", "mixed_conventions", "repeated_data"} & codes["data-constrained"]


def _healthy(table):
    calm = table.assign(warmup_tokens=0, epochs=0.5, step=table["step"] + 5000)
    return diagnose(fit("chinchilla", calm), None, calm)


@pytest.mark.slow
def test_losses_near_the_uniform_guess(study_table):
    table = study_table.assign(vocab_size=7)  # ln 7 = 1.95
    found = {f.code: f for f in diagnose(fit("chinchilla", table), None, table)}
    assert "saturating" in found["near_uniform"].remedy


@pytest.mark.slow
def test_unfinished_runs_are_a_finding(study_table):
    table = study_table.copy()
    run = table["run_id"].iloc[0]
    table.loc[table["run_id"] == run, "state"] = "diverged"
    found = {f.code: f for f in diagnose(fit("chinchilla", table), None, table)}
    assert run in found["runs_left_out"].message


@pytest.mark.slow
def test_extrapolation_and_rounded_constants():
    fitted = fit("chinchilla", grid())
    assert "extrapolates" not in {f.code for f in diagnose(fitted, target_flops=5e21)}
    by = {f.code: f for f in diagnose(fitted, target_flops=1e24)}
    assert by["extrapolates"].severity == "fail"
    rounded = fit("chinchilla", grid(), fixed={"A": 406.0, "B": 411.0})
    assert "A = 406" in {f.code: f for f in diagnose(rounded)}["rounded_constants"].message


@pytest.mark.slow
def test_an_absurd_exponent_is_noted():
    found = findings(grid(Chinchilla(E=1.8, A=4e7, B=2100.0, alpha=1.2, beta=0.37)))
    assert "alpha = 1.2" in found["unusual_exponent"].message


def test_a_law_of_compute_alone_is_checked_for_what_applies():
    c = np.geomspace(1e15, 1e19, 12)
    table = pd.DataFrame({"flops": c, "loss": 1.5 + 100 * c**-0.12})
    table["loss"] *= np.exp(np.random.default_rng(0).normal(0, 0.002, 12))
    fitted = fit("power", table)
    codes = {f.code for f in diagnose(fitted, jackknife(fitted), table, target_flops=1e21)}
    assert "collinear" not in codes
    assert "extrapolates" in codes


def test_the_likelihood_ratio_is_the_f_statistic_of_least_squares():
    table = grid()
    full = fit("chinchilla", table, objective=LeastSquares())
    restricted = variant(full, fixed={"E": 1.7})
    expected = (restricted.value - full.value) / (full.value / (len(table) - 5))
    assert likelihood_ratio(full, restricted) == pytest.approx(expected, rel=1e-9)
    assert likelihood_ratio(full, full) == 0.0


@pytest.mark.slow
@pytest.mark.parametrize("delta", ["auto", 1e-3])
def test_the_likelihood_ratio_is_chi_square_under_hubers_objective(delta):
    ratios = []
    for seed in range(36):
        full = fit("chinchilla", grid(seed=seed, sizes=9), objective=Huber(delta), fixed={"alpha": LAW.alpha})
        ratios.append(likelihood_ratio(full, variant(full, fixed={"E": LAW.E})))
    assert 0.65 < np.mean(ratios) < 1.5  # expectation 1, standard error 0.24
    for share in (0.1, 0.5, 0.9):  # of chi-square above its quantile, within what 36 draws leave one time in 500
        above = np.sum(np.array(ratios) > chi2.isf(share, 1))
        assert binom.ppf(0.001, 36, share) <= above <= binom.ppf(0.999, 36, share)


@pytest.mark.slow
def test_findings_of_the_approaches(study_table):
    assert diagnose_approaches(approaches(study_table)) == []
    two = study_table[study_table["budget_flops"] < 2e11]
    assert {f.code for f in diagnose_approaches(approaches(two))} >= {"few_minima"}


@pytest.mark.slow
def test_a_law_that_misses_the_largest_budget_is_told():
    found = findings(grid(BENT, repeats=2))
    assert found["hold_out_missed"].severity == "warn"
    assert "isoflop compare" in found["hold_out_missed"].remedy
    table = grid(BENT, repeats=2)
    flops = table["n_params"] * table["tokens"]
    largest = (flops > 0.9 * flops.max()).to_numpy()
    others = variant(fit("chinchilla", table), rows=~largest, delta="auto")
    missed = np.log(table["loss"] / others.law(table["n_params"], table["tokens"]))[largest].mean()
    assert f"lie {np.expm1(missed):+.2%} off the law of the others" in found["hold_out_missed"].message
    assert "hold_out_missed" not in findings(grid(BENT, repeats=2), "chinchilla-kappa")


@pytest.mark.slow
def test_a_data_exponent_that_depends_on_the_size_is_told():
    table = grid(noise=0.001)
    u, v = (np.log(table[name] / np.exp(np.log(table[name]).mean())) for name in ("n_params", "tokens"))
    drifting = table.assign(loss=table["loss"] * np.exp(0.004 * u * v))
    assert "exponents_drift" in findings(drifting, draws=False)
    assert "exponents_drift" not in findings(table, draws=False)
