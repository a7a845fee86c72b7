"""Fits of whole curves: a known law, published curves, ties over sizes."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from isoflop.scaling.fitting.curve_fit import fit_curves
from isoflop.scaling.laws.curves.curve_law import MultiPower
from isoflop.scaling.laws.curves.sums import Units, compile_run, join
from isoflop.scaling.table.schedules.curve_run import CurveRun
from isoflop.scaling.table.schedules.schedule import Schedule

LAW = {"L0": 2.0, "A": 0.6, "alpha": 0.45, "B": 40.0, "C": 2.0, "beta": 0.6, "gamma": 0.6}
SCHEDULES = (Schedule("constant", 20), Schedule("wsd", 20, 0.3), Schedule("cosine", 20, final_fraction=0.1))
TRAINED = ("cosine_24000", "constant_24000", "wsdcon_9")
# What a fit reaches on them: the sum of Huber(1e-3) over the three, the mean absolute error over the other six.
REACHED = {25: (2.912e-4, 0.0045), 100: (2.810e-4, 0.0044)}


def of_law(schedule: Schedule, n_params: float = 1e6) -> CurveRun:
    rates = schedule.rates(800, 0.003)
    steps = np.unique(np.geomspace(25, 799, 30).astype(int))
    run = CurveRun(f"{schedule.name}-{n_params:g}", n_params, steps, np.ones(len(steps)), rates)
    units = Units(0.003, 400.0)
    rows = join([compile_run(rates, steps, first=0, units=units)], [0.0], units)
    loss = MultiPower.evaluate(MultiPower.theta(LAW, units)[None, :, None], rows)[0][0]
    return replace(run, loss=loss * (n_params / 1e6) ** -0.1)


@pytest.fixture(scope="module")
def runs():
    return [of_law(schedule) for schedule in SCHEDULES]


@pytest.mark.slow
def test_a_law_that_made_the_curves_is_found_again(runs):
    found = fit_curves(runs, priors={})
    assert found.converged
    assert found.value < 1e-15
    for name, value in LAW.items():
        assert found.parameters()[name] == pytest.approx(value, rel=1e-3)
    np.testing.assert_allclose(found.predict(runs[1].rates, runs[1].steps), runs[1].loss, rtol=1e-6)
    assert max(found.errors().values()) < 1e-5


@pytest.mark.slow
def test_intervals_are_by_runs(runs):
    noisy = [replace(run, loss=run.loss * (1 + 0.002 * np.sin(i + run.steps))) for i, run in enumerate(runs)]
    found = fit_curves(noisy)
    lo, hi = found.intervals()["L0"]
    assert lo < found.parameters()["L0"] < hi
    with pytest.raises(ValueError, match="one run has no other run to be compared with"):
        fit_curves(noisy[:1]).intervals()


@pytest.mark.slow
def test_sizes_are_tied_through_n():
    runs = [of_law(schedule, n) for schedule in SCHEDULES for n in (1e6, 4e6)]
    left = [run for run in runs if run.n_params == 1e6 or run.run_id.startswith("cosine")]
    found = fit_curves(left, priors={}, n_starts=2)
    other = runs[3]
    assert other.n_params == 4e6
    np.testing.assert_allclose(found.predict(other.rates, other.steps, 4e6), other.loss, rtol=2e-3)


def test_what_cannot_be_fitted():
    with pytest.raises(ValueError, match="law of curves 'tissue' is not known"):
        fit_curves([of_law(SCHEDULES[0])], "tissue")
    with pytest.raises(ValueError, match="no run has a row"):
        fit_curves([])


@pytest.mark.slow
@pytest.mark.parametrize("size", [25, 100])
def test_published_curves(public_data, size):
    table = pd.read_csv(public_data / "multi_power_law/loss_curves.csv")
    table = table[table["model_size_m"] == size]
    runs = {name: published(name, rows) for name, rows in table.groupby("schedule")}
    for name, run in runs.items():  # the schedule by its name gives the rates of the column
        rows = table[table["schedule"] == name].sort_values("step")
        np.testing.assert_allclose(run.rates[run.steps], rows["lr"], rtol=1e-9)
    found = fit_curves([runs[name] for name in TRAINED], n_starts=2)
    most, error = REACHED[size]
    assert found.value <= most
    held = {n: np.abs(found.predict(r.rates, r.steps) - r.loss).mean() for n, r in runs.items() if n not in TRAINED}
    assert np.mean(list(held.values())) <= error
    worse = fit_curves([runs[name] for name in TRAINED], "summed_rate")
    assert worse.value > 5 * found.value


def published(name: str, rows: pd.DataFrame) -> CurveRun:
    """A curve of Luo et al.; the table leaves out the warm-up."""
    kind = name.split("_")[0]
    steps = 16_000 if kind == "wsdcon" else int(name.rsplit("_", 1)[1])
    final = int(name.rsplit("_", 1)[1]) / 30 if kind == "wsdcon" else 0.1
    share = 0.5 if kind == "wsdcon" else 4_000 / 24_000
    schedule = Schedule(kind, 2160, share, "exponential" if kind == "wsd" else "linear", final)
    rows = rows.sort_values("step")
    size = float(rows["model_size_m"].iloc[0]) * 1e6
    return CurveRun(name, size, rows["step"].to_numpy(), rows["loss"].to_numpy(), schedule.rates(steps, 3e-4))
