"""What an exponent rests on: as computed anew without each budget, and named where one budget alone decides it."""

import json

import numpy as np
import pytest

from isoflop.scaling.approaches.approaches import approaches
from isoflop.scaling.approaches.left_out import budgets
from isoflop.scaling.design.simulate import simulate_points
from isoflop.scaling.fitting.fit import fit
from isoflop.scaling.table.conventions import points
from tests.support.fits.simulated import BESIROGLU, isoflop_table

pytestmark = pytest.mark.usefixtures("kept_searches")


@pytest.fixture(scope="module")
def table():
    made = isoflop_table(BESIROGLU, seed=2)
    return made.assign(flops=6 * made["n_params"] * made["tokens"])


@pytest.fixture(scope="module")
def found(table):
    return approaches(table, laws=("chinchilla",))


@pytest.mark.slow
def test_each_exponent_is_that_of_the_table_without_the_budget(table, found):
    known = budgets(found.points)
    assert list(known) == pytest.approx(1e20 * 10.0 ** np.linspace(-2.5, 0, 5))
    for flops in list(known)[1:4:2]:
        rest = table[np.abs(np.log(table["flops"] / flops)) > 0.1]
        again = {r.method: r for r in approaches(rest, laws=("chinchilla",)).rows if r.power}
        for row in found.rows[1:]:
            (one,) = [b for b in row.without if b.flops == flops]
            wanted = again[row.method].power.n_exponent
            assert one.n_exponent == pytest.approx(wanted, abs=1e-3 if row.approach == 3 else 1e-9)
            assert one.moved == pytest.approx((one.n_exponent - row.power.n_exponent) / row.power.n_error)


def test_standard_errors_are_those_behind_the_intervals(found):
    for row in found.rows[1:]:
        half = np.ptp(row.power.n_interval) / 2
        assert 1.2 * row.power.n_error < half < 3.5 * row.power.n_error


@pytest.mark.slow
def test_the_budget_that_decides_an_exponent_is_named(table):
    largest = table["flops"] > 0.9 * table["flops"].max()
    moved = np.where(largest, table["n_params"] / 3, table["n_params"])  # its losses are those of sizes a third
    damaged = table.assign(loss=BESIROGLU(moved, table["flops"] / 6 / moved))
    found = approaches(damaged, laws=("chinchilla",))
    rows = json.loads(json.dumps(found.to_dict(), allow_nan=False))["approaches"]
    message = {r["method"]: r["most_moved"] for r in rows}
    for method in ("exact", "akima", "parabola"):
        assert message[method]["flops"] == pytest.approx(1e20)
        assert message[method]["n_exponent"] < 0.53
    assert "without 1e+20 (" in str(found)
    assert "in standard errors of a with all budgets" in str(found)
    assert message["envelope"] is None


@pytest.mark.slow
def test_scattered_runs_and_two_budgets_have_none_to_leave_out(table):
    rng = np.random.default_rng(0)
    sizes = np.exp(rng.uniform(17, 22, 60))
    scattered = simulate_points(BESIROGLU, sizes, sizes * np.exp(rng.uniform(1.5, 5, 60)), noise=0.003)
    assert budgets(points(scattered)) == {}
    two = table[table["flops"] > 1e19]
    assert budgets(points(two)) == {}
    found = approaches(two, laws=("chinchilla",))
    assert [r.without for r in found.rows] == [()] * 5
    assert "moves most: without" not in str(found)
    answer = json.loads(json.dumps(found.to_dict(), allow_nan=False))["approaches"]
    assert [(r["without_budget"], r["most_moved"]) for r in answer] == [([], None)] * 5


@pytest.mark.slow
def test_a_budget_whose_profile_was_refused_moves_only_the_law(table, found):
    """Without sizes above its optimum the largest budget has no profile: the law alone rests on its runs."""
    best = BESIROGLU.optimal(1e20).N
    cut = table[~((table["flops"] > 9e19) & (table["n_params"] > best * 1.2))]
    rows = {r.method: r for r in approaches(cut, laws=("chinchilla",)).rows if r.power}
    top = {method: row.without[-1] for method, row in rows.items()}
    assert top["akima"].moved == pytest.approx(0.0, abs=1e-12)
    law = fit("chinchilla", cut[cut["flops"] < 9e19]).exponents()["a"]
    assert top["chinchilla"].n_exponent == pytest.approx(law, abs=1e-3)
    assert top["chinchilla"].moved != 0
