"""Intervals: what they resample, that they cover, and the profile that checks them."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import f, norm, t

from isoflop.scaling.design.simulate import simulate_points
from isoflop.scaling.fitting import uncertainty
from isoflop.scaling.fitting.draws import intervals
from isoflop.scaling.fitting.fit import FitError, Huber, LeastSquares, fit
from isoflop.scaling.fitting.fit_text import fit_text
from isoflop.scaling.fitting.profile_likelihood import profile
from isoflop.scaling.fitting.refit import refit
from isoflop.scaling.fitting.search.search import search
from isoflop.scaling.fitting.solver.minimise import minimise
from isoflop.scaling.fitting.uncertainty import GROUPS, MOST_CLUSTERS, bootstrap, jackknife, predict
from isoflop.scaling.laws.chinchilla import Chinchilla
from tests.support.fits.calibrated import fit_intervals
from tests.support.fits.hard_fits import SURFACE, collinear, isoflop
from tests.support.fits.simulated_studies import DESIGNS


def noisy(n: int = 20, noise: float = 0.003, seed: int = 0) -> pd.DataFrame:
    frame = isoflop(n)
    loss = SURFACE(frame["n_params"], frame["tokens"]) * np.exp(np.random.default_rng(seed).normal(0, noise, n))
    return frame.assign(loss=loss)


@pytest.fixture(scope="module")
def fitted():
    return fit("chinchilla", noisy(), objective=LeastSquares())


def test_jackknife_is_the_fit_without_each_cluster(fitted):
    draws = jackknife(fitted)
    assert len(draws) == 20
    assert draws.share_converged == 1.0
    without = fit("chinchilla", noisy().drop(index=7), objective=LeastSquares())
    assert draws.laws[7].values() == pytest.approx(without.law.values(), rel=1e-5)


def dense_freedom(draws, values, labels) -> float:
    """Bell and McCaffrey's degrees of freedom, with every matrix (n, n) written out."""
    fitted = draws.fit
    x = (fitted.problem.residuals(fitted.theta[None])[1][0] * np.sqrt(fitted.weights)).T
    hat = x @ np.linalg.inv(x.T @ x) @ x.T
    theta = np.array([fitted.problem.coordinates(law) for law in draws.laws])
    slope = np.linalg.lstsq(theta - theta.mean(axis=0), values - values.mean(), rcond=None)[0]
    moves = []
    for g in range(len(draws)):
        mine = labels == g
        change = np.linalg.inv(x[~mine].T @ x[~mine]) @ x[mine].T
        moves.append(slope @ change @ (np.eye(len(x)) - hat)[mine])
    b = np.array(moves) @ np.array(moves).T
    return float(np.trace(b) ** 2 / np.trace(b @ b))


def test_jackknife_interval_is_the_textbook_formula(fitted):
    draws = jackknife(fitted)
    values = np.log(draws.evaluate("alpha"))
    error = np.sqrt(19 / 20 * np.sum((values - values.mean()) ** 2))
    freedom = dense_freedom(draws, values, np.arange(20))
    assert 2 < freedom < 15  # far fewer than 19: few runs decide an exponent
    half = t.ppf(0.95, freedom) * error
    expected = fitted.law.alpha * np.exp([-half, half])
    assert draws.interval("alpha") == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("fn", ["E", "a", lambda law: law.optimal(1e22).loss])
def test_degrees_of_freedom_are_those_of_unequal_clusters(fn):
    frame = noisy(24).assign(trunk_id=[f"t{k}" for k in [0] * 8 + [1] * 5 + [2, 2, 2, 3, 3, 4, 5, 6, 7, 7, 8]])
    draws = jackknife(fit("chinchilla", frame, objective=LeastSquares()))
    labels = pd.factorize(frame["trunk_id"])[0]
    found = draws.freedom_of(draws.evaluate(fn))
    assert found == pytest.approx(dense_freedom(draws, draws.evaluate(fn), labels), rel=1e-4)
    assert 1 <= found < 8


