"""The rows of the calculator: grids on round logarithms, the law's optimum in each, intervals of its refits."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from isoflop.analysis.page import calculator
from isoflop.analysis.page.calculator import (
    ABOVE,
    BELOW,
    GIVEN,
    QUANTITIES,
    STEPS,
    _inverse,
    _optimum,
    calculator_frame,
)
from isoflop.scaling.fitting.fit import fit
from isoflop.scaling.fitting.uncertainty import jackknife
from tests.support.fits.simulated import BESIROGLU, isoflop_table


@pytest.fixture(scope="module")
def draws():
    return jackknife(fit("chinchilla", isoflop_table(BESIROGLU, seed=1, largest=2e20)))


@pytest.fixture(scope="module")
def frame(draws):
    return calculator_frame(draws.fit, draws)


def rows(frame, given):
    return frame[frame["given"] == given]


def test_columns_and_order(frame):
    assert list(frame) == ["given", *(f"{q}{end}" for q in QUANTITIES for end in ("", "_low", "_high"))]
    assert list(dict.fromkeys(frame["given"])) == list(GIVEN)
    assert np.diff(np.log10(rows(frame, "flops")["flops"])) == pytest.approx(2 * 0.01)  # two stops of the slider


@pytest.mark.parametrize(("given", "letter"), [("flops", None), ("n_params", "N"), ("tokens", "D")])
def test_grids_hold_what_they_must_and_no_step_more(draws, frame, given, letter):
    known = draws.fit.points.frame["flops"]
    ends = known.min() / BELOW, known.max() * ABOVE
    if letter:
        budgets = rows(frame, "flops")["flops"].to_numpy()
        ends = getattr(draws.fit.optimal(budgets[[0, -1]]), letter)
    steps = np.log10(rows(frame, given)[given].to_numpy()) * STEPS
    assert steps == pytest.approx(np.round(steps), abs=1e-9)
    assert np.diff(steps) == pytest.approx(1)
    first, last = np.log10(np.array(ends)) * STEPS
    assert steps[0] <= first + 1e-9 < steps[1] + 2e-9
    assert steps[-2] <= last + 1e-9 < steps[-1] + 2e-9


def test_every_row_is_the_laws_optimum(draws, frame):
    for given, letter in (("flops", "C"), ("n_params", "N"), ("tokens", "D")):
        part = rows(frame, given)
        best = draws.fit.optimal(part["flops"].to_numpy())
        for name, own in zip(QUANTITIES, ("C", "N", "D", "loss"), strict=True):
            assert part[name].to_numpy() == pytest.approx(getattr(best, own), rel=1e-9)
        assert part[given].to_numpy() == pytest.approx(getattr(best, letter), rel=1e-12)


@pytest.mark.parametrize("at", [0, 40, -1])
def test_intervals_are_those_of_the_refits(draws, frame, at):
    cost = draws.fit.cost
    row = rows(frame, "flops").iloc[at]
    for name, own in (("n_params", "N"), ("tokens", "D"), ("loss", "loss")):
        interval = draws.interval(lambda law, own=own: getattr(law.optimal(row["flops"], cost), own), 0.9)
        assert (row[f"{name}_low"], row[f"{name}_high"]) == pytest.approx(interval, rel=1e-9)

    def compute(given, exponent, own):
        return lambda law: (given / getattr(law.optimal(1e20, cost), own)) ** (1 / law.exponents(cost)[exponent]) * 1e20

    for name, exponent, own in (("n_params", "a", "N"), ("tokens", "b", "D")):
        row = rows(frame, name).iloc[at]
        interval = draws.interval(compute(row[name], exponent, own), 0.9)
        assert (row["flops_low"], row["flops_high"]) == pytest.approx(interval, rel=1e-6)
        assert row[f"{name}_low"] == pytest.approx(row[f"{name}_high"], rel=1e-9)


class Bent:
    """A law whose best size is no power of compute."""

    def optimal(self, budgets, cost):
        size = np.exp(0.4 * np.log(budgets) + 0.002 * np.log(budgets) ** 2)
        return SimpleNamespace(N=size, D=budgets / 6 / size, loss=10 * budgets**-0.05)


@pytest.mark.parametrize("step", [0.25, 0.02])  # of which the second needs no second look
def test_a_bent_optimum_is_followed_between_budgets_and_no_further_than_they_go(step):
    law, fit, grid = Bent(), SimpleNamespace(cost=None), 10 ** np.arange(15, 24.001, step)
    wanted = np.geomspace(1.1e16, 0.9e23, 60)
    along, best = _optimum(law, fit, grid[None]), _optimum(law, fit, wanted[None])
    found = _inverse(law, fit, [best[1, 0], best[2, 0]], along)
    assert found == pytest.approx(np.tile(best, 2), rel=1e-9)
    assert found[0] == pytest.approx(np.tile(wanted, (1, 2)), rel=1e-11)
    ends = law.optimal(grid[[0, -1]], None)
    beyond = _inverse(law, fit, [ends.N * [0.5, 2], ends.D * [0.5, 2]], along)
    assert beyond == pytest.approx(np.tile(along[:, :, [0, -1]], 2))


def test_values_between_budgets_lie_on_the_line_between_two():
    rng = np.random.default_rng(0)
    grid, values = np.sort(rng.uniform(0, 9, 7)), rng.normal(size=(4, 3, 7))
    at = np.concatenate([rng.uniform(grid[0], grid[-1], (3, 20)), np.tile(grid, (3, 1))], axis=1)
    expected = [[np.interp(a, grid, row) for a, row in zip(at, rows, strict=True)] for rows in values]
    np.testing.assert_allclose(calculator._between(grid, values, at), expected, atol=1e-12)


def test_laws_are_followed_along_rising_budgets_far_beyond_those_of_the_page(draws, monkeypatch):
    """Also where a budget of the page is one of those around them."""
    fitted = draws.fit
    known = fitted.points.frame.assign(flops=np.geomspace(1.1e18, 10**20.09, len(fitted.points)))
    requested = replace(fitted, points=replace(fitted.points, frame=known))
    along = []

    def followed(law, fit, given, best):
        along.append(best[0])
        return _inverse(law, fit, given, best)

    monkeypatch.setattr(calculator, "_inverse", followed)
    frame = calculator_frame(requested, draws)
    budgets = rows(frame, "flops")["flops"].to_numpy()
    assert np.isclose(np.log10(budgets[-1]) * 10, np.round(np.log10(budgets[-1]) * 10), atol=1e-9)
    for each in along:
        assert (np.diff(each) > 0).all()
        assert np.isin(budgets, each).all()
        assert each.min() <= budgets[0] / calculator.SLACK * 1.2
        assert each.max() >= budgets[-1] * calculator.SLACK / 1.2


def test_laws_are_asked_a_few_at_a_time(draws, frame, monkeypatch):
    monkeypatch.setattr(calculator, "TOGETHER", 3)
    pd.testing.assert_frame_equal(calculator_frame(draws.fit, draws), frame)
