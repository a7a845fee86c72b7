"""The curve so far of a cell in training: seen while it trains, gone when it has ended."""

import json
from dataclasses import replace

import numpy as np
import pytest

from isoflop.experiments.files import take
from isoflop.experiments.store import running
from isoflop.experiments.store.running import CURVE_FILE, RunningCurve, running_rows
from isoflop.experiments.store.store import create_store
from isoflop.experiments.sweep.repair import find_litter
from isoflop.experiments.sweep.watching import NONE_YET, Watching
from isoflop.scaling.table.runs import read_runs
from tests.support.sweep.launches import run, three_alike

MEASURED = ["step", "loss", "train_loss", "loss_se", "accuracy", "learning_rate"]


@pytest.mark.slow
@pytest.mark.parametrize("pack", [1, 2])
def test_a_curve_is_seen_while_its_cell_trains_as_its_table_will_have_it(text, tmp_path, monkeypatch, pack):
    spec = three_alike(text, tmp_path)
    study = replace(spec.study, seeds=[0, 1], budgets=[1.2e9])
    spec = replace(spec, study=study, where=replace(spec.where, pack=pack))
    store, seen, write = create_store(spec.runs), [], running.write_passing

    def written(path, value):
        write(path, value)
        rows = running_rows(store)
        seen.append((path.parent.name, value, rows[rows["run_id"] == value["run_id"]]))

    monkeypatch.setattr(running, "write_passing", written)
    monkeypatch.setattr(running, "EVERY_SECONDS", 0.0)
    assert run(spec) == 0
    assert not list(store.root.glob(f"trunks/*/*{CURVE_FILE}*"))
    table = read_runs(store.root)
    assert len({trunk for trunk, _, _ in seen}) == 2
    for _, value, rows in seen:
        assert (set(rows["state"]), rows["final"].any()) == ({"running"}, False)
        kept = table[table["run_id"] == value["run_id"]][MEASURED].to_numpy()
        np.testing.assert_array_equal(rows[MEASURED].to_numpy(float), kept[: len(rows)])


def rows_of(*losses):
    return lambda: [{"run_id": "r", "step": 64 * (k + 1), "loss": loss} for k, loss in enumerate(losses)]


def test_it_is_written_for_new_rows_alone_and_not_often(tmp_path, monkeypatch):
    claim = take(tmp_path)
    curve, now = RunningCurve(claim), [100.0]
    monkeypatch.setattr(running.time, "monotonic", lambda: now[0])
    path = tmp_path / CURVE_FILE
    curve.follow("r", 1, rows_of(3.0))
    curve.follow("r", 2, rows_of(3.0, 2.5))
    assert len(json.loads(path.read_text())["rows"]) == 1, "too soon"
    now[0] += running.EVERY_SECONDS
    curve.follow("r", 2, rows_of(3.0, 2.5))
    assert len(json.loads(path.read_text())["rows"]) == 2
    now[0] += running.EVERY_SECONDS
    curve.follow("r", 2, lambda: pytest.fail("no new row"))
    monkeypatch.setattr(running, "write_passing", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    now[0] += running.EVERY_SECONDS
    curve.follow("r", 3, rows_of(3.0, 2.5, 2.4))  # no fault of the cell's
    curve.end()
    assert not path.exists()


def test_what_a_killed_process_left_is_shown_by_nobody_and_cleaned(tmp_path):
    store = create_store(tmp_path / "runs")
    store.record("r", "running", trunk_id="t", steps=640)
    claim = store.claim("t")
    RunningCurve(claim).follow("r", 2, rows_of(3.0, 2.5))
    path = store.trunk_folder("t") / CURVE_FILE
    assert running_rows(store)["loss"].tolist() == [3.0, 2.5]
    store.record("r", "done", trunk_id="t", steps=640)
    assert running_rows(store).empty, "its cell has ended"
    store.record("r", "running", trunk_id="t", steps=640)
    (path.parent / "claim.json").unlink()
    assert running_rows(store).empty, "nobody trains it"
    assert find_litter(store).temporary == [path]
    RunningCurve(claim).end()
    assert path.exists(), "it may be another process' by now"
    assert Watching(store).look() == (None, NONE_YET)