def test_degrees_of_freedom_of_a_mean_are_clusters_minus_one():
    """One parameter that six clusters of four rows know equally well: chi-square with 5, exactly."""
    frame = isoflop(24).assign(trunk_id=[f"t{k % 6}" for k in range(24)])
    flat = frame.assign(loss=1.8 * np.exp(np.random.default_rng(3).normal(0, 0.01, 24)))
    draws = jackknife(fit("power", flat, objective=LeastSquares(), fixed={"K": 1e-6, "g": 0.3}))
    assert draws.freedom_of(draws.evaluate("E")) == pytest.approx(5)


def test_checkpoints_of_one_run_are_left_out_together():
    table = noisy(15, seed=1).assign(run_id=[f"r{i}" for i in range(15)])
    later = table.assign(tokens=table["tokens"] * 1.5)
    both = pd.concat([table, later], ignore_index=True).drop(columns="flops")
    draws = jackknife(fit("chinchilla", both))
    assert (len(draws), draws.by, draws.fit.n_clusters) == (15, "run_id", 15)
    assert bootstrap(draws.fit, 20).by == "run_id"
    assert bootstrap(draws.fit, 20, by="row").by == "row"


def test_bootstrap_is_reproducible_and_resamples(fitted):
    one, same, other = (bootstrap(fitted, 50, seed=s).frame["alpha"].to_numpy() for s in (0, 0, 1))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
    assert one.std() > 0


def test_intervals_of_any_function_are_equivariant(fitted):
    for draws in (jackknife(fitted), bootstrap(fitted, 200)):
        lo, hi = draws.interval(lambda law: law.optimal(1e22).N)
        assert lo < fitted.law.optimal(1e22).N < hi
        twice = draws.interval(lambda law: 2 * law.optimal(1e22).N)
        assert twice == pytest.approx((2 * lo, 2 * hi))
        wide = draws.interval("alpha", level=0.99)
        narrow = draws.interval("alpha", level=0.5)
        assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_band_is_the_interval_at_each_point(fitted):
    draws, C = jackknife(fitted), np.array([1e19, 1e22])
    lo, hi = draws.band(lambda law: law.optimal(C).N)
    assert (lo[1], hi[1]) == pytest.approx(draws.interval(lambda law: law.optimal(1e22).N))
    assert hi[1] / lo[1] > hi[0] / lo[0]


def test_quantity_that_is_not_positive_stays_linear():
    law = Chinchilla(0.0, 477.8, 2143.4, 0.3473, 0.3672)
    frame = isoflop(35)
    error = np.random.default_rng(3).normal(0, 0.02, 35)
    found = fit("chinchilla", frame.assign(loss=law(frame["n_params"], frame["tokens"]) * np.exp(error)))
    lo, hi = jackknife(found).interval("E")
    assert np.isfinite([lo, hi]).all()
    assert lo <= found.law.E <= hi


@pytest.mark.slow
@pytest.mark.parametrize("floor", [0.0, 0.5])
@pytest.mark.parametrize("level", [0.5, 0.9])
def test_interval_of_the_floor_lies_between_zero_and_the_lowest_loss(floor, level):
    """At 2% noise few studies know it: the fit then ends at 0 and the interval has one end."""
    law, ends = replace(SURFACE, E=floor), []
    for seed in range(6):
        error = np.random.default_rng(seed).normal(0, 0.02, 16)
        frame = isoflop(16)
        table = frame.assign(loss=law(frame["n_params"], frame["tokens"]) * np.exp(error))
        draws = jackknife(fit("chinchilla", table))
        lo, hi = draws.interval("E", level)
        assert 0 <= lo < hi <= table["loss"].min()
        ends.append(draws.one_sided("E"))
        if ends[-1]:
            assert lo == 0
            assert "at its bound, the interval is one-sided" in fit_text(draws.fit, draws)
        wide = bootstrap(draws.fit, 20).interval("E", level)
        assert 0 <= wide[0] < wide[1] <= table["loss"].min()
    assert any(ends) == (floor == 0)


