"""Noise that falls with size: seen where it does, with the level stated, and used by the fit and what follows it."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t as student

from isoflop.scaling.findings.finding import variant
from isoflop.scaling.fitting.fit import Huber, LeastSquares, fit
from isoflop.scaling.fitting.fit_text import fit_text
from isoflop.scaling.fitting.noise_model import (
    MOST_FALLING,
    SHARED_PRIOR,
    falling_power,
    shared_by_cluster,
    shared_by_sizes,
)
from isoflop.scaling.fitting.objective import huber
from isoflop.scaling.fitting.uncertainty import jackknife, predict
from isoflop.scaling.selection.rolling_origins import forecast
from isoflop.scaling.table.conventions import points
from tests.support.fits.simulated_studies import DESIGNS, TRUTH

CONSTANT, FALLING = DESIGNS[3], DESIGNS[5]


def _residuals(rng, power, rows=40):
    log_n = np.linspace(0, 4, 10)[np.arange(rows) % 10]
    design = np.stack([np.ones(rows), log_n, rng.normal(size=rows)], axis=1)
    noise = rng.normal(size=rows) * np.exp(-power * log_n)
    return noise, design, log_n, np.arange(rows)


def test_the_correlation_within_clusters_is_that_of_the_residuals_and_0_without_repeats():
    rng = np.random.default_rng(0)
    design, label = np.stack([np.ones(120), rng.normal(size=120)], axis=1), np.arange(120) // 4
    found = {}
    for share in (0.0, 0.5, 0.8):
        noise = np.sqrt(share) * rng.normal(size=30)[label] + np.sqrt(1 - share) * rng.normal(size=120)
        found[share] = shared_by_cluster(noise - design @ np.linalg.lstsq(design, noise)[0], design, label)
    assert found[0.0] < 0.15
    assert found[0.5] == pytest.approx(0.5, abs=0.15)
    assert found[0.8] == pytest.approx(0.8, abs=0.1)
    assert shared_by_cluster(noise, design, np.arange(120)) == 0.0
    assert shared_by_cluster(noise[:6], design[:6], label[:6]) == 0.0  # two rows to spare


@pytest.mark.slow
def test_the_power_is_estimated_where_noise_falls_and_0_where_it_does_not():
    """At most .05 of constant studies, one-sided; nearly all that fall by a factor 5 over the sizes."""
    rng = np.random.default_rng(0)
    constant = np.array([falling_power(*_residuals(rng, 0.0)) for _ in range(150)])
    falling = np.array([falling_power(*_residuals(rng, 0.4)) for _ in range(60)])
    assert np.mean(constant > 0) <= 0.10  # 15 of 150 at a level of .05: p = .006
    assert np.mean(falling > 0) >= 0.85
    assert np.median(falling[falling > 0]) == pytest.approx(0.4, abs=0.08)
    assert falling.max() <= MOST_FALLING


def test_noise_that_grows_with_size_is_not_modelled():
    rng = np.random.default_rng(1)
    assert max(falling_power(*_residuals(rng, -0.4)) for _ in range(20)) == 0


def test_few_rows_or_sizes_tell_nothing():
    rng = np.random.default_rng(2)
    residual, design, log_n, label = _residuals(rng, 0.6)
    assert falling_power(residual[:10], design[:10], log_n[:10], label[:10]) == 0
    assert falling_power(residual, design, 0.2 * log_n, label) == 0


def test_one_wild_run_of_a_small_model_is_no_variance_function():
    rng = np.random.default_rng(3)
    found = []
    for _ in range(40):
        residual, design, log_n, label = _residuals(rng, 0.0)
        residual[0] = 12.0
        found.append(falling_power(residual, design, log_n, label) > 0)
    assert np.mean(found) <= 0.25


@pytest.fixture(scope="module")
def falling():
    return fit("chinchilla", FALLING.study(np.random.default_rng(5)))


def test_the_fit_of_such_a_study_weighs_its_runs_by_their_noise(falling):
    assert falling.falls == pytest.approx(0.35, abs=0.2)
    n = falling.points.frame["n_params"].to_numpy()
    relative = (n / np.exp(np.log(n).mean())) ** -falling.falls
    assert falling.weights == pytest.approx(relative**-2)
    assert falling.deltas == pytest.approx(falling.delta * relative)
    # Huber's function of the residuals over their standard deviations
    scaled = falling.problem.residuals(falling.theta[None])[0][0] / relative
    assert falling.value == pytest.approx(float(huber(scaled, np.ones(len(n)), falling.delta)), rel=1e-9)
    given = fit("chinchilla", falling.points, objective=Huber(falling.delta), falls=falling.falls)
    assert given.law.values() == pytest.approx(falling.law.values(), rel=1e-6)


def test_an_explicit_objective_or_weights_leave_the_noise_constant(falling):
    for objective in (Huber(1e-3), LeastSquares()):
        assert fit("chinchilla", falling.points, objective=objective).falls == 0
    weights = np.linspace(1, 2, len(falling.points))
    assert fit("chinchilla", falling.points, weights=weights).falls == 0


def test_a_study_of_constant_noise_is_fitted_as_with_falls_0():
    table = CONSTANT.study(np.random.default_rng(0))
    auto, constant = fit("chinchilla", table), fit("chinchilla", table, falls=0.0)
    assert auto.falls == 0
    assert auto.spread == 1.0
    assert auto.law == constant.law
    assert auto.value == constant.value


@pytest.mark.slow
def test_estimates_are_closer_to_the_truth_where_noise_falls():
    """The same studies with and without: the error of the exponent of N* shrinks."""
    errors = []
    for seed in range(12):
        table = FALLING.study(np.random.default_rng(100 + seed))
        both = fit("chinchilla", table, falls=0.35), fit("chinchilla", table, falls=0.0)
        errors.append([f.exponents()["a"] - TRUTH.exponents()["a"] for f in both])
    weighed, plain = np.std(errors, axis=0)
    assert weighed < 0.85 * plain


def test_forecasts_have_the_noise_of_their_size(falling):
    frame = falling.points.frame.iloc[[0]].assign(n_params=1e11, tokens=1e12)
    near = falling.points.frame.iloc[[int(falling.points.frame["n_params"].argmin())]]
    assert falling.noise_at(frame)[0] < 0.5 * falling.noise_at(near)[0]
    law, run = forecast(falling, frame, noise=False).sd, forecast(falling, frame).sd
    assert run[0] == pytest.approx(np.hypot(law[0], falling.noise_at(frame)[0]))
    reported = predict(falling, jackknife(falling), [1e8, 1e11], [1e10, 1e12])
    assert reported.noise[1] == pytest.approx(falling.noise_at(frame)[0])
    assert reported.noise[0] > reported.noise[1]


def test_a_variant_keeps_the_noise_model_and_text_and_json_name_it(falling):
    assert variant(falling, free=("kappa",)).falls == falling.falls
    reported = f"falling as N^-{falling.falls:.2f}"
    assert reported in str(falling)
    assert reported in fit_text(falling)
    assert falling.to_dict()["noise_falls"] == falling.falls


def _likely(design, studies):
    """For each study, the probability that sizes share noise, and its jackknife."""
    draws = [jackknife(fit("chinchilla", design.study(np.random.default_rng([s, 7])))) for s in range(studies)]
    return np.array([1 - d._shared[0][0] for d in draws]), draws


@pytest.mark.slow
def test_noise_that_sizes_share_is_seen_and_widens_the_intervals():
    seen, draws = _likely(CONSTANT.sharing(), 8)
    assert np.median(seen) > 0.8
    widened = draws[int(np.argmax(seen))]
    values = widened.evaluate("a")
    plain = np.sqrt((len(values) - 1) * np.mean((values - values.mean()) ** 2))
    assert 1.0 < widened.standard_error("a") / plain < 4
    curve = widened.standard_error(lambda law: np.log(law.optimal(np.array([1e20, 1e22])).N))
    assert curve.shape == (2,)


@pytest.mark.slow
def test_independent_noise_widens_little():
    seen, draws = _likely(CONSTANT, 8)
    assert np.median(seen) < SHARED_PRIOR / 2
    alone = draws[int(np.argmin(seen))]
    values = alone.evaluate("a")
    plain = np.sqrt((len(values) - 1) / len(values) * np.sum((values - values.mean()) ** 2))
    assert plain <= alone.standard_error("a") < 1.1 * plain


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_an_interval_is_of_every_correlation_by_its_probability(level):
    """The two ends hold the level of a mixture of Student's t, one for each correlation."""
    draws = jackknife(fit("chinchilla", DESIGNS[1].sharing().study(np.random.default_rng(5))))
    likely, covariance = draws._shared
    assert likely.sum() == pytest.approx(1)
    assert 0.1 < likely[1:].sum() < 0.9
    values = np.log(draws.evaluate("alpha"))
    theta = np.array([draws.fit.problem.coordinates(law) for law in draws.laws])
    slope = np.linalg.lstsq(theta - theta.mean(axis=0), values - values.mean(), rcond=None)[0]
    variance = np.einsum("p,kpq,q->k", slope, covariance, slope)
    error = np.sqrt((len(values) - 1) / len(values) * np.sum((values - values.mean()) ** 2))
    scale = error * np.sqrt(np.maximum(variance / variance[0], 1.0))
    lo, hi = np.log(draws.interval("alpha", level)) - np.log(draws.fit.law.alpha)
    assert hi == pytest.approx(-lo)
    below = likely @ student.cdf(hi / scale, float(draws.freedom_of(values)))
    assert below == pytest.approx(0.5 + level / 2, abs=1e-6)
    assert draws.standard_error("alpha") > draws.standard_error_alone("alpha")


