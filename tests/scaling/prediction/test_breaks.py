"""Exponents that change: a break is found where there is one, left open where the data say nothing, and widens."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize

from isoflop.scaling.fitting.fit import fit
from isoflop.scaling.laws.axes.data_constrained import Repeats
from isoflop.scaling.laws.chinchilla import Chinchilla
from isoflop.scaling.prediction.breaks import (
    CHANGE,
    DATA,
    DRIFT,
    LEAST,
    PLACES,
    PRIOR,
    SIZE,
    Broken,
    _Rows,
    _tried,
    breaks,
    probabilities,
    runs_with_breaks,
)
from isoflop.scaling.prediction.forecast import Target, forecast_loss
from isoflop.scaling.selection.averaging import Forecast, average
from tests.support.fits.simulated_studies import (
    DESIGNS,
    TRUTH,
    Noise,
    data_exponent_drifts,
    optimum,
    outside_the_stack,
)

BENT = replace(DESIGNS[3], noise=Noise(0.003), largest=1e12)
LAW = Chinchilla(1.8, 400.0, 2000.0, 0.34, 0.36)


@pytest.fixture(scope="module")
def bent():
    return fit("chinchilla", BENT.study(np.random.default_rng(1), outside_the_stack))


@pytest.fixture(scope="module")
def straight():
    return fit("chinchilla", DESIGNS[3].study(np.random.default_rng(1)))


@pytest.fixture(scope="module")
def drifting():
    return fit("chinchilla", BENT.study(np.random.default_rng(1), data_exponent_drifts))


def test_a_broken_law_has_another_exponent_above_its_place():
    law = Broken(LAW, np.array([SIZE, DATA]), np.array([18.0, 23.0]), np.array([0.4, -0.3]), 0.0)
    e = np.e
    below, above = law(np.exp(17.0), np.exp(22.0)), law(np.exp(20.0), np.exp(25.0))
    assert below == pytest.approx(LAW(np.exp(17.0), np.exp(22.0)))
    assert above[0] == pytest.approx(LAW(np.exp(18.0) * e ** (2 * 0.6), np.exp(25.0)))
    assert above[1] == pytest.approx(LAW(np.exp(20.0), np.exp(23.0) * e ** (2 * 1.3)))


def test_a_drifting_law_has_another_exponent_of_data_at_every_size():
    law = Broken(LAW, np.array([DRIFT]), np.array([21.0]), np.array([0.1]), 18.0)
    pivot = np.exp(21.0)
    for size, data in ((18.0, 25.0), (20.0, 21.0), (20.0, 25.0), (15.0, 19.0)):
        beta = LAW.beta * np.exp(-0.1 * (size - 18.0))
        here = LAW.E + LAW.A * np.exp(-LAW.alpha * size) + LAW.B * pivot**-LAW.beta * np.exp(-beta * (data - 21.0))
        assert law(np.exp(size), np.exp(data)) == pytest.approx([here], rel=1e-12)


def test_repeats_are_worth_the_same_to_several_laws_at_once():
    laws = [replace(LAW, alpha=a) for a in (0.3, 0.34)]
    both = replace(LAW, alpha=np.array([0.3, 0.34]))
    n, d = np.array([1e9, 2e9]), np.array([9e10, 4e10])
    alone = [float(Repeats(law, 1e10)(*run)) for law, run in zip(laws, zip(n, d, strict=True), strict=True)]
    assert Repeats(both, 1e10)(n, d) == pytest.approx(alone, rel=1e-12)


def test_a_break_is_found_where_there_is_one(bent):
    found = breaks(bent)
    best = np.argmax(found.odds)
    assert found.straight < 0.01
    assert found.kind[best] == SIZE
    assert abs(found.place[best] - np.log(3e4)) < 0.4
    assert 0.25 < found.change[best] < 0.65  # from .40 to .22
    assert found.odds.sum() + found.straight == pytest.approx(1, abs=0.05)


def test_a_drift_is_found_where_there_is_one(drifting):
    found = breaks(drifting)
    assert found.straight < 0.05
    assert found.odds[found.kind == DRIFT].sum() > 0.9
    best = np.argmax(found.odds)
    assert -0.06 < found.change[best] < -0.02  # the exponent grows as N^.04
    assert found.middle == pytest.approx(np.log(drifting.points.frame["n_params"]).mean(), rel=1e-9)


def test_data_that_say_nothing_leave_the_odds_as_they_were(straight):
    found = breaks(straight)
    assert (1 - PRIOR) / 2 < found.straight < 2 * (1 - PRIOR)
    assert found.odds.sum() + found.straight == pytest.approx(1, abs=(2 * PLACES + 3) * LEAST)
    last = np.argmax(np.where(found.kind == SIZE, found.place, 0.0))  # at the end of the data the prior is all there is
    assert found.error[last] == pytest.approx(CHANGE, rel=0.01)
    assert found.odds[last] / found.straight == pytest.approx(PRIOR / (1 - PRIOR) / 3 / PLACES, rel=0.05)
    assert found.prior.sum() == pytest.approx(PRIOR)
    assert found.missed.shape == (len(found.prior), len(straight.points))


def test_at_a_shift_of_the_break_the_other_parameters_fit_best(straight):
    found = breaks(straight)
    units = straight.problem.units
    place = found.place - np.log(np.where(found.kind == SIZE, units["N"], units["D"]))
    rows = _Rows.of(straight, straight.noise, found.kind, place)

    def lost(theta, shift):
        return np.sum(rows.residuals(np.column_stack([theta, found.change + shift * found.error]))[0] ** 2, axis=1)

    for k, shift in enumerate((0.0, 1.0, -1.0)):
        here = lost(found.theta[k], shift)
        for step in np.eye(found.theta.shape[2]):
            for size in (1e-2, -1e-2):
                assert (lost(found.theta[k] + size * step, shift) > here - 0.03).all()


def test_a_trial_without_a_positive_loss_is_passed_over_in_silence():
    design = replace(DESIGNS[3], name="35 runs, 1%, embedded: size bends", largest=1e12)
    table = design.study(np.random.default_rng([25, 0, *design.name.encode()]), outside_the_stack)
    found = breaks(fit("saturating", table))
    assert np.isfinite(found.theta).all()
    assert np.isfinite(found.error).all()


@pytest.mark.slow
def test_the_mode_is_the_posterior_s(bent):
    found = breaks(bent)
    best = np.argmax(found.odds)
    place = found.place[best] - np.log(bent.problem.units["N"])
    rows = _Rows.of(bent, bent.noise, np.array([SIZE] * 12), np.full(12, place))

    def lost(point):
        residual, _ = rows.residuals(np.tile(point, (12, 1)))
        return 0.5 * (residual[0] @ residual[0] + (point[-1] / CHANGE) ** 2)

    mode = np.append(found.theta[0, best], found.change[best])
    again = minimize(lost, mode, method="Nelder-Mead", options={"maxiter": 4000, "fatol": 1e-8, "xatol": 1e-8})
    assert lost(mode) - again.fun < 0.02 * again.fun


@pytest.mark.slow
def test_a_forecast_far_beyond_allows_for_the_break(bent):
    """The straight law misses by nine of its standard errors; with breaks the truth lies inside."""
    size, loss = optimum(outside_the_stack, 1e14)
    reported = forecast_loss(bent.points, Target(1e14), ("chinchilla",))
    lo, hi = reported.members["chinchilla"].interval(0.95)
    assert not lo[0] < np.log(loss) < hi[0]
    assert reported.intervals[0.95][0] < loss < reported.intervals[0.95][1]
    assert reported.n_interval[0] < size < reported.n_interval[1]
    given = forecast_loss(bent.points, Target(1e14, size, 1e14 / 6 / size), ("chinchilla",))
    assert given.intervals[0.95][0] < loss < given.intervals[0.95][1]
    assert given.n_average is None


@pytest.mark.slow
def test_a_forecast_of_a_law_that_holds_is_little_wider(straight):
    reported = forecast_loss(straight.points, Target(1e22), ("chinchilla",))
    wide, alone = (np.ptp(np.ravel(f.interval(0.9))) for f in (reported.average, reported.members["chinchilla"]))
    assert 1.0 < wide / alone < 1.6
    assert reported.intervals[0.95][0] < TRUTH.optimal(1e22).loss < reported.intervals[0.95][1]


def test_components_are_the_straight_forecast_and_one_for_each_break(straight):
    found = breaks(straight)
    alone, count = Forecast(np.array([1.0]), np.array([0.1]), 5.0), len(found.place)
    values = np.repeat([1.2, 1.5, 0.9], count)[None]
    values[0, 1] = np.nan  # no optimum
    values[0, 2::count] = np.inf  # beyond floating point at every shift
    made, odds = found.forecasts(alone, values)
    assert len(made) == count - 1
    assert (made[0], sum(odds)) == (alone, pytest.approx(1))
    assert made[1].mean == pytest.approx(1.2)
    assert made[1].sd == pytest.approx(np.hypot(0.1, 0.3))
    assert odds[0] / odds[1] == pytest.approx(found.straight / found.odds[0])
    assert np.isfinite(average(made, odds).quantile(0.5)).all()


def test_no_break_is_looked_for_where_none_could_be_seen():
    exact = replace(DESIGNS[3], noise=Noise(0)).study(np.random.default_rng(0))
    assert breaks(fit("chinchilla", exact)) is None
    noisy = DESIGNS[0].study(np.random.default_rng(0))
    assert breaks(fit("power", noisy)) is None
    table = DESIGNS[3].study(np.random.default_rng(0))
    few = table[table["n_params"].isin(table["n_params"].value_counts().index[:4])]
    assert len(few) > 12
    assert breaks(fit("chinchilla-no-floor", few.reset_index(drop=True))) is None


def test_laws_without_breaks_are_weighed_by_their_bic():
    table = DESIGNS[0].study(np.random.default_rng(0))
    fits = {law: fit(law, table) for law in ("power", "power-n", "power-d")}
    found, delta = probabilities(fits), min(f.delta for f in fits.values())
    bic = {}
    for law, f in fits.items():
        psi = np.clip(f.residuals, -delta, delta)
        bic[law] = len(table) * np.log(np.mean(psi * (2 * f.residuals - psi))) + len(f.free) * np.log(len(table))
    best = min(bic.values())
    raw = {law: np.exp(-0.5 * (value - best)) for law, value in bic.items()}
    assert found == pytest.approx({law: value / sum(raw.values()) for law, value in raw.items()}, rel=1e-9)


def test_a_law_that_a_break_mends_gains_by_it(bent):
    """Straight, tied exponents miss a bend by more than free ones; broken, they fit as well."""
    fits = {law: fit(law, bent.points) for law in ("chinchilla", "chinchilla-tied", "kaplan")}
    found = probabilities(fits)
    assert sum(found.values()) == pytest.approx(1)
    assert found["chinchilla"] + found["chinchilla-tied"] > 0.9
    alone = {law: len(f.points) * np.log(np.sum(f.residuals**2)) for law, f in fits.items()}
    assert alone["chinchilla-tied"] - alone["chinchilla"] > 10  # e^-5 of the evidence, were there no breaks
    assert found["chinchilla-tied"] > 0.02


def test_weights_twice_as_large_for_all_runs_say_nothing():
    table = DESIGNS[3].study(np.random.default_rng(2))
    laws = ("chinchilla", "kaplan")
    once = probabilities({law: fit(law, table) for law in laws})
    twice = probabilities({law: fit(law, table, weights=np.full(len(table), 2.0)) for law in laws})
    assert twice == pytest.approx(once, rel=1e-3)


def in_rows(fitted):
    """The breaks that were kept, the rows of all that were tried, and which of these they are."""
    found, tried, units = breaks(fitted), _tried(fitted.problem.x), fitted.problem.units
    kind = np.repeat(list(tried), [len(at) for at in tried.values()])
    place = np.concatenate(list(tried.values()))
    away = place + np.log(np.where(kind == SIZE, units["N"], units["D"]))
    same = (found.kind[:, None] == kind) & np.isclose(found.place[:, None], away, rtol=1e-9)
    assert (same.sum(axis=1) == 1).all()
    return found, _Rows.of(fitted, fitted.noise, kind, place), same.argmax(axis=1)


@pytest.mark.parametrize("of", ["straight", "drifting"])
def test_odds_are_laplace_s(of, request):
    """-ln of the posterior at the mode, its slope, and the sd of c, of every break kept, made again from the rows."""
    fitted = request.getfixturevalue(of)
    found, rows, kept = in_rows(fitted)
    free, span = len(fitted.free), np.ptp(fitted.problem.x["N"])
    assert len(kept) > 1
    scale = np.where(found.kind == DRIFT, CHANGE / span, CHANGE)
    mode = np.column_stack([found.theta[0], found.change])

    def slopes(point):
        everywhere = np.repeat(np.append(fitted.theta, 0.0)[None], len(rows.kind), axis=0)
        everywhere[kept] = point
        residual, gradient = (values[kept] for values in rows.residuals(everywhere))
        slope = (gradient @ residual[..., None])[..., 0]
        slope[:, -1] += point[:, -1] / scale**2
        return slope, residual, gradient

    slope, residual, gradient = slopes(mode)
    hessian = gradient @ gradient.swapaxes(1, 2)
    hessian[:, -1, -1] += scale**-2
    step = np.linalg.pinv(hessian, hermitian=True)
    assert (np.einsum("kp,kpq,kq->k", slope, step, slope) < 0.03).all()  # nothing to be gained
    np.testing.assert_allclose(found.error, np.sqrt(step[:, -1, -1]), rtol=1e-3)
    none = slopes(np.repeat(np.append(fitted.theta, 0.0)[None], len(kept), axis=0))[1]
    value = np.sum(residual**2, axis=1) + (found.change / scale) ** 2
    gain = 0.5 * (len(fitted.points) - free) * np.log(np.sum(none[0] ** 2) / value) + np.log(found.error / scale)
    prior = PRIOR / 3 / np.where(found.kind == DRIFT, 3, PLACES)
    odds = prior * np.exp(gain) / (1 - PRIOR)
    np.testing.assert_allclose(found.odds / found.straight, odds, rtol=0.02)


@pytest.mark.parametrize(("of", "sd"), [("straight", 0.01), ("drifting", 0.003)])
def test_noise_is_what_neither_law_nor_break_takes_up(of, sd, request):
    fitted = request.getfixturevalue(of)
    _, rows, _ = in_rows(fitted)
    assert rows.sd == pytest.approx(sd, rel=0.35)


def test_one_run_far_off_is_hardly_noise(straight):
    table = straight.points.frame.copy()
    table.loc[10, "loss"] *= 1.2  # twenty times the noise
    _, rows, _ = in_rows(fit("chinchilla", table))
    assert rows.sd < 0.02


def test_broken_laws_miss_what_was_minimised(straight):
    """The laws of a forecast are those of the posterior, at c and a standard deviation to either side."""
    found, frame = breaks(straight), straight.points.frame
    laws, count = found.laws(), len(found.kind)
    np.testing.assert_allclose(laws.change[:count], found.change)
    np.testing.assert_allclose(laws.change[count : 2 * count], found.change + found.error)
    np.testing.assert_allclose(laws.change[2 * count :], found.change - found.error)
    missed = np.log(laws(*(frame[c].to_numpy(float)[:, None] for c in ("n_params", "tokens")))).T
    missed -= np.log(frame["loss"].to_numpy(float))
    assert np.isclose(missed[:count, None], found.missed).all(axis=2).any(axis=1).all()
    rms = np.sqrt(np.mean(missed**2, axis=1))
    assert (rms[count:] < 1.5 * np.tile(rms[:count], 2)).all()


def test_runs_are_forecast_by_every_law_and_break(straight):
    found = breaks(straight)
    frame = straight.points.frame.tail(2)
    alone = Forecast(np.log(frame["loss"].to_numpy(float)), np.full(2, 0.01), 20.0)
    made, share = runs_with_breaks({"chinchilla": straight}, {"chinchilla": 0.4}, {"chinchilla": alone}, frame)
    assert len(made) == len(share) == 1 + len(found.kind)
    assert sum(share) == pytest.approx(0.4)
    assert share[0] / share[1] == pytest.approx(found.straight / found.odds[0])
    both = {"chinchilla": straight, "power": fit("power", straight.points)}
    made, share = runs_with_breaks(both, {"chinchilla": 0.4, "power": 0.6}, dict.fromkeys(both, alone), frame)
    assert (made[-1], share[-1]) == (alone, 0.6)


def test_probabilities_are_of_clusters_and_stated_noise():
    """BIC with clusters for observations, of laws with every break, summed with their priors; made again by hand."""
    design = replace(DESIGNS[3], noise=Noise(0.01, trunk=0.7), trunks=8)
    table = design.study(np.random.default_rng(3))
    rng = np.random.default_rng(0)
    laws = ("chinchilla", "chinchilla-tied", "kaplan")
    weights = rng.uniform(0.5, 2.0, len(table))
    fits = {law: fit(law, table, weights=weights, falls=0.3 * (law == "kaplan")) for law in laws}
    clusters = table["trunk_id"].nunique()
    assert clusters < 10 < len(table)
    delta = min(f.delta for f in fits.values())
    score = {}
    for law, f in fits.items():
        found = breaks(f)
        each = []
        for prior, missed, more in [
            (1 - PRIOR, f.residuals, 0), *((p, m, 1) for p, m in zip(found.prior, found.missed, strict=True))
        ]:  # fmt: skip
            at, wide = np.abs(missed), delta * f.spread
            loss = np.where(at <= wide, at**2, 2 * wide * at - wide**2)
            mean = np.sum(f.weights * loss) / len(table) / np.exp(np.mean(np.log(f.weights)))
            each.append(np.log(prior) - 0.5 * (clusters * np.log(mean) + (len(f.free) + 1 + more) * np.log(clusters)))
        score[law] = np.logaddexp.reduce(each)
    total = np.logaddexp.reduce(list(score.values()))
    assert probabilities(fits) == pytest.approx({law: np.exp(value - total) for law, value in score.items()}, rel=1e-6)


def test_where_breaks_are_tried():
    x = {"N": np.log([1.0, 2.0, 4.0, 8.0, 16.0, 16.0]), "D": np.log([1e3, 3e3, 1e4, 3e4, 1e5, 1e5])}
    tried = _tried(x)
    np.testing.assert_allclose(tried[SIZE], np.linspace(np.log(2), np.log(16), PLACES), atol=1e-5)
    np.testing.assert_allclose(tried[DATA], np.linspace(np.log(3e3), np.log(1e5), PLACES), atol=1e-5)
    np.testing.assert_allclose(tried[DRIFT], np.log([1e2, 1e3, 1e4]))
    assert set(_tried(x | {"U": x["D"]})) == {SIZE}
    assert not len(_tried({k: v[1:] for k, v in x.items()})[SIZE])


def test_breaks_are_looked_for_in_more_runs_than_a_law_and_its_directions_have():
    table = DESIGNS[3].study(np.random.default_rng(0))
    spread = table.iloc[np.linspace(0, len(table) - 1, 11).astype(int)].reset_index(drop=True)
    assert breaks(fit("chinchilla", spread)) is not None  # 5 parameters, 4 directions, a change of an exponent
    assert breaks(fit("chinchilla", spread.head(10))) is None


def test_laws_without_a_finite_loss_weigh_the_same(straight):
    nowhere = replace(straight)
    nowhere.__dict__.update(residuals=np.full(len(straight.points), np.inf), breaks=None)
    assert probabilities({"one": nowhere, "other": nowhere}) == {"one": 0.5, "other": 0.5}
    both = probabilities({"one": straight, "other": nowhere})
    assert (both["one"], both["other"]) == (1.0, 0.0)