def test_interval_of_a_floor_above_the_lowest_loss_holds_the_estimate():
    """One run far below all others: Huber's loss leaves the law, and its floor, with the others."""
    frame = isoflop(35)
    loss = SURFACE(frame["n_params"], frame["tokens"]) * np.exp(np.random.default_rng(1).normal(0, 0.005, 35))
    table = frame.assign(loss=np.where(np.arange(35) == 20, 0.2, loss))
    draws = jackknife(fit("chinchilla", table))
    estimate = draws.fit.law.E
    assert estimate > table["loss"].min()
    for level in (0.5, 0.9):
        lo, hi = draws.interval("E", level)
        assert 0 <= lo <= estimate <= hi


def test_an_interval_scales_with_its_unit_even_where_fourth_powers_leave_floating_point():
    unit = 1e140
    draws = jackknife(fit("chinchilla", noisy(16, 0.01, 1)))
    plain = draws.interval(lambda law: law.beta - law.alpha, positive=False)
    scaled = draws.interval(lambda law: unit * (law.beta - law.alpha), positive=False)
    assert np.divide(scaled, unit) == pytest.approx(plain, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("draw", [jackknife, lambda found: bootstrap(found, 40)])
@pytest.mark.parametrize("seed", range(4))
def test_the_interval_of_a_run_holds_that_of_the_law(seed, draw):
    """It was by another Student's t: narrower where few runs decide what the law says there."""
    found = fit("chinchilla", noisy(12, seed=seed), objective=LeastSquares())
    N, D = np.meshgrid(np.geomspace(1e7, 1e12, 4), np.geomspace(1e9, 1e13, 4))
    made = predict(found, draw(found), N, D)
    assert (made.lo < made.law_lo).all()
    assert (made.law_hi < made.hi).all()


def test_prediction_interval_is_wider_than_the_law_and_covers_new_runs():
    rng, covered = np.random.default_rng(5), []
    for seed in range(30):
        found = fit("chinchilla", noisy(35, 0.005, seed))
        inside = predict(found, jackknife(found), 1e9, 3e10)
        assert inside.lo < inside.law_lo < inside.loss < inside.law_hi < inside.hi
        fresh = SURFACE(1e9, 3e10) * np.exp(rng.normal(0, 0.005, 200))
        covered.append(np.mean((fresh > inside.lo) & (fresh < inside.hi)))
    assert 0.84 < np.mean(covered) < 0.96
    assert predict(found, jackknife(found), 1e9, 3e10, level=0.5).hi < inside.hi


def test_unknown_quantities_and_too_few_clusters_are_named(fitted):
    with pytest.raises(ValueError, match="no parameter or exponent 'gamma'; there are E, A, B"):
        jackknife(fitted).interval("gamma")
    for name in ("gamma", "value"):
        with pytest.raises(ValueError, match=f"no parameter or exponent '{name}'; there are E, A, B"):
            jackknife(fitted).estimate(name)
    for refitted in (jackknife, bootstrap):
        with pytest.raises(TypeError, match=r"as isoflop.fit\(law, table\) gives it, and this is a DataFrame"):
            refitted(noisy())
    with pytest.raises(ValueError, match="no column 'machine' to resample by"):
        bootstrap(fitted, 10, by="machine")
    with pytest.raises(ValueError, match="it must lie between 0 and 1"):
        jackknife(fitted).interval("alpha", level=90)
    with pytest.raises(ValueError, match="it must be a whole number of at least 2"):
        bootstrap(fitted, 1)
    alone = fit("chinchilla", noisy().assign(run_id="one"))
    with pytest.raises(FitError, match="1 cluster cannot be left out"):
        jackknife(alone)


def test_profile_agrees_with_the_exact_constrained_optimum(fitted):
    found = profile(fitted, "E")
    middle = found.frame.iloc[5]
    held = fit("chinchilla", noisy(), objective=LeastSquares(), fixed={"E": middle["value"]})
    assert middle["objective"] == pytest.approx(held.value, rel=1e-7)
    assert found.lo < found.estimate < found.hi
    at_wall = fit("chinchilla", noisy(), objective=LeastSquares(), fixed={"E": found.hi})
    rise = (at_wall.value - fitted.value) / fitted.value * 15
    assert rise == pytest.approx(found.cut, rel=0.02)
    assert found.cut == pytest.approx(f.ppf(0.9, 1, 20 - 5))


@pytest.mark.slow
def test_profile_of_a_derived_quantity(fitted):
    found = profile(fitted, "a")
    low, high = jackknife(fitted).interval("a")
    assert found.lo < found.estimate < found.hi
    assert 0.3 < (found.hi - found.lo) / (high - low) < 3
    named = profile(fitted, lambda law: law.exponents()["a"])
    assert (named.lo, named.hi) == pytest.approx((found.lo, found.hi), rel=1e-4)


@pytest.mark.slow
def test_profile_is_open_where_the_data_do_not_object():
    frame = collinear(30)
    error = np.random.default_rng(0).normal(0, 0.003, 30)
    found = fit("chinchilla", frame.assign(loss=SURFACE(frame["n_params"], frame["tokens"]) * np.exp(error)))
    exponent = profile(found, "a")
    assert exponent.open_below or exponent.open_above or exponent.hi - exponent.lo > 0.3
    with pytest.raises(ValueError, match="no parameter or exponent 'gamma'"):
        profile(found, "gamma")


@pytest.mark.slow
def test_an_open_profile_widens_the_headline():
    """Tokens per parameter span a factor 4: kappa is anything, and no refit without one run shows it."""
    frame = isoflop(20, width=0.15)
    error = np.random.default_rng(4).normal(0, 0.01, 20)
    table = frame.assign(loss=SURFACE(frame["n_params"], frame["tokens"]) * np.exp(error))
    draws = jackknife(fit("chinchilla-kappa", table))
    curve, headline, alone = profile(draws.fit, "kappa"), intervals(draws)["kappa"], draws.interval("kappa")
    assert curve.open_below or curve.open_above
    assert headline[0] <= min(alone[0], max(curve.lo, 0.05)) + 1e-12
    assert headline[1] == max(alone[1], curve.hi)
    closed = jackknife(fit("chinchilla", table))
    assert intervals(closed)["alpha"] == closed.interval("alpha")


@pytest.mark.slow
def test_refits_of_epoch_reach_the_best_of_fresh_starts(public_data):
    table = pd.read_csv(public_data / "chinchilla_epoch" / "runs.csv")
    found = fit("chinchilla", table[~table["excluded_top5_loss"]], objective=Huber(1e-3))
    counts = np.random.default_rng(0).multinomial(240, np.full(240, 1 / 240), size=30).astype(float)
    warm = refit(found, counts)
    assert warm.converged.all()
    gaps = []
    for i in range(30):
        fresh, _, _ = search(found.problem, counts[i], found.objective)
        gaps.append(warm.value[i] / fresh.value.min() - 1)
    assert np.max(gaps) <= 1e-9
    spread = bootstrap(found, 1000).frame[["alpha", "beta", "E", "a"]].std()
    assert spread.to_numpy() == pytest.approx([0.0152, 0.0207, 0.027, 0.0195], rel=0.2)
    assert set(intervals(jackknife(found))) == {"E", "A", "B", "alpha", "beta", "a", "b", "frontier"}


@pytest.mark.slow
def test_intervals_cover_as_often_as_they_say():
    """Shares of eight quantities in 80 studies, each a draw of its own; intervals .6 or 1.4 times as wide are seen."""
    designs, each = (DESIGNS[3], DESIGNS[7]), 40  # 400 of each design by tests.proofs.calibration
    studies = [fit_intervals(design, study) for design in designs for study in range(each)]
    hits = pd.DataFrame([{"study": i, **vars(one)} for i, study in enumerate(studies) for one in study])
    shares = hits.groupby(["level", "study"])["hit"].mean().unstack()
    mean, slack = shares.mean(axis=1), norm.ppf(0.99) * shares.sem(axis=1)
    for level, least, most in ((0.5, 0.42, 0.58), (0.9, 0.86, 0.96)):
        assert least - slack[level] <= mean[level] <= most + slack[level], level


@pytest.mark.slow
def test_refits_that_still_move_go_on_together_before_any_is_searched_for(monkeypatch):
    table = collinear(12)
    error = np.random.default_rng(0).normal(0, 0.003, 12)
    table["loss"] = SURFACE(table["n_params"], table["tokens"]) * np.exp(error)
    fitted = fit("chinchilla", table, objective=Huber(1e-3))
    searched = []
    monkeypatch.setattr("isoflop.scaling.fitting.refit.MOST_SEARCHED", 3)
    monkeypatch.setattr(
        "isoflop.scaling.fitting.refit.search", lambda *args, **kwargs: searched.append(1) or search(*args, **kwargs)
    )
    weights = np.random.default_rng(1).multinomial(12, np.full(12, 1 / 12), size=40).astype(float)
    usual = minimise(fitted.problem, np.tile(fitted.theta, (40, 1)), delta=1e-3, weights=weights, tolerance=1e-11,
                     damping=1e-3)  # fmt: skip
    ended = refit(fitted, weights)
    assert (~usual.converged).sum() > 10
    assert ended.converged.all()
    assert np.all(ended.value <= usual.value * (1 + 1e-9))
    assert not searched
    monkeypatch.setattr("isoflop.scaling.fitting.search.search.MOST_STEPS", 2)
    hasty = refit(fitted, weights)
    assert len(searched) == 3
    assert hasty.converged.mean() >= usual.converged.mean()
    assert np.all(hasty.value <= usual.value * (1 + 1e-9))


@pytest.mark.slow
def test_many_clusters_are_left_out_in_groups():
    sizes, tokens = np.meshgrid(np.geomspace(1e6, 1e8, 24), np.geomspace(1e8, 1e10, 24))
    table = simulate_points(Chinchilla(1.7, 400.0, 900.0, 0.34, 0.33), sizes.ravel(), tokens.ravel(), noise=0.01)
    fitted = fit("chinchilla", table)
    grouped = jackknife(fitted)
    assert fitted.n_clusters > MOST_CLUSTERS
    assert len(grouped) == GROUPS
    spread = np.std(bootstrap(fitted, 400).evaluate("a"))
    assert 0.75 < float(grouped.standard_error("a")) / spread < 1.33


@pytest.mark.parametrize("by", ["auto", "row"])
def test_a_seed_draws_the_same_resamples_wherever_the_rows_are(by):
    table = simulate_points(SURFACE, [[1e6], [4e6], [16e6]], [[2e7, 8e7, 32e7]], noise=0.02, seed=1)
    table = pd.concat([table, table.assign(loss=table["loss"] * 1.01)], ignore_index=True)
    ends = [
        bootstrap(fit("chinchilla", rows.reset_index(drop=True)), 20, by=by, seed=3).interval("alpha")
        for rows in (table, table[::-1], table.sample(frac=1.0, random_state=0))
    ]
    assert np.ptp(ends, axis=0) == pytest.approx(0.0, abs=1e-5)


def test_groups_of_a_jackknife_are_the_same_wherever_the_rows_are(monkeypatch):
    monkeypatch.setattr(uncertainty, "MOST_CLUSTERS", 10)
    monkeypatch.setattr(uncertainty, "GROUPS", 6)
    table = simulate_points(SURFACE, [[1e6], [4e6], [16e6], [64e6]], [[2e7, 8e7, 32e7]], noise=0.02, seed=1)
    ends = [
        jackknife(fit("chinchilla", rows.reset_index(drop=True))).interval("alpha") for rows in (table, table[::-1])
    ]
    assert np.ptp(ends, axis=0) == pytest.approx(0.0, abs=1e-5)