def test_seeds_do_not_share_noise_with_one_another():
    """One seed for every size: nothing can be shared, whatever the errors are."""
    rng = np.random.default_rng(4)
    residual, design, log_n, label = _residuals(rng, 0.0)
    frame = pd.DataFrame({"n_params": np.exp(log_n), "flops": 1e18, "seed": label})
    smooth = np.sin(log_n)
    likely, covariance = shared_by_sizes(smooth, design[:, :1], frame, label)
    assert likely[0] == pytest.approx(1 - SHARED_PRIOR)  # no correlation changes anything
    assert covariance == pytest.approx(np.broadcast_to(covariance[0], covariance.shape))
    one = frame.assign(seed=0).iloc[:40]
    likely, covariance = shared_by_sizes(smooth + 0.01 * residual, design[:, :1], one, label)
    alone, shared = covariance[0], covariance[np.argmax(likely)]
    assert likely[0] < 1e-3
    assert alone == pytest.approx(alone[0, 0] * np.eye(40), abs=1e-9)
    assert np.diag(shared) == pytest.approx(np.full(40, shared[0, 0]))
    assert shared[0, 1] > shared[0, 2] > 0


def test_an_explicit_objective_keeps_the_jackknife():
    draws = jackknife(fit("chinchilla", CONSTANT.sharing().study(np.random.default_rng(3)), objective=Huber(1e-3)))
    assert draws._shared is None


def test_noise_is_not_shared_where_every_size_reads_its_own_order_of_the_data():
    data = points(CONSTANT.sharing().study(np.random.default_rng([0, 7])))
    assert jackknife(fit("chinchilla", data))._shared is not None
    assert jackknife(fit("chinchilla", replace(data, orders_differ=True)))._shared is None


def test_the_run_tables_of_version_2_read_an_order_of_the_data_a_size(study_table):
    assert points(study_table.assign(engine="c")).orders_differ
    assert not points(study_table.assign(engine="")).orders_differ
    assert not points(study_table.drop(columns="engine", errors="ignore")).orders_differ
