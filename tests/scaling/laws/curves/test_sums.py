import numpy as np
import pytest

from isoflop.scaling.laws.curves.curve_law import CURVE_LAWS, MultiPower
from isoflop.scaling.laws.curves.sums import Units, compile_run, join
from isoflop.scaling.table.schedules.schedule import Schedule

LAW = {"L0": 3.04, "A": 0.5247, "alpha": 0.508, "B": 363.8, "C": 2.066, "beta": 0.583, "gamma": 0.641}
UNITS = Units(3e-4, 5e3)


def naive(rates, steps, p):
    """The multi-power law as it is printed, a term per row and step."""
    cum, out = np.cumsum(rates), []
    for t in steps:
        k = np.arange(1, t + 1)
        since = cum[t] - cum[k - 1]
        gain = 1 - (1 + p["C"] * rates[k] ** -p["gamma"] * since) ** -p["beta"]
        out.append(p["L0"] + p["A"] * cum[t] ** -p["alpha"] - p["B"] * ((rates[k - 1] - rates[k]) * gain).sum())
    return np.array(out)


def of_law(rates, steps, *, exact=False):
    rows = join([compile_run(rates, steps, first=0, units=UNITS, exact=exact)], [0.0], UNITS)
    return MultiPower.evaluate(MultiPower.theta(LAW, UNITS)[None, :, None], rows)[0][0]


@pytest.mark.parametrize("seed", range(20))
def test_blocks_of_steps_stand_for_their_terms(seed):
    draw = np.random.default_rng(seed)
    name = str(draw.choice(["cosine", "linear", "wsd", "wsd", "wsdld", "wsdcon"]))
    shape, final = str(draw.choice(["1-sqrt", "linear", "exponential"])), float(draw.choice([0.01, 0.1, 0.5]))
    warmup, steps = int(draw.integers(0, 60)), int(draw.integers(100, 2500))
    rates = Schedule(name, warmup, draw.uniform(0.05, 0.9), shape, final).rates(steps, 3e-4)
    at = np.unique(np.geomspace(max(warmup, 1) + 1, steps - 1, 6).astype(int))
    wanted = naive(rates, at, LAW)
    np.testing.assert_allclose(of_law(rates, at, exact=True), wanted, rtol=1e-12)
    np.testing.assert_allclose(of_law(rates, at), wanted, rtol=2e-6)


def test_any_rates_by_a_column():
    rates = 3e-4 * np.exp(0.3 * np.random.default_rng(0).standard_normal(400).cumsum() / 8)
    np.testing.assert_allclose(of_law(rates, np.array([5, 99, 399])), naive(rates, [5, 99, 399], LAW), rtol=1e-9)


def test_far_fewer_terms_than_steps():
    rates = Schedule("cosine", 100, final_fraction=0.1).rates(20_000, 3e-4)
    parts = compile_run(rates, np.array([19_999]), first=0, units=UNITS)
    assert len(parts["row"]) < 250
    assert compile_run(np.ones(10), np.array([9]), first=0, units=UNITS)["row"].size == 0


def test_a_row_beyond_the_schedule_is_refused():
    with pytest.raises(ValueError, match="step 10 lies beyond a schedule of 10 steps"):
        compile_run(np.ones(10), np.array([10]), first=0, units=UNITS)


@pytest.mark.parametrize("form", CURVE_LAWS.values(), ids=str)
def test_derivatives_and_parameters(form):
    rates = Schedule("wsd", 20, 0.3).rates(300, 0.02)
    units = Units(0.02, 100.0)
    rows = join([compile_run(rates, np.array([30, 200, 260, 299]), first=0, units=units)], [0.0], units)
    start = {"L0": 2.0, "log_A": -0.5, "alpha": 0.4, "log_B": -2.0, "log_C": -2.0, "beta": 0.6, "gamma": 0.6}
    theta = np.array([start.get(name, -3.0) for name in form.coordinates()])
    slopes = form.evaluate(theta[None, :, None], rows)[1][0]
    for j, slope in enumerate(slopes):
        step = 1e-6 * (np.arange(len(theta)) == j)
        up, down = (form.evaluate((theta + s)[None, :, None], rows)[0][0] for s in (step, -step))
        np.testing.assert_allclose(slope, (up - down) / 2e-6, atol=1e-8)
    np.testing.assert_allclose(form.theta(form.parameters(theta, units), units), theta, rtol=1e-9)
