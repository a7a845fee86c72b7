"""Columns of a table of metrics are found by their names, and what is taken is said."""

from pathlib import Path

import pandas as pd
import pytest

from isoflop.scaling.imports.assemble import Imported, ImportOptions
from isoflop.scaling.imports.read import import_source
from isoflop.scaling.imports.source import SourceError

STEPS = (100, 200, 300)
OTHERS = ("train/global_step", "trainer/global_step", "global_step", "iter", "iteration", "step")


def imported(path: Path, mapping=None, **options) -> Imported:
    return import_source(path, "auto", ImportOptions(n_params={"": 1e6}, **options), mapping or {})


def history(step: str, folder: Path) -> Path:
    """A history as wandb.log writes it without a step: `_step` counts its calls, `step` is the training step."""
    rows = []
    for at in STEPS:
        rows.append({"_step": len(rows), step: at, "train/loss": 3.0})
        rows.append({"_step": len(rows), step: at, "val/loss": 2.0 + 1 / at})
    path = folder / "d6.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


@pytest.mark.parametrize("step", OTHERS)
def test_the_training_step_goes_before_the_calls_of_wandb_and_is_named(tmp_path, step):
    path = history(step, tmp_path)
    made = imported(path, batch_tokens={"": 1000})
    assert made.table["tokens"].tolist() == [1000 * at for at in STEPS]
    assert f"steps: column {step}; the table also has _step (choose with --map step=COLUMN)" in made.notes
    chosen = imported(path, {"step": "_step"}, batch_tokens={"": 1000})
    assert chosen.table["step"].tolist() == [1, 3, 5]
    assert not [note for note in chosen.notes if note.startswith("steps:")]


def test_steps_that_are_the_only_ones_are_said_to_count_calls(tmp_path):
    path = tmp_path / "d6.csv"
    pd.DataFrame({"_step": STEPS, "val/loss": [3.0, 2.5, 2.4]}).to_csv(path, index=False)
    counts = "which counts calls of wandb.log unless these name a step"
    assert f"steps: column _step, {counts}" in imported(path, batch_tokens={"": 1000}).notes
    panel = tmp_path / "panel.csv"
    pd.DataFrame({"Step": STEPS, "d6 - val/loss": [3.0, 2.5, 2.4]}).to_csv(panel, index=False)
    assert f"steps: column Step, {counts}" in imported(panel, batch_tokens={"": 1000}).notes
    pd.DataFrame({"step": STEPS, "_step": STEPS, "val/loss": [3.0, 2.5, 2.4]}).to_csv(path, index=False)
    assert not [note for note in imported(path, batch_tokens={"": 1000}).notes if note.startswith("steps:")]


def test_steps_that_no_row_with_a_loss_has_are_refused_with_those_that_all_have(tmp_path):
    path = tmp_path / "d6.csv"
    path.write_text("_step,iter,train/loss,val/loss\n0,100,3,\n1,,,3\n2,200,2,\n3,,,2\n")
    with pytest.raises(SourceError, match=r"steps iter is empty in every row with a loss; .* --map step=_step"):
        imported(path)
    assert imported(path, {"step": "_step"}, batch_tokens={"": 1000}).ends["step"].tolist() == [3]


@pytest.mark.parametrize("runs", ["aa", "ab"])
@pytest.mark.parametrize(("written", "count"), [("0.5M", 5e5), ('"524,288"', 524288), ("524288", 524288), ("?", None)])
def test_the_tokens_of_a_step_are_read_as_people_write_them(tmp_path, runs, written, count):
    path = tmp_path / "h.csv"
    rows = [f"{run},{1000 * k},10M,{written},{4 - k / 10}\n" for k, run in enumerate(runs, 1)]
    path.write_text("run,step,params,batch_tokens,val_loss\n" + "".join(rows))
    if count is None:
        with pytest.raises(SourceError, match=r"batch_tokens is no number in rows 1, 2: '\?'; correct it, or leave"):
            imported(path)
        return
    assert imported(path).ends["tokens"].iloc[-1] == 2000 * count


def test_a_length_that_is_a_text_counts_tokens(tmp_path):
    path = tmp_path / "h.csv"
    path.write_text('run,step,samples,seq_len,val_loss\na,100,1000,"2,048",4\na,200,2000,"2,048",3\n')
    assert imported(path).table["tokens"].tolist() == [2_048_000, 4_096_000]
