"""Arms that were not tuned alike, or whose best rate is at an edge, are objected to; arms that were, are not."""

import numpy as np
import pandas as pd
import pytest

from isoflop.scaling.findings.tuning_checks import tuning_findings

RATES = (0.005, 0.01, 0.02, 0.04)


def arm(optimum=0.014, rates=RATES, sizes=(1e6, 4e6), **fields) -> pd.DataFrame:
    rows = [(n, rate, 2.0 + np.log10(rate / optimum) ** 2) for n in sizes for rate in rates]
    return pd.DataFrame(rows, columns=["n_params", "peak_learning_rate", "loss"]).assign(**{"tokens": 2e7} | fields)


def codes(**arms: pd.DataFrame) -> dict[str, str]:
    return {finding.code: finding.message for finding in tuning_findings(arms)}


def test_arms_tuned_alike_with_optima_inside_are_let_pass():
    assert codes(a=arm(), b=arm(optimum=0.011)) == {}


def test_another_number_or_range_of_rates_is_unequal():
    assert codes(a=arm(), b=arm(rates=RATES[:3], optimum=0.01))["unequal_tuning"] == (
        "learning rates tried: 4 over a factor 8 for a, 3 over a factor 4 for b"
    )
    assert "unequal_tuning" in codes(a=arm(), b=arm(rates=(0.001, 0.01, 0.02, 0.1)))
    assert "unequal_tuning" not in codes(a=arm(), b=arm(rates=(0.05, 0.1, 0.2, 0.4), optimum=0.14))


@pytest.mark.parametrize(("optimum", "edge"), [(1.0, "0.04"), (1e-4, "0.005")])
def test_a_best_rate_at_an_edge_is_said_with_its_cells(optimum, edge):
    found = codes(a=arm(), b=arm(optimum=optimum))
    assert found["rate_at_edge"] == (
        f"b: the best rate is at an edge of the grid in 2 of 2 cells ({edge} at n_params 1,000,000, {edge} at n_params "
        "4,000,000)"
    )


def test_every_budget_of_a_size_is_a_cell_and_a_curve_is_one_run():
    both = pd.concat([arm(optimum=1e-4), arm(optimum=1e-4, tokens=4e7)], ignore_index=True)
    said = (
        "a: the best rate is at an edge of the grid in 4 of 4 cells (0.005 at n_params 1,000,000, 0.005 at n_params "
        "4,000,000)"
    )
    assert codes(a=both)["rate_at_edge"] == said
    ends = both.assign(run_id=[f"r{k}" for k in range(len(both))])
    half = ends.assign(tokens=ends["tokens"] / 3, loss=4.0 - ends["loss"] / 10)  # on the way the order is another
    assert codes(a=pd.concat([half, ends]))["rate_at_edge"] == said


def test_divergence_above_bounds_a_grid():
    rows = arm(optimum=1.0, run_id=lambda t: t.index.astype(str), step=9, final=True, state="done")
    assert "rate_at_edge" in codes(a=rows)
    rows.loc[rows["peak_learning_rate"] == 0.04, ["loss", "state"]] = [np.nan, "diverged"]
    assert "rate_at_edge" not in codes(a=rows)


def test_one_rate_an_arm_and_none_at_all_are_said():
    one = arm(rates=(0.02,))
    assert list(codes(a=one, b=one)) == ["rate_not_tuned"]
    assert list(codes(a=one, b=one.drop(columns="peak_learning_rate"))) == ["tuning_unknown"]
