"""What stopping saved, from a table of a study in which some runs have stopped."""

import numpy as np
import pytest

from isoflop.scaling.design.simulate import simulate_study
from isoflop.scaling.fitting.fit import fit
from isoflop.scaling.laws.chinchilla import Chinchilla
from isoflop.scaling.stopping.saved import plan_of_table, saved
from isoflop.scaling.table.conventions import points
from isoflop.scaling.table.runs import final_rows

LAW = Chinchilla(1.2, 30.0, 300.0, 0.35, 0.37)


@pytest.fixture(scope="module")
def whole():
    return simulate_study(LAW, noise=0.003, seed=1)


def stopped(whole, runs):
    """The same runs, some of which have stopped: their ends are forecast, with an error of one percent."""
    hit = whole["run_id"].isin(runs)
    ends = hit & whole["final"]
    table = whole.assign(state=whole["state"].where(~hit, "stopped"), phase=whole["phase"].where(~ends, "forecast"))
    return table.assign(loss_se=table["loss_se"].where(~ends, 0.01 * table["loss"]))


@pytest.mark.slow
def test_flops_are_those_of_trunks_and_cooldowns(whole):
    plan = plan_of_table(whole)
    assert len(plan.runs) == whole["run_id"].nunique()
    assert plan.flops(plan.whole) < final_rows(whole)["flops"].sum()
    longest = {group[-1].run_id for group in plan.trunks.values()}
    found = saved(stopped(whole, longest), fit("chinchilla", stopped(whole, longest)))
    assert (found.stopped, found.runs) == (len(longest), len(plan.runs))
    assert found.whole == pytest.approx(plan.flops(plan.whole))
    assert 0.1 * found.whole < found.flops < found.whole
    assert found.wider > 1.05
    assert f"{len(longest)} of {len(plan.runs)} runs were stopped" in str(found)


@pytest.mark.slow
def test_a_forecast_counts_less_only_where_its_error_exceeds_the_noise(whole):
    ends = final_rows(whole)["run_id"].iloc[::4]
    table = stopped(whole, set(ends))
    noise = fit("chinchilla", points(table).measured).noise
    errors = dict(zip(ends, noise * np.linspace(0.5, 2.0, len(ends)), strict=True))
    error = table["run_id"].map(errors).where(table["phase"] == "forecast")
    found = fit("chinchilla", table.assign(loss_se=(error * table["loss"]).fillna(table["loss_se"])))
    relative = found.points.frame["forecast_error"] / noise
    assert found.weights == pytest.approx(np.minimum(1, 1 / np.maximum(relative, 1e-9) ** 2))
    assert (found.weights[relative > 1] < 1).sum() > 1
    # Errors below the noise change no weight, and yet a is known less well: by a share of them at most.
    half = (0.5 * noise * table["loss"]).where(table["phase"] == "forecast", table["loss_se"])
    table = table.assign(loss_se=half)
    assert 1.01 < saved(table, fit("chinchilla", table)).wider < np.sqrt(1.25) + 1e-3


@pytest.mark.slow
def test_an_interval_is_as_wide_where_forecasts_have_no_error(whole):
    runs = set(final_rows(whole)["run_id"].iloc[::4])
    sure = stopped(whole, runs)
    sure = sure.assign(loss_se=np.where(sure["phase"] == "forecast", 1e-9, 0.0))
    assert saved(sure, fit("chinchilla", sure)).wider == pytest.approx(1, abs=1e-3)
    assert fit("chinchilla", sure).law.values() == pytest.approx(fit("chinchilla", whole).law.values(), rel=1e-2)


def test_a_law_without_a_best_size_has_no_exponent_to_widen(whole):
    table = stopped(whole, set(final_rows(whole)["run_id"].iloc[::4]))
    assert np.isnan(saved(table, fit("power-n", table)).wider)
