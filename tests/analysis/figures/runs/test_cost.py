"""What runs cost and what they make of a longer past: throughput, hours, loss by position."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection

from isoflop.analysis.evidence import Evidence
from isoflop.analysis.figures import FIGURES
from isoflop.analysis.figures.arms import positions_frame
from isoflop.analysis.figures.runs.cost import cost_frame, plot_sweep_cost, plot_throughput
from isoflop.analysis.style import style
from isoflop.scaling.table.evaluations.evaluation import EVALUATION_FILE, write_evaluation
from isoflop.scaling.table.read import read_table


@pytest.fixture(autouse=True)
def styled():
    with style():
        yield


def lines(ax):
    return [line for line in ax.get_lines() if len(line.get_xdata()) > 2]


def test_throughput_draws_every_run_and_cost_every_budget(study_table):
    timed = study_table.assign(wall_seconds=study_table["flops"] / 1e10 * (1 + study_table["d_model"] / 100))
    cost = cost_frame(timed)
    ax = plot_throughput(cost)
    drawn = np.concatenate([c.get_offsets() for c in ax.collections if isinstance(c, PathCollection)])
    np.testing.assert_allclose(np.sort(drawn[:, 1]), np.sort(cost["flops"] / cost["wall_seconds"]))
    assert len(ax.get_legend().get_texts()) == cost["budget"].nunique()
    for longer, unit, length in ((1, "minutes", 60), (100, "hours", 3600), (0.01, "seconds", 1)):
        bars = plot_sweep_cost(cost.assign(wall_seconds=longer * cost["wall_seconds"]))
        expected = longer * cost.groupby("budget")["wall_seconds"].sum() / length
        np.testing.assert_allclose([p.get_width() for p in bars.patches], expected)
        assert bars.get_xlabel().startswith(f"time of training ({unit}")


POSITIONS = pd.DataFrame(
    {"run_id": arm, "arm": arm, "budget": 1e11, "position": at, "loss": level + 1 / at}
    for arm, level in (("lstm", 1.3), ("transformer", 1.0)) for at in range(1, 65)
)  # fmt: skip


def test_loss_by_position_draws_the_mean_of_neighbouring_positions(tmp_path):
    POSITIONS.to_csv(tmp_path / "positions.csv", index=False)
    e = Evidence(read_table(tmp_path / "positions.csv"))
    ax = FIGURES["positions"].draw(e)
    lstm, transformer = lines(ax)
    one = POSITIONS[POSITIONS["arm"] == "lstm"].set_index("position")["loss"]
    np.testing.assert_allclose(lstm.get_ydata()[0], one[1])
    last = one.loc[46:63]  # from 2^5.5 on, below 2^6
    assert np.isclose(lstm.get_ydata(), last.mean()).any()
    np.testing.assert_allclose(lstm.get_ydata() - transformer.get_ydata(), 0.3)
    assert (lstm.get_linestyle(), transformer.get_linestyle()) == ("-", "--")
    with pytest.raises(ValueError, match="n_params"):
        FIGURES["surface"].draw(e)


@pytest.mark.slow
def test_loss_by_position_is_read_beside_the_best_run_of_each_arm(study_table, tmp_path):
    half = study_table["run_id"].unique()[::2]
    table = study_table.assign(arm=np.where(study_table["run_id"].isin(half), "a", "b"))
    with pytest.raises(ValueError, match="give the folder"):
        positions_frame(table)
    table.attrs["source"] = str(tmp_path)
    (tmp_path / "cells").mkdir()
    with pytest.raises(ValueError, match="kept its loss by position"):
        positions_frame(table)
    final = table[table["final"]]
    best = final.loc[final.groupby(["arm", "budget_flops"])["loss"].idxmin()]
    for run in best.itertuples():
        rows = pd.DataFrame({"run_id": run.run_id, "measure": ["position", "position", "document"], "number": [1, 2, 0],
                             "targets": 4, "loss": [3.0, run.loss, 2.0], "accuracy": 0.5})  # fmt: skip
        write_evaluation(tmp_path / "cells" / run.run_id / EVALUATION_FILE, rows)
    frame = positions_frame(table)
    assert len(frame) == 2 * len(best)
    np.testing.assert_allclose(np.sort(frame.loc[frame["position"] == 2, "loss"]), np.sort(best["loss"]))
