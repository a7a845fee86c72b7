"""The critical batch from the curves of runs, and the noise scale that they logged beside it."""

import json
import shlex

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from isoflop.__main__ import app
from isoflop.scaling.prediction.batch.batch_of_runs import noise_of_runs, steps_of_runs
from isoflop.scaling.prediction.batch.critical_batch import BatchError, critical_batch
from isoflop.scaling.table.columns import TableError
from isoflop.scaling.table.formats.run_columns import PARAM_GROUPS
from isoflop.scaling.table.read import read_table
from isoflop.scaling.table.where import matching_rows
from tests.support.root import RESULTS

CRITICAL = {1e4: 3000.0, 1e5: 8000.0, 1e6: 20000.0}
BATCHES, RATES = (512, 1024, 2048, 4096, 8192), (0.01, 0.02)
STEPS = np.round(64 * 2 ** (np.arange(16) / 2)).astype(int)


def study(batches=BATCHES, noise_scale=np.nan, phase="constant") -> pd.DataFrame:
    """Runs of three sizes: the loss is a power of S / (1 + critical / B), and the second rate is the better one."""
    rows = []
    for n, critical in CRITICAL.items():
        for batch in batches:
            for rate in RATES:
                run = {"run_id": f"{n}-{batch}-{rate}", "trunk_id": f"{n}-{batch}-{rate}", "state": "done"}
                run |= {f"n_params_{group}": 0 for group in PARAM_GROUPS} | {"n_params_mlp": int(n)}
                run |= {"n_params_total": int(n), "n_params_active": int(n), "batch_tokens": batch}
                run |= {
                    "context_length": 64,
                    "tied": False,
                    "peak_learning_rate": rate,
                    "weight_decay": 0.0,
                    "noise_scale": noise_scale,
                }
                losses = 20 * (1 + (rate == RATES[0])) ** 0.1 * (STEPS / (1 + critical / batch)) ** -0.3
                rows += [
                    run | {"step": step, "loss": loss, "phase": phase, "final": step == STEPS[-1],
                           "tokens": step * batch, "horizon_tokens": 10**6}
                    for step, loss in zip(STEPS, losses, strict=True)
                ]  # fmt: skip
    return pd.DataFrame(rows)


def test_the_critical_batch_is_read_from_curves_each_batch_at_its_best_rate():
    found = critical_batch(study())
    assert [s.n_params for s in found.sizes] == list(CRITICAL)
    assert [s.critical for s in found.sizes] == pytest.approx(list(CRITICAL.values()), rel=0.1)
    assert found.noise == ()
    assert "each batch at its best rate" in str(found)


@pytest.mark.parametrize("name", ["arm", "optimizer", "corpus_id", "eval_id", "tokenizer_id", "family", "tied"])
def test_runs_of_two_experiments_have_no_critical_batch_together(name):
    table = study(noise_scale=4000.0)
    one, other = (False, True) if name == "tied" else ("adamw's", "muon")
    both = pd.concat([table.assign(**{name: one}), table.assign(**{name: other})], ignore_index=True)
    for refuses in (critical_batch, steps_of_runs, lambda runs: noise_of_runs(runs, 0.9)):
        with pytest.raises(TableError, match=f"2 values of {name} ") as refused:
            refuses(both)
    condition = shlex.split(str(refused.value).split("--where ")[1])[0]
    kept = both[matching_rows(both, condition)]
    assert critical_batch(kept).sizes[0].critical == critical_batch(table).sizes[0].critical


def test_steps_are_between_rows_and_shared_rows_of_a_trunk_count_once():
    table = study()
    steps = steps_of_runs(table)
    of_size = steps[steps["n_params"] == 1e4]
    target = 20 * (STEPS[-1] / (1 + 3000 / 512)) ** -0.3  # of the smallest batch at the better rate
    assert of_size["target_loss"].tolist() == pytest.approx([target] * 5)
    assert of_size["steps_to_target"].iloc[0] == pytest.approx(STEPS[-1])
    assert of_size["steps_to_target"].iloc[4] == pytest.approx(
        STEPS[-1] * (1 + 3000 / 8192) / (1 + 3000 / 512), rel=0.02
    )
    twice = pd.concat([table, table.assign(run_id=table["run_id"] + "b", loss=table["loss"])], ignore_index=True)
    pd.testing.assert_frame_equal(steps_of_runs(twice), steps)


def test_a_batch_that_is_there_at_its_first_row_is_left_out_and_counted():
    table = study()
    table.loc[(table["n_params_mlp"] == 1e4) & (table["batch_tokens"] == 8192), "loss"] = 0.1
    steps = steps_of_runs(table)
    assert len(steps) == 14
    assert any("1 batches are below the loss of their size" in note for note in steps.attrs["notes"])


def test_the_noise_scale_stands_beside_and_alone():
    table = study(noise_scale=1.0)
    table["noise_scale"] = np.where(table["peak_learning_rate"] == RATES[0], 1000.0, 4000.0)
    (first, *_) = noise_of_runs(table, 0.9)
    assert (first.n_params, first.runs, first.tokens) == (1e4, 10, 1e6)
    assert first.value == pytest.approx(2000)
    lo, hi = first.interval
    assert lo * hi == pytest.approx(2000**2)
    assert 1000 < lo < 2000
    alone = critical_batch(study(batches=(512,), noise_scale=700.0))
    reported = json.loads(json.dumps(alone.to_dict()))
    assert reported["critical_batch"] == []
    assert [one["value"] for one in reported["noise_scale"]] == pytest.approx([700] * 3)
    assert "noise scale of the gradient" in str(alone)
    with pytest.raises(BatchError, match="no critical batch to plan devices by"):
        critical_batch(study(batches=(512,), noise_scale=700.0), devices=4, tokens_per_second=1e5)


@pytest.mark.slow
def test_own_noise_scales_are_within_a_factor_of_two_of_own_critical_batches_at_the_larger_sizes():
    found = critical_batch(read_table(RESULTS / "hp_law.parquet"))
    noise = {one.n_params: one.value for one in found.noise if one.tokens > 2e6}
    times = {size.n_params: size.critical / noise[size.n_params] for size in found.sizes}
    assert list(times.values()) == pytest.approx([4.57, 2.78, 1.61, 1.32, 1.43], abs=0.02)
    for size in found.sizes:
        lo, hi = size.interval
        assert lo < noise[size.n_params] < hi


@pytest.mark.slow
def test_the_command_reads_a_table_of_runs():
    answered = CliRunner().invoke(app, ["batch", str(RESULTS / "quick.parquet")])
    assert "no size was trained with 4 batches" in str(answered.exception)
    assert getattr(answered.exception, "exit_code", 2) == 1


def test_runs_that_say_nothing_of_batches_are_refused_in_one_line():
    for table in (study(batches=(512,)), study(phase="decay")):
        with pytest.raises(BatchError, match=r"no size was trained with 4 batches .* \(where.noise_scale=true\)"):
            critical_batch(table)
