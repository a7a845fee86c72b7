"""Sweeps of a table: names that other programs use, cells and their edges, and what shows no optimum."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoflop.scaling.table.columns import TableError
from isoflop.scaling.tuning.sweep import NoOptimumError, levels, sweep_of

RATES = (2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3)


def runs(best: dict[float, float], rates=RATES, **columns: object) -> pd.DataFrame:
    """Bowls of .1 nats per ln^2 around the best rate of each size."""
    rows = [(n, 2e8, rate, 3.0 + 0.1 * np.log(rate / b) ** 2) for n, b in best.items() for rate in rates]
    frame = pd.DataFrame(rows, columns=["n_params", "tokens", "peak_learning_rate", "loss"])
    return frame.assign(**columns)


BOWLS = {1e6: 1e-3, 1e7: 9e-4, 1e8: 8e-4}


@pytest.mark.slow
@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=30))
def test_values_of_a_level_lie_near_their_neighbours_and_levels_apart(values):
    label = levels(np.array(values))
    groups = [np.sort(np.array(values)[label == k]) for k in range(label.max() + 1)]
    assert all((g[1:] <= 1.02 * g[:-1]).all() for g in groups)
    assert all(b.min() > 1.02 * a.max() for a, b in pairwise(groups))


@pytest.mark.parametrize("name", ["lr", "learning_rate", "LR", "max_lr", "peak_lr", "eta"])
def test_a_rate_is_found_under_the_names_that_programs_give_it(name):
    swept = sweep_of(runs(BOWLS).rename(columns={"peak_learning_rate": name}))
    assert len(swept.cells) == 3
    assert f"peak_learning_rate: column {name}, as the peak of a run" in swept.notes


def test_batches_in_sequences_need_their_length():
    table = runs(BOWLS, batch_size=[8, 16, 32, 64, 128] * 3)
    with pytest.raises(TableError, match="batch_size counts sequences, and their length is not known"):
        sweep_of(table)
    crossed = pd.concat([runs(BOWLS, batch_size=b, seq_len=512, wd=0.1) for b in (8, 32)], ignore_index=True)
    swept = sweep_of(crossed)
    assert swept.values("batch_tokens").tolist() == [8 * 512, 32 * 512]
    assert swept.values("weight_decay").tolist() == [0.1]
    assert swept.context == 512
    assert {n.partition(":")[0] for n in swept.notes} >= {"batch_tokens", "context_length", "weight_decay"}
    one = sweep_of(runs(BOWLS, batch_size=8))  # the same in all runs: nothing is asked of it
    assert len(one.values("batch_tokens")) == 0


def test_two_names_of_a_rate_must_be_chosen_between():
    table = runs(BOWLS).rename(columns={"peak_learning_rate": "lr"}).assign(max_lr=1.0)
    with pytest.raises(TableError, match=r"may be column lr or max_lr: choose with --map peak_learning_rate=lr"):
        sweep_of(table)
    with pytest.raises(TableError, match="no column 'peak_learning_rate'"):
        sweep_of(runs(BOWLS).drop(columns="peak_learning_rate"))


def test_cells_at_an_edge_are_marked_and_cells_of_few_rates_are_left_out_and_counted():
    table = pd.concat([runs({1e6: 1e-3, 1e7: 1e-5, 1e8: 1.0}), runs({1e9: 1e-3}, rates=RATES[:2])], ignore_index=True)
    swept = sweep_of(table)
    assert swept.cells["edge"].tolist() == ["", "low", "high", ""]
    assert swept.cells["fitted"].tolist() == [True, True, True, False]
    assert 1e9 not in swept.rows["n_params"].to_numpy()
    assert "1 of 4 cells have fewer than 3 rates: their 2 runs are not fitted" in swept.notes


def test_runs_far_from_the_lowest_loss_are_not_fitted_and_counted():
    wide = sweep_of(runs(BOWLS, rates=tuple(1e-3 * 4.0**k for k in (-3, -2, -1, 0, 1))))
    assert len(wide.rows) == 9
    assert any("6 runs whose rate is more than a factor 4.5" in note for note in wide.notes)


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (runs(BOWLS, rates=(1e-3,)), "every run has the learning rate 0.001"),
        (runs(BOWLS, rates=RATES[:2]), "no cell of equal size, tokens and batch has 3 learning rates"),
        (runs({1e6: 1e-5, 1e7: 1e-5}), "in all 2 cells .*the lowest in 2.*try lower rates"),
        (runs({1e6: 1.0, 1e7: 1.0}), "in all 2 cells .*the highest in 2.*try higher rates"),
        (runs({1e6: 1.0, 1e7: 1e-5}), "the lowest in 1 and the highest in 1.*try lower and higher rates"),
    ],
)
def test_a_table_without_an_optimum_is_refused_in_one_line(table, says):
    with pytest.raises(NoOptimumError, match=says) as raised:
        sweep_of(table)
    assert "\n" not in str(raised.value)
    assert raised.value.exit_code == 1


def test_of_two_weight_decays_the_better_one_is_fitted_and_zeros_are_left_out():
    two = pd.concat([runs(BOWLS, weight_decay=0.1), runs(BOWLS, weight_decay=0.0)], ignore_index=True)
    two.loc[two["weight_decay"] == 0.0, "loss"] -= 0.1
    swept = sweep_of(two)
    assert swept.values("weight_decay").tolist() == [0.0]
    assert any("weight decays 0, 0.1: too few for an optimum, the runs at 0 alone" in note for note in swept.notes)
    several = [runs(BOWLS, weight_decay=w) for w in (0.0, 0.05, 0.1, 0.2, 5.0)]
    for k, part in enumerate(several):
        part["loss"] += 0.1 * (k - 2) ** 2
    found = sweep_of(pd.concat(several, ignore_index=True))
    assert found.values("weight_decay").tolist() == [0.05, 0.1, 0.2]
    assert any("30 runs whose weight decay is 0 or more than a factor 10" in note for note in found.notes)


def test_runs_that_diverged_bound_a_cell_from_above(study_table):
    tried = []
    for k, rate in enumerate((0.01, 0.02, 0.04)):
        part = study_table[study_table["final"] & (study_table["seed"] == 0)].drop_duplicates("d_model").copy()
        part["peak_learning_rate"], part["run_id"] = rate, part["run_id"] + str(k)
        part["tokens"] = part["horizon_tokens"] = 100_000
        part["loss"] = 2.0 - 0.1 * k
        tried.append(part)
    low = pd.concat([tried[0].assign(peak_learning_rate=0.005, run_id="x" + tried[0]["run_id"], loss=2.2), *tried])
    with pytest.raises(NoOptimumError, match="try higher rates"):
        sweep_of(low)
    diverged = tried[2].assign(peak_learning_rate=0.08, run_id="y" + tried[2]["run_id"], state="diverged", loss=np.nan)
    swept = sweep_of(pd.concat([low, diverged], ignore_index=True))
    assert (swept.cells["edge"] == "").all()
    assert (swept.cells["rates"] == 5).all()
