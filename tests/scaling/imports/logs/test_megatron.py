"""Logs of Megatron-LM as tables."""

from pathlib import Path

from isoflop.scaling.imports.assemble import ImportOptions
from isoflop.scaling.imports.read import import_source
from tests.support.root import ROOT


def read(path: Path):
    return import_source(path, "auto", ImportOptions(), {})


def test_parameters_are_summed_over_ranks_and_tokens_are_samples_times_the_sequence():
    found = read(ROOT / "tests/support/files/megatron.log")
    last = found.table.iloc[-1]
    assert (last["run_id"], last["n_params"], last["tokens"], last["loss"]) == ("megatron", 2.5e6, 12_800 * 512, 4.4)
    assert (last["step"], last["batch_tokens"], last["train_loss"], last["seed"]) == (200, 64 * 512, 4.31, 1234)
    assert last["peak_learning_rate"] == 6e-4


def test_a_run_that_stopped_and_two_models_in_one_log(tmp_path):
    text = (ROOT / "tests/support/files/megatron.log").read_text()
    other = text.replace("1200000", "4200000").replace("4.400000E+00", "3.900000E+00")
    (tmp_path / "both.log").write_text(text + other)
    table = read(tmp_path / "both.log").table
    last = table.drop_duplicates("run_id", keep="last")
    assert last[["run_id", "n_params", "loss"]].to_numpy().tolist() == [["both#1", 2.5e6, 4.4], ["both#2", 5.5e6, 3.9]]
    (tmp_path / "short.log").write_text(text.split("[default7]: [2026-05-01 12:00:12]")[0])
    assert "at step 100 of 200" in str(read(tmp_path).left_out[-1])
