"""What a run has seen rises with its steps, or is said not to."""

import json
from pathlib import Path

import pandas as pd
import pytest

from isoflop.scaling.imports.assemble import Imported, ImportOptions
from isoflop.scaling.imports.read import import_source
from isoflop.scaling.imports.source import SourceError
from isoflop.scaling.table.columns import TableError
from isoflop.scaling.table.conventions import points
from isoflop.scaling.table.read import read_table

STEPS = [*range(100, 2001, 100), *range(2000, 4001, 100)]  # one is logged again after a restart


def imported(path: Path, **options) -> Imported:
    return import_source(path, "auto", ImportOptions(**options), {})


def write(path: Path, **columns: list) -> Path:
    """Two runs of one history."""
    rows = pd.DataFrame({"step": STEPS, "val_loss": [6 - step / 1e4 for step in STEPS], "n_params": 1e6, **columns})
    pd.concat([rows.assign(run=run) for run in "ab"]).to_csv(path, index=False)
    return path


RESUMED = [1000 * step if k < 20 else 1000 * (step - 1900) for k, step in enumerate(STEPS)]


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (RESUMED, r"tokens fall from 1.9e\+06 at step 1900 to 100000 at step 2000"),
        ([1000] * len(STEPS), "tokens are 1000 at step 100 and at step 4000"),
    ],
)
def test_tokens_that_do_not_rise_with_the_steps_are_refused_and_counted_by_steps_where_a_batch_is_given(
    tmp_path, tokens, message
):
    path = write(tmp_path / "t.csv", tokens=tokens)
    with pytest.raises(SourceError, match=rf"a: {message} .*; count them by steps with --batch-tokens a=VALUE"):
        imported(path)
    with pytest.raises(TableError, match=rf"run a: {message} .*`isoflop import --batch-tokens VALUE`"):
        points(read_table(path))
    made = imported(path, batch_tokens={"": 1000})
    assert made.ends["tokens"].tolist() == [4e6, 4e6]
    assert len([note for note in made.notes if note.endswith("; its tokens are steps times --batch-tokens")]) == 2


def test_tokens_that_rise_or_stand_still_between_some_steps_are_as_reported(tmp_path):
    tokens = [round(step * 1000, -5) for step in STEPS]
    assert imported(write(tmp_path / "t.csv", tokens=tokens)).ends["tokens"].tolist() == [4e6, 4e6]


def test_seconds_that_begin_again_are_left_out(tmp_path):
    tokens = [1000 * step for step in STEPS]
    path = write(tmp_path / "t.csv", tokens=tokens, _runtime=[step if step < 2000 else step - 1900 for step in STEPS])
    made = imported(path)
    assert "wall_seconds" not in made.table
    assert any(
        note.startswith("a: wall_seconds fall from 1900 at step 1900 to 100 at step 2000") for note in made.notes
    )


def test_a_share_of_the_tokens_at_the_end_is_by_what_rises(tmp_path):
    path = write(tmp_path / "t.csv", epoch=[1] * len(STEPS))
    made = imported(path, tokens={"": 4e6})
    assert made.table["tokens"].tolist()[:2] == [1e5, 2e5]


@pytest.mark.parametrize("parts", [2, 3])
def test_steps_that_begin_again_while_tokens_go_on_are_counted_on(tmp_path, parts):
    steps = [*range(100, 1001, 100)] * parts
    tokens = [1000 * (step + 1000 * (k // 10)) for k, step in enumerate(steps)]
    rows = pd.DataFrame({"step": steps, "tokens": tokens, "val_loss": [6 - t / 1e7 for t in tokens], "n_params": 1e6})
    path = tmp_path / "t.csv"
    pd.concat([rows.assign(run="a"), rows[:10].assign(run="b")]).to_csv(path, index=False)
    made = imported(path)
    assert made.ends["step"].tolist() == [1000 * parts, 1000]
    assert (made.table["tokens"] == 1000 * made.table["step"]).all()
    assert "steps begin again in run a, and its tokens go on: steps are counted on" in made.notes


def planned(path: Path, last: int) -> Path:
    """Run a as planned, run b up to a step of 4000."""
    rows = [f"{run},{step},4000,1e6,{1000 * step},{6 - step / 1e4}" for run, end in (("a", 4000), ("b", last))
            for step in range(100, end + 1, 100)]  # fmt: skip
    path.write_text("\n".join(["run,step,max_steps,n_params,tokens,val_loss", *rows]))
    return path


def test_a_run_below_its_plan_is_kept_where_that_is_asked_for(tmp_path):
    path = planned(tmp_path / "t.csv", 2000)
    made = imported(path)
    assert made.ends["run_id"].tolist() == ["a"]
    assert str(made.left_out[0]).endswith(
        "below 90% of its plan (column max_steps); `isoflop import --keep-unfinished` keeps it"
    )
    assert imported(path, keep_unfinished=True).ends["tokens"].tolist() == [4e6, 2e6]
    assert imported(planned(path, 3700)).ends["tokens"].tolist() == [4e6, 3.7e6]
    states = tmp_path / "states.csv"
    states.write_text("run,state,n_params,tokens,loss\na,finished,1e6,1e8,3\nb,crashed,1e6,5e7,4\n")
    assert imported(states).table["run_id"].tolist() == ["a"]
    assert imported(states, keep_unfinished=True).table["run_id"].tolist() == ["a", "b"]


@pytest.mark.parametrize(("steps", "kept"), [(3052, True), (3000, True), (3333, True), (3334, False), (6000, False)])
def test_a_last_evaluation_before_the_last_step_is_the_end_of_a_run(tmp_path, steps, kept):
    history = [{"step": step, "eval_loss": 5 - step / 1e4} for step in range(500, 3001, 500)]
    state = {"log_history": history, "global_step": steps, "max_steps": steps}
    (tmp_path / "trainer_state.json").write_text(json.dumps(state))
    given = {"batch_tokens": {"": 1000}, "n_params": {"": 1e6}}
    if not kept:
        with pytest.raises(SourceError, match=r"at step 3000 of \d+, below 90% .*import --keep-unfinished` keeps it"):
            imported(tmp_path, **given)
    made = imported(tmp_path, **given, keep_unfinished=not kept)
    assert made.ends["tokens"].tolist() == [3e6]
    said = f": its last evaluation, at step 3000 of {steps}, is taken as its end"
    assert any(note.endswith(said) for note in made.notes) == (steps > 3000)
