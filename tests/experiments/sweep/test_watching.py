"""`status --watch` of a store: cells in training with the bands that its finished runs predict."""

import json

import pytest

from isoflop.experiments.files import write_passing
from isoflop.experiments.store.running import CURVE_FILE
from isoflop.experiments.store.store import create_store
from isoflop.experiments.sweep.watching import Watching
from isoflop.scaling.table.runs import read_runs, write_run
from tests.support.root import RESULTS

YOUNG = "4e1d317d8ef8"


@pytest.fixture
def store(tmp_path):
    """Nine runs of the quick study as they were when one of them had taken half of its steps; it is 40% off since."""
    table = read_runs(RESULTS / "quick.parquet")
    store = create_store(tmp_path / "runs")
    others = [run for run in table["run_id"].unique() if run != YOUNG][::5]
    for run, rows in table[table["run_id"].isin(others)].groupby("run_id"):
        write_run(store.run_file(run), rows.to_dict("records"), {})
        store.record(run, "done", trunk_id=str(rows["trunk_id"].iloc[0]), step=1, steps=1)
    rows = table[(table["run_id"] == YOUNG) & (table["step"] <= 7000)].assign(state="running", final=False)
    trunk = str(rows["trunk_id"].iloc[0])
    store.record(YOUNG, "running", trunk_id=trunk, steps=14099)
    store.claim(trunk)
    rows["loss"] *= rows["step"].gt(3000).map({True: 1.4, False: 1.0})
    write_passing(store.trunk_folder(trunk) / CURVE_FILE, {"run_id": YOUNG, "rows": rows.to_dict("records")})
    return store


@pytest.mark.slow
def test_a_cell_that_left_its_band_is_said_while_it_trains(store, typed, monkeypatch):
    watching = Watching(store)
    found = watching.look()
    seen, why = found
    assert why == ""
    assert [run.run_id for run in seen.runs] == [YOUNG]
    assert seen.runs[0].left_at is not None
    assert watching.look()[0] is seen, "nothing is new"

    def ended(_):
        store.record(YOUNG, "done")

    for option in ([], ["--json"]):
        store.record(YOUNG, "running")
        monkeypatch.setattr(Watching, "look", lambda _: found)
        monkeypatch.setattr("isoflop.commands.runs.time.sleep", ended)
        code, out, _ = typed("status", store.root, "--watch", *option)
        assert code == 0
        if not option:
            assert out.count("LEFT ITS BAND at step") == 1
            assert f"{YOUNG}: loss against ln step, * measured, . its 90% band" in out
    answer = json.JSONDecoder().raw_decode(out)[0]
    assert (answer["counts"]["running"], answer["left_band"]) == (1, [YOUNG])
    assert [finding["code"] for finding in answer["findings"]] == ["left_band"]
    monkeypatch.undo()


@pytest.mark.slow
def test_the_end_of_a_cell_in_training_can_be_forecast(store, typed):
    code, out, _ = typed("predict", store.root, "--run", YOUNG[:6], "--json")
    assert (code, json.loads(out)["at_step"]) == (0, 14099)
