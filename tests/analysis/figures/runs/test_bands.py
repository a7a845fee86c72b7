"""The figure of curves with the bands of their forecasts."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PolyCollection

from isoflop.analysis.figures.runs.bands import plot_bands
from isoflop.scaling.prediction.curves import bands as curves_with_bands
from isoflop.scaling.prediction.curves.bands import curve_bands


def unfinished_study():
    """Curves of five runs, of which the last is at half of its steps."""
    rows = []
    for k in range(5):
        for step in range(100, 1001 if k < 4 else 501, 50):
            rate = 0.01 * (1 if step < 800 else (1000 - step) / 200)
            rows.append((f"r{k}", step, 1e6 * 2**k, rate, (2 + 5 * (2**k * step) ** -0.2) * (1 + 0.002 * k), 1000))
    return pd.DataFrame(rows, columns=["run_id", "step", "n_params", "lr", "loss", "max_steps"])


@pytest.mark.slow
def test_bands_begin_where_the_rows_end_and_hold_the_forecast():
    table = unfinished_study()
    bands = curve_bands(table)
    assert set(bands["run_id"]) == {"r4"}
    assert (bands.attrs["runs"], bands.attrs["unfinished"], bands.attrs["apart"]) == (5, True, False)
    ahead = bands[bands["forecast"].notna()]
    assert (ahead["step"].min(), ahead["step"].max(), bands["end"].sum()) == (500, 1000, 1)
    ax = plot_bands(bands)
    drawn = [line for line in ax.get_lines() if len(line.get_xdata()) > 2]
    seen, forecast = (next(x for x in drawn if (x.get_linestyle() == "--") == dashed) for dashed in (False, True))
    np.testing.assert_allclose(seen.get_ydata(), table.loc[table["run_id"] == "r4", "loss"])
    np.testing.assert_allclose(forecast.get_ydata(), ahead["forecast"])
    band = next(c for c in ax.collections if isinstance(c, PolyCollection)).get_paths()[0].vertices
    assert band[:, 1].min() == pytest.approx(ahead["lo"].min())
    assert band[:, 1].max() == pytest.approx(ahead["hi"].max())
    whole = curve_bands(table[table["run_id"] != "r4"], runs=("r1", "r3"))  # all finished: each from its half
    assert set(whole["run_id"]) == {"r1", "r3"}
    assert whole.loc[whole["seen"], "step"].max() == 500
    ax = plot_bands(whole)
    later = [line for line in ax.get_lines() if line.get_markerfacecolor() == "white"]
    assert sum(len(line.get_xdata()) for line in later) == 20
    with pytest.raises(ValueError, match="--run nope: no run"):
        curve_bands(table, runs=("nope",))
    with pytest.raises(ValueError, match="3 runs of 19 rows each: a band needs 4 runs"):
        curve_bands(table[table["run_id"] < "r3"])


@pytest.mark.slow
def test_of_many_runs_the_law_is_fitted_to_some_and_that_is_said(monkeypatch):
    table = unfinished_study()
    monkeypatch.setattr(curves_with_bands, "MOST_RUNS", 4)
    bands = curve_bands(table, runs=("r4",))
    assert (bands.attrs["runs"], bands.attrs["fitted"]) == (5, 5)  # no fewer than a band needs beside its run
    monkeypatch.setattr(curves_with_bands, "FEW", 3)
    bands = curve_bands(table, runs=("r4",))
    assert (bands.attrs["runs"], bands.attrs["fitted"]) == (5, 4)
    assert set(bands["run_id"]) == {"r4"}
    assert "their law is fitted to 4 of the 5" in "\n".join(text.get_text() for text in plot_bands(bands).texts)
