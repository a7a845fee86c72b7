"""Fits: public data to their published optima, recovery, invariance, errors, traps."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from isoflop.scaling.fitting.fit import Fit, FitError, Huber, LeastSquares, fit, predict_loss
from isoflop.scaling.fitting.search.search import robust_scale, weighted_median
from isoflop.scaling.laws.axes.data_constrained import DataConstrained
from isoflop.scaling.laws.broken import BNSL
from isoflop.scaling.laws.chinchilla import Chinchilla
from isoflop.scaling.laws.farseer import Farseer
from isoflop.scaling.laws.kaplan import Kaplan
from isoflop.scaling.laws.power import Power
from isoflop.scaling.laws.published import PUBLISHED
from isoflop.scaling.laws.saturating import Saturating
from isoflop.scaling.table.columns import TableError
from isoflop.scaling.table.conventions import points
from tests.support.fits import hard_fits
from tests.support.fits.hard_fits import SURFACE, frontier, isoflop, reference, repeated
from tests.support.fits.simulated import BESIROGLU, isoflop_table

BEST = 1.01827402e-3


def table_of(law, frame: pd.DataFrame, noise: float = 0.0, seed: int = 0) -> pd.DataFrame:
    error = np.random.default_rng(seed).normal(0, noise, len(frame)) if noise else 0.0
    return frame.assign(loss=predict_loss(law, frame) * np.exp(error))


@pytest.fixture(scope="module")
def epoch(public_data) -> pd.DataFrame:
    table = pd.read_csv(public_data / "chinchilla_epoch" / "runs.csv")
    return table.loc[~table["excluded_top5_loss"], ["n_params", "tokens", "flops", "loss"]].reset_index(drop=True)


@pytest.fixture(scope="module")
def epoch_fit(epoch) -> Fit:
    return fit("chinchilla", epoch, objective=Huber(1e-3))


def test_besiroglu_optimum(epoch_fit):
    assert len(epoch_fit.points) == 240
    assert epoch_fit.status == "converged"
    assert epoch_fit.value <= BEST
    law = epoch_fit.law
    assert (law.E, law.alpha, law.beta) == pytest.approx((1.8172, 0.3473, 0.3672), abs=5e-4)
    assert epoch_fit.exponents()["a"] == pytest.approx(0.5139, abs=5e-4)


@pytest.mark.slow
def test_besiroglu_gap_to_the_best_of_200_polished_random_starts(epoch_fit):
    assert epoch_fit.value / reference(epoch_fit) - 1 <= 1e-9


def test_free_kappa_reaches_its_known_optimum(epoch):
    found = fit("chinchilla-kappa", epoch, objective=Huber(1e-3))
    assert found.value == pytest.approx(0.000954, abs=1e-6)
    assert (found.law.kappa, found.law.alpha, found.law.beta) == pytest.approx((0.774, 0.424, 0.431), abs=2e-3)


def test_delta_moves_the_answer_as_documented(epoch):
    floors = [fit("chinchilla", epoch, objective=o).law.E for o in (LeastSquares(), Huber(1e-2), Huber(5e-3))]
    assert floors == pytest.approx([1.8645, 1.838, 1.824], abs=1e-3)
    auto = fit("chinchilla", epoch)
    assert auto.delta == pytest.approx(1.345 * auto.noise, rel=0.02)


@pytest.mark.parametrize(
    ("corpus", "E", "eta"),
    [("c4_original", 1.5083, 0.2425), ("rpj", 1.8367, 0.2729), ("rw_original", 1.7345, 0.2544)],
)
def test_gadre_five_runs(public_data, corpus, E, eta):
    runs = pd.read_csv(public_data / "gadre_overtraining" / "runs.csv").assign(loss=lambda t: t["loss_c4_val"])
    runs = runs[runs["dataset"] == corpus]
    small = runs["model"].isin(["d=96_l=8_h=4", "d=512_l=8_h=4", "d=576_l=24_h=8", "d=1024_l=24_h=8"])
    first = runs["chinchilla_multiplier"] == 1
    long = (runs["model"] == "d=96_l=8_h=4") & (runs["chinchilla_multiplier"] == 16)
    train = runs[(small & first) | long]
    assert len(train) == 5
    found = fit("chinchilla", train, tied=True, objective=LeastSquares(residual="raw"))
    assert (found.law.E, found.law.alpha) == pytest.approx((E, eta), abs=7e-5)
    assert found.law.beta == found.law.alpha
    assert found.starts["alpha"].to_numpy() == pytest.approx(np.full(len(found.starts), eta), abs=7e-5)
    if corpus == "rpj":
        for model, multiplier, error in (("open_lm_1b", 32, 0.007103), ("open_lm_7b", 1, 0.007320)):
            run = runs[(runs["model"] == model) & (runs["chinchilla_multiplier"] == multiplier)]
            assert abs(found.predict(run)[0] / run["loss"].iloc[0] - 1) == pytest.approx(error, abs=1e-6)


def test_gadre_published_instances_are_these_fits(public_data):
    runs = pd.read_csv(public_data / "gadre_overtraining" / "runs.csv")
    law = PUBLISHED["gadre-2024-redpajama"].law
    run = runs[(runs["dataset"] == "rpj") & (runs["model"] == "open_lm_7b")].iloc[0]
    assert law(run["n_params"], run["tokens"]) / run["loss_c4_val"] - 1 == pytest.approx(0.00732, abs=1e-5)


def test_muennighoff_decay_constants_have_a_better_optimum_far_from_the_published_one(public_data):
    table = pd.read_csv(public_data / "datablations" / "fit182.csv")
    published = PUBLISHED["muennighoff-2023"].law
    held = {p: getattr(published, p) for p in ("E", "A", "B", "alpha", "beta")}
    found = fit("data-constrained", table, fixed=held, objective=Huber(1e-3))
    assert found.value < 0.0158259353
    assert found.law.R_D > 2 * published.R_D
    near = found.starts[np.abs(found.starts["R_D"] - published.R_D) < 1]
    assert near["converged"].all()
    assert near["value"].min() == pytest.approx(0.015825935, abs=2e-8)


def test_the_averaged_huber_trap_catches_lbfgsb_and_not_us(epoch, epoch_fit):
    """Hoffmann's error: the mean of Huber under L-BFGS-B's default tolerances stops far from the optimum."""
    N, D, loss = (np.log(epoch[c].to_numpy()) for c in ("n_params", "tokens", "loss"))
    hoffmann = PUBLISHED["hoffmann-2022"].law

    def mean_huber(theta):
        a, b, e, alpha, beta = theta
        parts = np.stack([a - alpha * N, b - beta * D, np.full(len(N), e)])
        total = np.logaddexp.reduce(parts)
        share = np.exp(parts - total)
        psi = np.clip(total - loss, -1e-3, 1e-3)
        slope = psi * share
        gradient = np.array([slope[0].sum(), slope[1].sum(), slope[2].sum(), -slope[0] @ N, -slope[1] @ D])
        return np.mean(psi * (total - loss - psi / 2)), gradient / len(N)

    begin = [np.log(hoffmann.A), np.log(hoffmann.B), np.log(hoffmann.E), hoffmann.alpha, hoffmann.beta]
    stopped = minimize(mean_huber, begin, jac=True, method="L-BFGS-B")
    assert stopped.success
    assert stopped.fun * len(N) > 1.08 * epoch_fit.value
    assert stopped.x[4] / (stopped.x[3] + stopped.x[4]) == pytest.approx(0.456, abs=0.01)
    scaled = fit("chinchilla", epoch, objective=Huber(1e-3), weights=np.full(240, 1 / 240))
    assert scaled.exponents()["a"] == pytest.approx(0.5139, abs=5e-4)


RECOVERED = [
    (SURFACE, isoflop(35)),
    (Kaplan(6.4e13, 1.8e13, 0.076, 0.103), isoflop(35)),
    (Saturating(1.8, 480.0, 2100.0, 0.35, 0.37, 10.8), isoflop(35)),
    (DataConstrained(1.87, 521.0, 1488.0, 0.3527, 0.36, 15.4, 5.3), repeated(60)),
    (Power(1.7, 1637.0, 0.165), frontier(12)),
    (BNSL(1.2, 300.0, 0.12, 0.06, 3e18, 0.5), frontier(40)),
]


@pytest.mark.parametrize(("law", "frame"), RECOVERED, ids=lambda v: getattr(v, "name", ""))
def test_noise_free_data_give_the_law_back(law, frame):
    found = fit(type(law), table_of(law, frame))
    assert found.status == "converged"
    assert found.law.values() == pytest.approx(law.values(), rel=1e-6)


@pytest.mark.slow
def test_farseer_fits_its_own_data():
    law = Farseer(-0.021, 0.169, -0.091, 88.01, -0.1, -6.287, -0.124, 0.123, 0.424)
    found = fit("farseer", table_of(law, isoflop(64), noise=0.002))
    assert np.std(found.residuals) < 0.0022


@pytest.mark.slow
@pytest.mark.parametrize("kind", [k for k in hard_fits.KINDS if k.name in (
    "chinchilla 8", "chinchilla 35, 10% outliers", "chinchilla E = 0", "chinchilla noise-free 54",
    "chinchilla collinear", "kaplan outliers", "power E tiny", "data-constrained 60, 1%", "bnsl 15",
)], ids=lambda k: k.name)  # fmt: skip
def test_hard_data_are_solved_or_flagged(kind):
    row = hard_fits.run_kind(kind, 2)
    assert row["bad"] == 0
    if "collinear" in kind.name:
        assert row["flagged"] == 2


SLOW = (  # sizes, tokens per parameter, losses of a published grid
    (190e6, 370e6, 760e6, 1280e6), (20, 40, 100, 200),
    (4.7884, 4.5894, 4.421, 4.2688, 4.3864, 4.2084, 4.0293, 3.937,
     3.9686, 3.8226, 3.6708, 3.5918, 3.7187, 3.5834, 3.4183, 3.3378),
)  # fmt: skip


@pytest.mark.slow
def test_a_regular_optimum_that_takes_more_than_a_hundred_steps_is_reached():
    sizes, ratios, losses = (np.array(part) for part in SLOW)
    n_params = np.repeat(sizes, 4)
    cells = {"n_params": n_params, "tokens": n_params * np.tile(ratios, 4), "loss": losses}
    found = fit("chinchilla", pd.DataFrame(cells), objective=Huber(1e-3))
    assert found.status == "converged"
    assert found.value == pytest.approx(3.212896e-5, rel=1e-6)
    assert (found.law.E, found.law.alpha) == pytest.approx((0.7033, 0.1512), abs=1e-4)
    assert found.value <= reference(found, 40) * (1 + 1e-9)


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(n=st.floats(-9, 9), d=st.floats(-9, 9))
def test_rescaling_the_columns_leaves_predictions_alone(n, d):
    table = table_of(SURFACE, isoflop(20), noise=0.003).drop(columns="flops")
    moved = table.assign(n_params=table["n_params"] * np.exp(n), tokens=table["tokens"] * np.exp(d))
    assert fit("chinchilla", moved).predicted == pytest.approx(fit("chinchilla", table).predicted, rel=1e-9)


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_order_of_rows_does_not_matter(seed):
    table = table_of(SURFACE, isoflop(20), noise=0.003)
    shuffled = table.sample(frac=1, random_state=seed % 2**31, ignore_index=True)
    one, other = fit("chinchilla", table), fit("chinchilla", shuffled)
    assert other.law.values() == pytest.approx(one.law.values(), rel=1e-7)


def test_weights_scale_the_value_and_zero_drops_a_point():
    table = table_of(SURFACE, isoflop(20), noise=0.003)
    table.loc[3, "loss"] *= 1.5
    weights = np.ones(20)
    weights[3] = 0.0
    dropped = fit("chinchilla", table.drop(index=3), objective=LeastSquares())
    weighted = fit("chinchilla", table, objective=LeastSquares(), weights=weights)
    by_column = fit("chinchilla", table.assign(weight=weights), objective=LeastSquares())
    assert weighted.law.values() == pytest.approx(dropped.law.values(), rel=1e-6)
    assert by_column.value == dropped.value
    assert by_column.value == pytest.approx(weighted.value, rel=1e-12)


@pytest.mark.slow
def test_fixed_and_tied_parameters_stay():
    table = table_of(SURFACE, isoflop(35), noise=0.003)
    held = fit("chinchilla", table, fixed={"E": 1.7, "A": 400.0})
    assert pytest.approx((1.7, 400.0), rel=1e-12) == (held.law.E, held.law.A)
    assert held.free == ("B", "alpha", "beta")
    tied = fit("chinchilla", table, tied=True)
    assert tied.law.alpha == tied.law.beta
    assert fit("chinchilla", table).value <= min(held.value, tied.value)


@pytest.mark.slow
def test_ceiling_is_the_vocabularys_when_the_table_has_one():
    law = Saturating(1.8, 480.0, 2100.0, 0.35, 0.37, float(np.log(50257)))
    table = table_of(law, isoflop(35), noise=0.002).assign(vocab_size=50257)
    held = fit("saturating", table)
    assert held.law.ceiling == law.ceiling
    assert "ceiling" not in held.free
    assert "ceiling" in fit("saturating", table, free=("ceiling",)).free
    assert "ceiling" in fit("saturating", table.drop(columns="vocab_size")).free


def test_raw_huber_minimises_the_residual_it_names():
    table = table_of(SURFACE, isoflop(35), noise=0.003)
    raw = fit("chinchilla", table, objective=Huber(0.01, residual="raw"))
    psi = np.clip(raw.predicted - table["loss"], -0.01, 0.01)
    assert raw.value == pytest.approx(float(np.sum(psi * (raw.predicted - table["loss"] - psi / 2))))
    assert "loss" in str(raw.objective)
    assert "ln" not in str(raw.objective)


@pytest.mark.slow
def test_floor_at_zero_is_reported_as_a_bound():
    law = Chinchilla(0.0, 477.8, 2143.4, 0.3473, 0.3672)
    found = [fit("chinchilla", table_of(law, isoflop(35), 0.02, seed)) for seed in range(6)]
    at = [f for f in found if f.law.E == 0.0]
    assert at
    assert all(f.status == "at_bound" and f.bounds_hit == ("E",) and "E at the bound" in f.message for f in at)


@pytest.mark.slow
def test_collinear_tokens_per_parameter_show_in_the_condition_number():
    good = fit("chinchilla", table_of(SURFACE, isoflop(30), noise=0.003))
    bad = fit("chinchilla", table_of(SURFACE, hard_fits.collinear(30), noise=0.003))
    assert good.condition < 1e6
    assert bad.condition > 1e8


@pytest.mark.parametrize("law", ["chinchilla", "power"])
def test_losses_of_any_size_are_fitted_as_those_in_nats(law):
    """Nats of a whole sequence, squared errors: the boxes of floor and amplitudes hold them."""
    table = table_of(BESIROGLU, isoflop(40), noise=0.003)
    plain, large = (fit(law, table.assign(loss=scale * table["loss"])) for scale in (1.0, 3000.0))
    assert large.bounds_hit == plain.bounds_hit
    values = dict(zip(plain.law.parameters(), plain.law.values() / large.law.values(), strict=True))
    for name in plain.free:
        assert values[name] == pytest.approx(1 / 3000 if name in type(plain.law).amplitudes else 1.0, rel=1e-3), name


@pytest.mark.parametrize(
    ("law", "same", "other"), [("chinchilla", "n_params", "power-d"), ("kaplan", "tokens", "power-n")]
)
def test_a_column_that_never_varies_names_the_law_of_the_other(law, same, other):
    table = table_of(SURFACE, isoflop(30)).assign(**{same: 1e9}).drop(columns="flops")
    with pytest.raises(FitError, match=rf"{law} needs it to vary; .* alone fits these runs \(--law {other}\)"):
        fit(law, table)
    assert fit(other, table).law.name == other


@pytest.mark.slow
def test_a_users_law_needs_only_a_formula_and_a_box(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\n"
        "from typing import ClassVar\n"
        "from isoflop.scaling.laws.law import Box, Law\n"
        "@dataclass(frozen=True)\n"
        "class Sum(Law):\n"
        "    E: float\n    K: float\n    g: float\n"
        "    name: ClassVar[str] = 'mine'\n"
        "    box: ClassVar[dict] = {'E': Box(0, 5), 'K': Box(1e-2, 1e4, log=True), 'g': Box(0.01, 1.0)}\n"
        "    def __call__(self, N, D):\n"
        "        return self.E + self.K * (N * D) ** -self.g\n"
        "@dataclass(frozen=True)\n"
        "class Boxless(Law):\n"
        "    E: float\n"
    )
    monkeypatch.chdir(tmp_path)
    frame = isoflop(20)
    loss = 1.7 + 1637.0 * (frame["n_params"] * frame["tokens"]) ** -0.17
    found = fit("mine:Sum", frame.assign(loss=loss))
    assert found.status == "converged"
    assert found.law.values() == pytest.approx([1.7, 1637.0, 0.17], rel=1e-6)
    with pytest.raises(ValueError, match="gives no search box for E"):
        fit("mine:Boxless", frame.assign(loss=loss))


def test_too_little_data_is_a_fit_error_that_counts():
    table = table_of(SURFACE, isoflop(35))
    with pytest.raises(FitError, match=r"4 data points cannot determine the 5 free parameters .*E, A, B, alpha, beta"):
        fit("chinchilla", table.head(4))
    sizes, lengths = np.meshgrid([1e8, 2e8, 4e8, 8e8], [1e9, 2e9, 3e9, 4e9], indexing="ij")
    models = table_of(SURFACE, pd.DataFrame({"n_params": sizes.ravel(), "tokens": lengths.ravel()}))
    models = models.assign(model=models["n_params"].map("{:g}".format), Step=models["tokens"] / 1e6)
    with pytest.raises(FitError, match=r"16 rows are training curves of . runs.*need a column run_id"):
        fit("chinchilla", models)
    assert len(fit("chinchilla", models.assign(run_id=[f"r{k}" for k in range(16)])).points) == 16
    with pytest.raises(FitError, match="every data point has the same n_params"):
        fit("chinchilla", table.assign(n_params=1e8))
    with pytest.raises(FitError, match=r"every data point has the same loss \(3\): there is nothing to fit"):
        fit("chinchilla", table.assign(loss=3.0))
    with pytest.raises(FitError, match="needs the column 'unique_tokens'"):
        fit("data-constrained", table)
    assert FitError.exit_code == 1


def test_wrong_arguments_name_themselves():
    table = table_of(SURFACE, isoflop(35))
    with pytest.raises(ValueError, match="chinchilla has no parameter 'gamma'; it has E, A, B"):
        fit("chinchilla", table, fixed={"gamma": 1.0})
    with pytest.raises(ValueError, match="weights must be one per data point"):
        fit("chinchilla", table, weights=[1.0])
    with pytest.raises(ValueError, match="delta must be positive"):
        Huber(-1.0)
    with pytest.raises(ValueError, match="residual must be 'log' or 'raw', not 'ln'"):
        LeastSquares(residual="ln")
    with pytest.raises(ValueError, match="power has no exponents to tie"):
        fit("power", table, tied=True)
    with pytest.raises(ValueError, match="N_c can be fixed only together with alpha_N"):
        fit("kaplan", table, fixed={"N_c": 1e13})


def test_summary_has_the_stable_keys_and_says_what_was_done(epoch_fit):
    summary = epoch_fit.to_dict()
    wanted = {"law", "params", "objective", "delta", "n_points", "n_clusters", "status", "message", "starts", "derived"}
    assert wanted | {"intervals", "level", "findings"} <= set(summary)
    assert summary["starts"] == {"n": 8, "share_at_best": 1.0}
    text = str(epoch_fit)
    for part in ("sum of Huber on ln loss, delta 0.001", "240 points in 240 clusters by row", "477.83", "2143.4"):
        assert part in text


@pytest.mark.slow
def test_many_rows_fit_in_bounded_time_and_memory():
    frame = pd.concat([isoflop(50)] * 390, ignore_index=True)
    found = fit("chinchilla", table_of(SURFACE, frame, noise=0.003))
    assert found.law.alpha == pytest.approx(0.3473, abs=2e-3)


@pytest.mark.slow
@given(
    st.lists(st.floats(0.0, 5.0), min_size=3, max_size=30),
    st.lists(st.integers(0, 4), min_size=30, max_size=30),
    st.sampled_from([0.01, 1.0, 7.3, 100.0]),
)
def test_the_robust_scale_counts_a_weight_of_two_as_two_rows_and_is_free_of_the_unit(values, counts, unit):
    """The weighted median is the plain one of rows repeated as often as they weigh."""
    values, counts = np.array(values), np.array(counts[: len(values)])
    counts[0] += 1
    assert weighted_median(values, counts * unit) == pytest.approx(np.median(np.repeat(values, counts)))
    ones = np.full(len(values), unit)
    assert robust_scale(values, 1, ones) == robust_scale(values, 1)


def test_a_fit_does_not_depend_on_the_unit_of_its_weights():
    table = table_of(SURFACE, isoflop(20), noise=0.003)
    uneven = np.random.default_rng(0).uniform(0.3, 3, 20)
    fits = [fit("chinchilla", table.assign(weight=uneven * unit)) for unit in (0.01, 1, 100)]
    for other in (fits[0], fits[2]):
        np.testing.assert_allclose(other.deltas, fits[1].deltas, rtol=1e-5)
        np.testing.assert_allclose(
            other.noise_at(other.points.frame), fits[1].noise_at(fits[1].points.frame), rtol=1e-5
        )
    assert [f.typical for f in fits[:2]] == [pytest.approx(0.01 * np.exp(np.log(uneven).mean())), 1.0]  # 1: of one run
    assert [f.law.E for f in fits] == pytest.approx([fits[1].law.E] * 3, rel=1e-5)


def test_a_weight_is_an_inverse_variance():
    """Rows that are means of 16 runs beside single ones: noise, delta and forecasts are of what each row is."""
    from isoflop.scaling.fitting.uncertainty import jackknife, predict_runs

    exact, rng = table_of(SURFACE, isoflop(60), noise=0.0), np.random.default_rng(5)
    weight = np.where(np.arange(60) % 2, 16.0, 1.0)
    table = exact.assign(loss=exact["loss"] * np.exp(0.02 / np.sqrt(weight) * rng.standard_normal(60)))
    fitted = fit("chinchilla", table.assign(weight=weight))
    assert fitted.typical == 1.0
    assert 0.015 < fitted.noise < 0.025  # of one run
    ends = fitted.noise_at(fitted.points.frame)
    assert ends[weight == 1] == pytest.approx([fitted.noise] * 30)
    assert ends[weight == 16] == pytest.approx([fitted.noise / 4] * 30)
    assert fitted.deltas[weight == 1] == pytest.approx(4 * fitted.deltas[weight == 16])
    assert "of a row of weight 1, falling as weight^-.5" in str(fitted)
    one = exact[["n_params", "tokens"]].head(1)  # a run to come is one run, unless its row says more
    draws = jackknife(fitted)
    alone, of_many = (predict_runs(fitted, draws, frame).noise[0] for frame in (one, one.assign(weight=16.0)))
    assert alone == pytest.approx(fitted.noise) == pytest.approx(4 * of_many)
    scaled = fit("chinchilla", table, objective=LeastSquares(), weights=weight)
    by_hand = fit("chinchilla", table.assign(weight=weight), objective=LeastSquares())
    assert scaled.noise == pytest.approx(by_hand.noise, rel=1e-9)
    same = fit("chinchilla", table.assign(weight=7.0))
    assert (same.typical, same.spread) == (None, 1.0)
    assert same.noise == pytest.approx(fit("chinchilla", table).noise, rel=1e-9)


def test_a_row_of_weight_0_is_left_out_with_a_note():
    table = table_of(SURFACE, isoflop(20), noise=0.003).assign(weight=1.0)
    table.loc[[3, 4], "weight"] = 0.0
    data = points(table)
    assert len(data) == 18
    assert "2 rows of weight 0 are left out" in data.notes
    with pytest.raises(TableError, match="weight is zero or negative in 20 of 20 rows"):
        points(table.assign(weight=0.0))  # nothing would be left


@pytest.mark.parametrize(
    ("law", "sizes", "tokens"),
    [
        (Chinchilla(1.8, 400.0, 1200.0, 0.34, 0.37), 1e8 * 4.0 ** np.arange(3), 2e9 * 4.0 ** np.arange(3)),
        (
            Chinchilla(0.978738885986, 1790.47582531696, 130.959216948237, 0.334446824218, 0.260111786758),
            [24489099.0, 97956397.0, 391825588.0, 1567302350.0, 6269209401.0],
            [8366982.0, 33467928.0, 133871712.0, 535486850.0],
        ),
        (
            Chinchilla(1.086816513801, 258.914878252505, 123.431272377573, 0.523807858828, 0.562999569350),
            [3068081.0, 12272324.0, 49089296.0, 196357182.0],
            [2372124056.0, 9488496224.0, 37953984896.0, 151815939585.0],
        ),
    ],
    ids=["nine rows", "twenty rows", "sixteen rows"],
)  # fmt: skip
@pytest.mark.parametrize("digits", [17, 12, 10])
@pytest.mark.parametrize("objective", [Huber("auto"), LeastSquares()], ids=str)
def test_data_without_noise_are_converged_to_the_digits_of_the_table(law, sizes, tokens, digits, objective):
    n, d = np.meshgrid(sizes, tokens)
    table = pd.DataFrame({"n_params": n.ravel(), "tokens": d.ravel(), "loss": law(n.ravel(), d.ravel()).round(digits)})
    found = fit("chinchilla", table, objective=objective)
    assert found.status == "converged"
    np.testing.assert_allclose(found.law.values()[:5], law.values()[:5], rtol=1e-4)


def test_weights_in_a_series_are_those_of_its_index():
    table = isoflop_table(BESIROGLU, seed=0)
    given = pd.Series(np.linspace(0.2, 2.0, len(table)), index=table.index)
    shuffled = table.sample(frac=1.0, random_state=1)
    by_position = fit("chinchilla", shuffled, weights=given[shuffled.index].to_numpy())
    assert fit("chinchilla", shuffled, weights=given).law == by_position.law
    with pytest.raises(ValueError, match=r"2 of 35 rows of the table are not in it; weights\.to_numpy\(\) is taken"):
        fit("chinchilla", table, weights=given[2:])
    with pytest.raises(ValueError, match="it holds one twice"):
        fit("chinchilla", table, weights=pd.concat([given, given[:1]]))
    twice = pd.concat([table, table])  # an index that is the table's own needs no names
    assert fit("chinchilla", twice, weights=pd.concat([given, given])).law.alpha > 0


@pytest.mark.parametrize("conventions", [{}, {"params": "total", "compute": "6nd"}, {"params": "no-embedding"}])
@pytest.mark.parametrize("law", ["kaplan", "power"])
def test_a_fit_predicts_every_row_of_its_own_table(law, conventions, study_table):
    fitted = fit(law, study_table, n_starts=4, **conventions)
    predicted = fitted.predict(study_table)
    assert predicted.shape == (len(study_table),)
    ends = (study_table["final"] & (study_table["state"] == "done")).to_numpy()
    assert predicted[ends] == pytest.approx(fitted.predicted, rel=0, abs=0)


def test_a_fit_predicts_what_it_can_be_fitted_to(study_table):
    table = table_of(SURFACE, isoflop(12))
    named = table[["n_params", "tokens", "loss"]].rename(columns={"n_params": "N", "tokens": "D"})
    fitted = fit("chinchilla", named, n_starts=4)
    for form in (named, named.to_dict("list"), named.to_dict("records"), named.drop(columns="loss"), table):
        assert fitted.predict(form) == pytest.approx(fitted.predicted)
    with pytest.raises(FitError, match="needs the column 'tokens' in every row"):
        fitted.predict({"n_params": [1e5]})
    with pytest.raises(TableError, match=r"the fit took the sizes of its table as given: give columns n_params"):
        fitted.predict(study_table)


def test_law_and_table_are_taken_in_either_order():
    table = table_of(SURFACE, isoflop(12))
    known = fit("power", table, n_starts=2)
    for one, other in ((table, "power"), (table, Power), (points(table), "power"), (table.to_dict("list"), "power")):
        assert fit(one, other, n_starts=2).value == known.value
    with pytest.raises(TypeError, match=r"^chinchilla: a table is a DataFrame, and this is a path"):
        fit("power", "chinchilla")
    for law in (None, 3, table):
        with pytest.raises(ValueError, match=r"^a law is a name, a class or module:Class, and this is of type \w+$"):
            fit(law, table)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"objective": "huber"}, r"^objective='huber': it must be isoflop\.Huber\("),
        ({"objective": Huber}, r"^objective=<class .*: it must be isoflop\.Huber\("),
        ({"fixed": "E"}, r"^fixed='E': it must hold numbers by parameter"),
        ({"fixed": ["E"]}, r"^fixed=\['E'\]: it must hold"),
        ({"fixed": {"E": None}}, r"^fixed={'E': None}: it must be a number"),
        ({"fixed": {"E": "a"}}, r"^fixed={'E': 'a'}: it must be a number"),
        ({"fixed": {"E": True}}, r"^fixed={'E': True}: it must be a number"),
        ({"free": "gamma"}, r"^free: gamma: chinchilla has no parameter 'gamma'"),
        ({"free": ["E", "gamma"]}, r"^free: gamma: chinchilla has no parameter 'gamma'"),
    ],
)
def test_a_choice_that_is_none_is_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        fit("chinchilla", table_of(SURFACE, isoflop(12)), **wrong)


def test_parameters_to_free_are_one_name_or_several():
    table = table_of(SURFACE, isoflop(35))
    for free in ("kappa", ["kappa"], ("kappa",)):
        assert "kappa" in fit("chinchilla", table, free=free, n_starts=1).free
