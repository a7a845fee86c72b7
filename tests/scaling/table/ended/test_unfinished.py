"""A column of yes and no is read in the marks that people make, and what it says else is said."""

import numpy as np
import pandas as pd
import pytest

from isoflop.scaling.table.ended.unfinished import short_of_plan
from isoflop.scaling.table.read import read_table

RUNS = pd.DataFrame({"N": [1e8, 2e8, 4e8, 8e8], "D": 1e9, "loss": [3.5, 3.3, 3.2, 7.4]})


def kept(tmp_path, name, cells):
    path = tmp_path / "runs.csv"
    RUNS.assign(**{name: cells}).to_csv(path, index=False)
    table = read_table(path)
    return table.index.tolist(), [note for note in table.attrs["notes"] if name in note]


@pytest.mark.parametrize(
    ("yes", "no"),
    [
        ("x", ""), ("X", ""), ("\u2713", ""), ("\u2705", "\u274c"), ("\u2714\ufe0f", "\u2717"), ("\u2713", "x"),
        ("t", "f"), ("yes", "no"), ("True", "False"), ("1", "0"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["diverged", "done"])
def test_marks_of_yes_and_no(tmp_path, yes, no, name):
    bad, good = (yes, no) if name == "diverged" else (no, yes)
    rows, notes = kept(tmp_path, name, [good, good, good, bad])
    assert rows == [0, 1, 2]
    assert "1 of 4 rows are left out" in notes[0]


@pytest.mark.parametrize(
    ("name", "cells", "unread"),
    [("diverged", ["", "", "", "\u2717"], "\u2717"), ("done", ["yes", "yes", "ok?", "no"], "ok?")],
)
def test_marks_that_say_neither_are_named(tmp_path, name, cells, unread):
    rows, notes = kept(tmp_path, name, cells)
    assert rows == [0, 1, 2, 3]
    assert notes == [f"column {name} says {unread}, neither yes nor no: its runs are taken as finished"]


def test_an_empty_cell_beside_words_says_nothing(tmp_path):
    assert kept(tmp_path, "finished", ["yes", "", "yes", "no"])[0] == [0, 1, 2]


@pytest.mark.parametrize(("step", "short"), [("iter", [1]), ("train/global_step", [1]), ("steps", [1]), (None, [])])
def test_a_plan_is_of_training_steps_and_not_of_the_calls_of_wandb(step, short):
    rows = RUNS.assign(_step=[12, 6, 12, 12], max_iters=3000)
    rows = rows if step is None else rows.assign(**{step: [3000, 1500, 3000, 3000]})
    found = short_of_plan(rows)
    assert (list(np.flatnonzero(found[1])) if found else []) == short


def test_the_calls_of_wandb_are_steps_where_a_run_reaches_its_plan_by_them_or_they_are_named():
    rows = RUNS.assign(_step=[3000, 1500, 3000, 3000], max_steps=3000)
    assert short_of_plan(rows)[1].tolist() == [False, True, False, False]
    assert short_of_plan(rows.assign(_step=[3, 1, 3, 3]), step="_step")[1].all()
