"""What is drawn is what was computed: lines, points and bands against the numbers of the fit. Never pixels."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_rgb
from scipy.stats import gaussian_kde

from isoflop.analysis.evidence import Evidence, UnsupportedError
from isoflop.analysis.figures import FIGURES
from isoflop.analysis.figures.allocation import REFERENCE, _exponent_text, plot_allocation
from isoflop.analysis.figures.arms import gate_frame, plot_gate, plot_multiplier
from isoflop.analysis.figures.exponents import density, measured_slopes, plot_exponents, plot_local_slope
from isoflop.analysis.figures.isoflop import plot_isoflop
from isoflop.analysis.figures.prediction import (
    forecast_errors,
    plot_forecast_errors,
    plot_prediction,
    prediction_frame,
)
from isoflop.analysis.figures.residuals import grouped, plot_residuals
from isoflop.analysis.figures.runs.bowls import best_rate, bowl_frame, plot_bowls
from isoflop.analysis.figures.runs.curves import learning_curves, plot_learning_curves
from isoflop.analysis.figures.scoreboard import plot_scoreboard, scoreboard_frame
from isoflop.analysis.figures.sensitivity import plot_sensitivity
from isoflop.analysis.figures.surface import plot_surface
from isoflop.analysis.report import draw_figure
from isoflop.analysis.style import LEVEL, MUTED, style
from isoflop.examples import example
from isoflop.scaling.approaches.envelope import envelope
from isoflop.scaling.design.simulate import simulate_study
from isoflop.scaling.laws import get_law
from isoflop.scaling.laws.published import PUBLISHED

pytestmark = pytest.mark.usefixtures("kept_searches")


@pytest.fixture(scope="module")
def evidence(study_table):
    return Evidence(study_table, n_draws=200)


@pytest.fixture(autouse=True)
def styled():
    with style():
        yield


def lines(ax, dashed: bool | None = None):
    found = [line for line in ax.get_lines() if len(line.get_xdata()) > 2]
    return found if dashed is None else [x for x in found if (x.get_linestyle() == "--") == dashed]


def offsets(ax) -> np.ndarray:
    return np.concatenate([c.get_offsets() for c in ax.collections if isinstance(c, PathCollection)])


def markers(ax, marker: str):
    return [line for line in ax.get_lines() if line.get_marker() == marker]


@pytest.mark.slow
def test_curves_draw_every_evaluation_and_mark_every_end(evidence):
    curves = learning_curves(evidence.table)
    ax = plot_learning_curves(curves, envelope=evidence.envelope)
    drawn = next(c for c in ax.collections if isinstance(c, LineCollection)).get_segments()
    assert sum(len(s) for s in drawn) == (~curves["final"]).sum()  # no line leads to what is measured in another way
    assert len(curves) == len(evidence.table)
    assert len(drawn) == evidence.table["run_id"].nunique()
    final = evidence.table[evidence.table["final"]]
    np.testing.assert_allclose(np.sort(offsets(ax)[:, 1]), np.sort(final["loss"]))
    said = [text.get_text() for text in ax.artists[0].get_texts()]
    assert "end of a run, on all held-out windows; lines: on some" in said
    low = evidence.envelope.frame[evidence.envelope.frame["bracketed"]]
    np.testing.assert_allclose(lines(ax)[-1].get_ydata(), low["loss"])


def test_runs_are_drawn_beside_one_another_along_the_axis_chosen(evidence):
    table = evidence.table.assign(wall_seconds=evidence.table["tokens"] / 1e6 * 3600)
    first, second = table["run_id"].unique()[:2]
    for axis in ("flops", "tokens", "hours"):
        curves = learning_curves(table, runs=(first, second), against=axis)
        ax = plot_learning_curves(curves)
        assert set(curves["run_id"]) == {first, second}
        ends = table[table["run_id"].isin([first, second])]
        ends = ends.assign(hours=ends["tokens"] / 1e6)[axis]
        drawn = np.concatenate([*(line[:, 0] for line in ax.collections[0].get_segments()), offsets(ax)[:, 0]])
        assert sorted(drawn) == pytest.approx(sorted(ends))
        assert {text.get_text() for text in ax.get_legend().get_texts()} == {first, second}
        keys = {text.get_text(): line for text, line in zip(ax.get_legend().get_texts(), ax.get_legend().get_lines(),
                                                            strict=True)}  # fmt: skip
        for run, tone, line in zip(
            curves["run_id"].unique(), ax.collections[0].get_colors(), ax.collections[0].get_linestyles(), strict=True
        ):
            assert to_rgb(keys[run].get_color()) == pytest.approx(tone[:3])  # the legend looks like the curve
            assert keys[run].get_marker() in ("", "None", None)
            assert (keys[run].get_linestyle() == "-") == (line[1] is None)
        assert ax.get_ylim()[1] > curves["loss"].max()  # no curve is cut off
        assert ax.get_xlim()[0] < curves[axis].min()
    with pytest.raises(ValueError, match="--runs nope: no such run"):
        learning_curves(table, runs=("nope",))
    with pytest.raises(ValueError, match="--against days: not one of flops, tokens, hours"):
        learning_curves(table, against="days")


@pytest.mark.slow
def test_curves_of_others_are_drawn_and_have_an_envelope():
    table = pd.DataFrame([
        {"run_id": f"r{n:g}", "n_params": n, "tokens": d, "loss": 1.8 + 400 / n**0.34 + 1200 / d**0.37}
        for n in (1e5, 2e5, 4e5, 8e5, 16e5) for d in np.geomspace(1e6, 1e9, 30)
    ])  # fmt: skip
    curves = learning_curves(table)
    assert (len(curves), curves["final"].sum()) == (150, 5)
    low = envelope(table)
    assert low.allocation.n_exponent == pytest.approx(0.37 / 0.71, abs=0.03)
    assert set(low.frame["run_id"]) <= set(table["run_id"])
    ax = plot_learning_curves(curves, envelope=low)
    drawn = next(c for c in ax.collections if isinstance(c, LineCollection)).get_segments()
    assert sum(len(s) for s in drawn) == 150  # their last row is one of the curve
    assert ax.artists[0].get_texts()[0].get_text() == "end of a run"
    with pytest.raises(ValueError, match="no column wall_seconds"):
        learning_curves(table, against="hours")


def test_learning_curves_need_rows_along_the_way(evidence):
    with pytest.raises(ValueError, match="evaluations along the way"):
        learning_curves(evidence.table[evidence.table["final"]])


def test_isoflop_draws_points_curve_and_filled_optimum(evidence):
    ax = plot_isoflop(evidence.profiles)
    diamonds = markers(ax, "D")
    assert len(diamonds) == len(evidence.profiles) == 4
    for profile, diamond in zip(evidence.profiles, diamonds, strict=True):
        np.testing.assert_allclose([diamond.get_xdata()[0], diamond.get_ydata()[0]], [profile.n_opt, profile.loss_opt])
        assert diamond.get_markerfacecolor() != "none"
    assert len(offsets(ax)) == len(evidence.points)
    curve = lines(ax)[0]
    np.testing.assert_allclose(curve.get_ydata(), evidence.profiles[0].curve(curve.get_xdata()))
    assert ax.get_xlabel() == "model size N (parameters)"


def test_a_refused_optimum_is_hollow_and_says_why(study_law):
    table = simulate_study(study_law, sizes=(8, 12, 16, 24), budgets=(3e10, 1e12), factor=100)
    profiles = Evidence(table).profiles
    refused = next(p for p in profiles if not p.accepted)
    ax = plot_isoflop(profiles)
    assert any(refused.reason.split(":")[0] in t.get_text() for t in ax.texts)
    hollow = [d for d in markers(ax, "D") if d.get_markerfacecolor() == "none"]
    assert len(hollow) == sum(not p.accepted and np.isfinite(p.n_opt) for p in profiles)


@pytest.mark.slow
@pytest.mark.parametrize(("quantity", "letter", "exponent"), [("n_params", "N", "a"), ("tokens", "D", "b")])
def test_allocation_draws_the_optimum_its_band_and_the_rule_of_thumb(evidence, quantity, letter, exponent):
    fit, draws = evidence.fit, evidence.draws
    ax = plot_allocation(fit, draws, quantity=quantity, profiles=evidence.profiles)
    dashed, solid, dotted = lines(ax)[:3]
    np.testing.assert_allclose(dashed.get_ydata(), getattr(fit.optimal(dashed.get_xdata()), letter))
    largest = evidence.points.frame["flops"].max()
    assert solid.get_xdata().max() <= largest * 1.001, "solid only in the fitted range"
    assert dashed.get_xdata().max() == pytest.approx(10 * largest)
    ratio = fit.cost.tokens(dotted.get_xdata(), dotted.get_ydata()) / dotted.get_ydata()
    if quantity == "n_params":
        np.testing.assert_allclose(ratio, REFERENCE)
    band = ax.collections[0].get_paths()[0].vertices
    at = dashed.get_xdata()[40]
    low, high = draws.interval(lambda law: float(getattr(law.optimal(at, fit.cost), letter)), LEVEL)
    edges = np.unique(band[np.isclose(band[:, 0], at), 1])
    np.testing.assert_allclose([edges.min(), edges.max()], [low, high])
    assert f"{fit.exponents()[exponent]:.3f}" in "".join(t.get_text() for t in ax.texts)
    assert [d.get_xdata()[0] for d in markers(ax, "D")] == [p.flops for p in evidence.profiles]


def test_a_published_frontier_is_solid_in_its_own_range_only(evidence):
    reported = replace(PUBLISHED["porian-2024"], flops=(2e12, 8e12))  # inside what the axis shows
    ax = plot_allocation(evidence.fit, published={"porian-2024": reported})
    own = [x for x in lines(ax) if x.get_color() == MUTED and x.get_zorder() == 1.5]
    solid = [x.get_xdata() for x in own if x.get_linestyle() == "-"]
    dashed = [x.get_xdata() for x in own if x.get_linestyle() != "-"]
    assert (len(solid), len(dashed)) == (1, 1)
    assert len(solid[0])
    assert reported.flops[0] <= solid[0].min() < solid[0].max() <= reported.flops[1]
    assert dashed[0].min() < reported.flops[0] < reported.flops[1] < dashed[0].max()


@pytest.mark.parametrize("name", ["tuning-rate", "data-constrained", "precision"])
def test_the_surface_of_a_law_of_more_than_size_and_tokens_is_refused_by_what_it_reads(evidence, name):
    form, _ = get_law(name)
    fitted = replace(evidence.fit, law=form(*form.typical))
    read = list(form.reads().values())[-1].name
    with pytest.raises(ValueError, match=f"of model size and tokens alone; this one reads .*{read}"):
        plot_surface(fitted)


def test_the_prediction_of_a_law_of_other_columns_is_refused_by_what_it_reads():
    form, _ = get_law("experts")
    forecast = SimpleNamespace(fit=SimpleNamespace(law=form(*form.typical)))
    with pytest.raises(ValueError, match="experts reads experts too"):
        plot_prediction(SimpleNamespace(chosen="experts", forecasts={"experts": forecast}))


@pytest.mark.parametrize("name", ["cost", "throughput", "bowls"])
def test_what_reads_run_tables_alone_does_not_call_a_column_missing_that_is_there(name):
    table = pd.DataFrame({"n_params": [1e6, 2e6], "tokens": [2e7, 4e7], "loss": [3.0, 2.9]})
    with pytest.raises(UnsupportedError, match="needs a run table of isoflop"):
        draw_figure(name, Evidence(table.assign(wall_seconds=10.0, peak_learning_rate=0.1)), "x.png")


def test_surface_colours_runs_and_contours_by_one_scale(evidence):
    ax = plot_surface(evidence.fit)
    runs = next(c for c in ax.collections if isinstance(c, PathCollection))
    frame = evidence.fit.points.frame
    np.testing.assert_allclose(runs.get_offsets(), frame[["n_params", "tokens"]])
    np.testing.assert_allclose(runs.get_array(), frame["loss"])
    contours = next(c for c in ax.collections if c is not runs)
    assert contours.norm is runs.norm
    for frontier in lines(ax):
        best = evidence.fit.optimal(evidence.fit.cost.flops(frontier.get_xdata(), frontier.get_ydata()))
        np.testing.assert_allclose(frontier.get_xdata(), best.N)


def test_an_optimum_that_the_runs_do_not_tell_is_not_drawn_and_the_reason_stands_there(evidence):
    ax = plot_surface(evidence.fit, "the fit has no optimum (beta at the bound of the search box)")
    assert not lines(ax)
    assert "no frontier: the fit has no optimum" in ax.get_xlabel()
    resamples = Evidence(evidence.table, law="chinchilla", n_draws=50).resamples
    drawn = plot_exponents(resamples, no_optimum="size and tokens were not varied apart")
    assert not any(line.get_linestyle() == ":" for line in drawn.lines)
    assert "no a: size and tokens were not varied apart" in " ".join(t.get_text() for t in drawn.texts)
    assert "the ray of" in " ".join(t.get_text() for t in plot_exponents(resamples).texts)


def test_residuals_are_percent_of_the_fit(evidence):
    ax = plot_residuals(evidence.fit, by="tokens")
    drawn = offsets(ax)
    np.testing.assert_allclose(np.sort(drawn[:, 1]), np.sort(100 * np.expm1(evidence.fit.residuals)))
    assert ax.get_xlabel().startswith("training tokens")


def test_residual_beyond_the_panel_is_marked_not_lost(study_table):
    table = study_table.copy()
    worst = table.index[table["final"]][3]
    table.loc[worst, "loss"] *= 1.5
    ax = plot_residuals(Evidence(table, law="chinchilla").fit)
    assert "1 beyond the panel" in "".join(t.get_text() for t in ax.texts)
    assert any(len(c.get_offsets()) == 1 for c in ax.collections if isinstance(c, PathCollection))


@pytest.mark.slow
def test_prediction_draws_the_law_fitted_without_the_target(evidence):
    test = evidence.held_out
    law = test.chosen
    forecast = test.forecasts[law]
    ax = plot_prediction(test, law=law)
    (diamond,) = markers(ax, "D")
    target = forecast.budgets.iloc[0]
    assert diamond.get_xdata()[0] == pytest.approx(target["predicted_n"])
    assert diamond.get_ydata()[0] == pytest.approx(target["predicted_loss"])
    assert forecast.fit.points.frame["flops"].max() < target["flops"] / 2
    words = "".join(t.get_text() for t in ax.texts)
    assert f"{target['loss_error']:+.1%}" in words
    frame = prediction_frame(test)
    np.testing.assert_allclose(frame["relative_error"], frame["predicted"] / frame["loss"] - 1)
    np.testing.assert_allclose(frame["residual"], np.log(frame["loss"] / frame["predicted"]))


@pytest.mark.slow
def test_forecast_errors_hold_every_run(evidence):
    frame = forecast_errors(evidence.held_out)
    assert len(frame) == len(evidence.points)
    np.testing.assert_allclose(frame["relative_error"], frame["predicted"] / frame["loss"] - 1)
    ax = plot_forecast_errors(evidence.held_out)
    seen = next(c for c in ax.collections if isinstance(c, PathCollection)).get_offsets()
    np.testing.assert_allclose(np.sort(seen[:, 1]), np.sort(100 * frame.loc[~frame["held_out"], "relative_error"]))


@pytest.mark.parametrize("name", ["prediction", "forecast_errors"])
def test_held_out_figures_of_a_report_show_its_law_whatever_is_chosen_without_the_runs(evidence, name):
    other = next(law for law in evidence.held_out.forecasts if law != evidence.law_name)
    held_out = replace(evidence.held_out, chosen=other)
    report = SimpleNamespace(held_out=held_out, law_name=evidence.law_name, loss_unit=evidence.loss_unit)
    ax = FIGURES[name].draw(report)
    texts = [text.get_text() for text in ax.texts]
    assert any(text.startswith((f"{evidence.law_name} up to", f"{evidence.law_name}: rms")) for text in texts), texts


def test_scoreboard_draws_every_law_baseline_and_stack_with_its_error(evidence):
    board = evidence.scoreboard
    ax = plot_scoreboard(board)
    laws, others = (c.get_offsets() for c in ax.collections if isinstance(c, PathCollection))
    scores = board.frame
    named = scores.index.isin(list(board.entrants))
    assert list(scores.index[~named].sort_values()) == ["local-slope", "stacked"]
    np.testing.assert_allclose(laws[:, 0], 100 * scores.loc[named, "error"])
    np.testing.assert_allclose(others[:, 0], 100 * scores.loc[~named, "error"])
    assert max(laws[0, 1], others[0, 1]) == len(scores) + len(board.refused) - 1, "the best on top"
    bars = next(c for c in ax.collections if isinstance(c, LineCollection)).get_segments()
    for (_, row), bar in zip(scores.iterrows(), bars, strict=True):
        assert bar[1, 0] == pytest.approx(100 * (row["error"] + row["error_se"]))
    filled = next(c for c in ax.collections if isinstance(c, PathCollection)).get_facecolors()[:, 0] < 1
    assert list(scores.index[named][filled]) == [board.preferred]


def test_scoreboard_keeps_the_refused_with_their_reason(evidence):
    board = replace(evidence.scoreboard, refused={"data-constrained": "no run repeats its data"})
    frame = scoreboard_frame(board)
    assert frame["refused"].iloc[-1] == "no run repeats its data"
    ax = plot_scoreboard(board)
    (reported,) = [t for t in ax.texts if "refused" in t.get_text()]
    assert reported.get_text() == "refused: no run repeats its data"
    assert ax.get_yticklabels()[-1].get_text() == "data-constrained"
    assert reported.xy[1] == 0


@pytest.mark.slow
@pytest.mark.parametrize(("law", "names"), [("chinchilla", ("alpha", "beta")), ("chinchilla-tied", ("alpha", "E"))])
def test_exponents_draw_every_resample(study_table, law, names):
    e = Evidence(study_table, law=law, n_draws=100)
    ax = FIGURES["exponents"].draw(e)
    np.testing.assert_allclose(offsets(ax), e.resamples.frame[list(names)])
    (diamond,) = markers(ax, "D")
    assert (diamond.get_xdata()[0], diamond.get_ydata()[0]) == tuple(getattr(e.fit.law, n) for n in names)


@pytest.mark.slow
def test_exponents_refuse_tied_ones(study_table):
    with pytest.raises(ValueError, match="tied"):
        plot_exponents(Evidence(study_table, law="chinchilla-tied", n_draws=50).resamples)


@pytest.mark.slow
def test_local_slope_of_a_pure_power_is_its_exponent(study_law):
    law = replace(study_law, E=0.0)
    e = Evidence(simulate_study(law, noise=1e-4), law="chinchilla-no-floor")
    ax = plot_local_slope(e.fit, e.draws, profiles=e.profiles)
    expected = -law.exponents(e.fit.cost)["frontier"]
    np.testing.assert_allclose(lines(ax)[0].get_ydata(), expected, rtol=0.02)
    np.testing.assert_allclose(measured_slopes(e.profiles)["slope"], expected, rtol=0.05)


@pytest.mark.slow
def test_sensitivity_starts_from_the_analysis_as_chosen(evidence):
    frame = evidence.sensitivity
    assert frame["value"].iloc[0] == pytest.approx(evidence.fit.exponents()["a"])
    assert {"objective", "data", "convention"} <= set(frame["what"])
    ax = plot_sensitivity(frame)
    np.testing.assert_allclose(offsets(ax)[:, 0], frame["value"])


def test_an_exponent_without_meaning_is_called_unknown_and_its_changes_stay_in_sight(evidence):
    frame = pd.DataFrame({"what": ["as chosen", "data"], "setting": ["", "less"], "value": [0.09, 0.43],
                          "low": [1e-6, 1e-8], "high": [6446.0, 7e5]})  # fmt: skip
    ax = plot_sensitivity(frame)
    assert ax.get_xlim() == pytest.approx((0.09 - 0.68, 0.09 + 0.68))
    assert "the exponent is not known" in ax.texts[-1].get_text()
    wide = SimpleNamespace(interval=lambda name, level: (1e-6, 6446.0), kind="jackknife", by="row")
    free = replace(evidence.fit, problem=SimpleNamespace(tied=False))
    text = _exponent_text(free, wide, "N", "a")
    assert text.endswith("a is not known:\n1e-06 to 6.4e+03, 90% jackknife by row")


@pytest.mark.slow
def test_multiplier_draws_every_arm_with_its_interval(study_law):
    better = replace(study_law, A=study_law.A * 0.9, B=study_law.B * 0.9)
    tables = [
        simulate_study(law, noise=0.002, curves=False).assign(arm=arm) for law, arm in ((study_law, "x"), (better, "y"))
    ]
    tables[1]["trunk_id"] = tables[1]["trunk_id"] + "y"
    tables[1]["run_id"] = tables[1]["run_id"] + "y"
    result = Evidence(pd.concat(tables, ignore_index=True)).multipliers
    ax = plot_multiplier(result)
    (line,) = lines(ax)
    at = result.pairs[0].at_loss.sort_values("loss", ascending=False)
    np.testing.assert_allclose(line.get_ydata(), at["multiplier"])
    assert (line.get_ydata() > 1).all()
    assert ax.xaxis_inverted()


@pytest.mark.slow
def test_gate_draws_pairs_the_target_and_the_least_gain():
    found = Evidence(example("transformer_vs_lstm")).gate
    frame = gate_frame(found)
    verdict = found.verdicts[0]
    assert dict(frame["what"].value_counts()) == {
        "sequence": verdict.pairs, "compute": len(verdict.by_compute), "target": 1,
    }  # fmt: skip
    ax = plot_gate(found)
    dots = {tuple(line.get_xdata()): line.get_ydata() for line in ax.lines}
    np.testing.assert_allclose(dots[tuple(verdict.by_compute["flops"])], verdict.by_compute["multiplier"])
    np.testing.assert_allclose(dots[found.target,], [verdict.multiplier])
    flat = [line.get_ydata()[0] for line in ax.lines if set(line.get_xdata()) == {0, 1}]
    assert flat[:2] == [1, found.least]


def test_bowls_mark_the_bottom_and_tell_an_edge(study_table):
    final = study_table[study_table["final"]]
    cells = final[final["d_model"].isin([16, 32]) & (final["budget_flops"] == 1e11)]
    rates = np.array([0.005, 0.01, 0.02, 0.04])
    tried = []
    for rate in rates:
        best = np.where(cells["d_model"] == 16, 0.015, 0.2)  # the second is beyond what was tried
        bent = cells["loss"] * (1 + 0.01 * np.log(rate / best) ** 2)
        tried.append(cells.assign(peak_learning_rate=rate, loss=bent, run_id=cells["run_id"] + str(rate)))
    bowls = bowl_frame(pd.concat(tried, ignore_index=True))
    found = {size: best_rate(b) for size, b in bowls.groupby("n_params")}
    (small, large) = sorted(found)
    assert found[small][0] == pytest.approx(0.015, rel=1e-6)
    assert found[small][2]
    assert found[large][0] == pytest.approx(rates[-1])
    assert not found[large][2]
    ax = plot_bowls(bowls)
    assert [m.get_markerfacecolor() == "none" for m in markers(ax, "D")] == [False, True]
    with pytest.raises(ValueError, match="3 learning rates"):
        bowl_frame(study_table)


def test_bowls_tell_arms_by_line_and_mark(study_table):
    final = study_table[study_table["final"] & (study_table["d_model"] == 16)]
    rates = [0.005, 0.01, 0.02]
    tried = [final.assign(peak_learning_rate=r, arm=a, run_id=final["run_id"] + a) for r in rates for a in ("x", "y")]
    ax = plot_bowls(bowl_frame(pd.concat(tried, ignore_index=True)))
    curves = lines(ax)
    assert {(x.get_linestyle(), x.get_marker()) for x in curves} == {("-", "o"), ("--", "s")}
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["x", "y"]


def test_a_large_study_draws_every_nth_curve_and_says_so(study_table):
    curves = learning_curves(study_table, most=10)
    total = study_table["run_id"].nunique()
    assert curves.attrs["runs"] == total > curves["run_id"].nunique() <= 10
    whole = study_table[study_table["run_id"].isin(curves["run_id"])]
    assert len(curves) == len(whole), "a run is drawn as a whole or not at all"
    ax = plot_learning_curves(curves)
    assert f"of {total} runs" in ax.get_title(loc="left")


@pytest.mark.slow
def test_curves_count_as_their_envelope_does(study_table):
    """Curves stayed at exact FLOPs, and the envelope of another count lay beside them."""
    for params in ("matrices", "active", "total"):
        for compute in ("exact", "6nd", "full-attention"):
            e = Evidence(study_table, law="chinchilla", params=params, compute=compute)
            curves = FIGURES["curves"].data(e)
            ends = curves[curves["final"]].set_index("run_id")["flops"]
            assert ends.sort_values().to_numpy() == pytest.approx(np.sort(e.points.frame["flops"]), rel=1e-12)


def test_residual_groups_never_split_a_value():
    frame = pd.DataFrame({"n_params": np.repeat([1e3, 2e3, 3e3, 5e3], [40, 3, 17, 40]) * 1.0})
    many = pd.DataFrame({"n_params": np.concatenate([frame["n_params"], np.geomspace(1e4, 1e6, 12)])})
    many["residual_percent"] = np.arange(len(many), dtype=float)
    groups = grouped(many, "n_params")
    assert groups["n_params"].is_monotonic_increasing
    assert groups["n_params"].is_unique
    first = many.loc[many["n_params"] == 1e3, "residual_percent"].mean()
    assert groups["mean"].iloc[0] == pytest.approx(first)


def test_the_density_of_draws_is_scipys_up_to_a_factor():
    rng = np.random.default_rng(0)
    draws, at = (rng.multivariate_normal([1.2, 0.6], [[0.01, 0.004], [0.004, 0.003]], n).T for n in (300, 40))
    assert np.ptp(density(draws, at) / gaussian_kde(draws)(at)) < 1e-9 * 300
