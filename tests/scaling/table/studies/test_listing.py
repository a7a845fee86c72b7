"""Budgets that a study holds out are in no fit, a note counts them, and what it advises keeps them."""

import json
import math
import re
import shutil

import pytest

from isoflop import example, read_table
from isoflop.scaling.table.runs import write_run


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """The runs of quick in a folder; returns what lists them as studies, of all budgets or of some."""
    table, root = example("quick"), tmp_path_factory.mktemp("quick") / "runs"
    for run, rows in table.groupby("run_id"):
        write_run(root / "cells" / str(run) / "run.parquet", rows.to_dict("records"), {})
    (root / "studies").mkdir()
    ends = table.groupby("run_id").tail(1)

    def listed(cells=None, **held):
        for file in root.glob("studies/*.json"):
            file.unlink()
        cells = cells or ends[["run_id", "arm", "budget_flops"]].to_dict("records")
        for name, hold_out in held.items():
            (root / "studies" / f"{name}.json").write_text(json.dumps({"cells": cells, "hold_out": hold_out}))
        return root

    return listed


def budgets(table) -> list[float]:
    return sorted(table["budget_flops"].unique())


@pytest.mark.parametrize("study", [None, "quick"])
def test_held_out_budgets_are_left_out_and_counted(quick, study):
    root = quick(quick=[3e11, 1e12])
    assert budgets(read_table(root, study=study)) == [3e10, 1e11, 3e11, 1e12]
    table = read_table(root, study=study, keep_held_out=False)
    note = table.attrs["notes"][-1]
    assert budgets(table) == [3e10, 1e11]
    assert note.startswith("study.hold_out: 18 runs of the budgets 3e+11, 1e+12 are held out: no fit sees them")
    assert note in table.attrs["guessed"]
    where = re.search(r'--where "(.*)" keeps them', note)[1]
    assert budgets(read_table(root, study=study, where=where, keep_held_out=False)) == [3e10, 1e11, 3e11, 1e12]


def test_a_study_that_holds_out_all_its_budgets_is_read_whole(quick):
    root = quick(quick=[3e10, 1e11, 3e11, 1e12])
    table = read_table(root, study="quick", keep_held_out=False)
    assert len(budgets(table)) == 4
    assert not any("hold_out" in note for note in table.attrs["notes"])


def test_of_several_studies_a_note_says_which_hold_out_budgets(quick):
    root = quick(one=[1e12], two=[])
    table = read_table(root, keep_held_out=False)
    assert len(budgets(table)) == 4
    assert "budgets that study.hold_out names are held out where --study names it (one)" in table.attrs["notes"]
    assert len(budgets(read_table(root, study="one", keep_held_out=False))) == 3
    assert len(budgets(read_table(root, study="two", keep_held_out=False))) == 4


def test_a_run_has_the_budget_of_the_study_that_is_named(quick):
    """A run file has that of the study which trained the run, another may have it by its tokens, or by FLOPs."""
    ids = list(example("quick")["run_id"].unique()[:3])
    budgets_of = [{"run_id": ids[0], "budget_flops": 7e10}, {"run_id": ids[1], "budget_flops": math.nan}]
    root = quick([*budgets_of, {"run_id": ids[2]}], one=[])
    known = example("quick").groupby("run_id")["budget_flops"].first()
    found = read_table(root, study="one").groupby("run_id")["budget_flops"].first()
    assert (found[ids[0]], found[ids[2]]) == (7e10, known[ids[2]])
    assert math.isnan(found[ids[1]])


def test_a_run_by_tokens_has_the_budget_that_a_study_has_it_by(tmp_path):
    table = example("quick")
    table = table[table["run_id"] == table["run_id"].iloc[0]].assign(budget_flops=math.nan)
    run = str(table["run_id"].iloc[0])
    write_run(tmp_path / "cells" / run / "run.parquet", table.to_dict("records"), {})
    (tmp_path / "studies").mkdir()
    for name, flops in (("a", math.nan), ("b", 2e9), ("c", math.nan)):
        cells = [{"run_id": run, "arm": "", "budget_flops": flops}]
        (tmp_path / "studies" / f"{name}.json").write_text(json.dumps({"cells": cells}))
    assert set(read_table(tmp_path)["budget_flops"]) == {2e9}
    assert read_table(tmp_path, study="a")["budget_flops"].isna().all()


def test_a_study_has_the_runs_of_its_rounds(quick):
    root, ids = quick(r=[]), list(example("quick")["run_id"].unique())
    parts = {"r": ids[:9], "r-round1": ids[9:11], "r-round2": ids[11:13], "r-round3": ids[13:], "r2-round1": ids[:2]}
    (root / "rounds").mkdir()
    for name, runs in parts.items():
        listed = {"cells": [{"run_id": run} for run in runs]}
        (root / "studies" / f"{name}.json").write_text(json.dumps(listed))
        if name in ("r-round1", "r-round2"):  # round3 is a study that somebody called so
            (root / "rounds" / f"{name}.json").write_text("{}")
    table = read_table(root, study="r")
    assert set(table["run_id"]) == set(ids[:13])
    assert "study r: 13 of 44 runs in the store, those of r-round1, r-round2 among them" in table.attrs["notes"]
    assert set(read_table(root, study="r-round1")["run_id"]) == set(ids[9:11])
    shutil.rmtree(root / "rounds")


COMMANDS = {
    "fit --bootstrap 0": True, "predict --flops 1e14 --laws chinchilla": True, "compare --laws chinchilla,power": True,
    "compare --laws chinchilla,power --holdout-above 4e11": False,
}  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_fit_without_them(quick, typed, command):
    name, *options = command.split()
    code, out, err = typed(name, quick(quick=[1e12]), *options, "--json")
    found = json.loads(out)
    assert code == 0
    assert any("8 runs of the budget 1e+12 are held out" in note for note in found["notes"]) == COMMANDS[command]
    assert ("8 runs of the budget 1e+12 are held out" in err) == COMMANDS[command]
    if name == "fit":
        assert found["n_points"] == 36
    if name == "compare":
        last = found["origins"][-1]
        assert last["n_known"] + last["n_predicted"] == (36 if COMMANDS[command] else 44)
