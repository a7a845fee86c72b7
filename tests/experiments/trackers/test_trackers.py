"""Trackers hold what the store holds, each point once, and no trouble of theirs is a run's."""

import json
import logging
import struct
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from isoflop.experiments.compose.messages import UsageError
from isoflop.experiments.config import WhereSpec
from isoflop.experiments.trackers import sinks as trackers
from isoflop.experiments.trackers.record import CURVES
from isoflop.experiments.trackers.sinks import Trackers
from isoflop.scaling.table.runs import read_runs
from tests.support.sweep.studies import only, single
from tests.support.training.tracked import CORPUS, FIRST, SECOND, curve, track


def scalars(folder: Path, run_id: str) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (run,) = folder.glob(f"tensorboard/study/*{run_id}")
    events = EventAccumulator(str(run), size_guidance={"scalars": 0}, purge_orphaned_data=False).Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def offline(folder: Path, run_id: str) -> dict:
    """What one offline folder of W&B holds, once its service has written the last record, a moment after `finish`."""
    for _ in range(6000):
        found = records(folder, run_id)
        if found["exit"] is not None:
            return found
        time.sleep(0.1)
    raise AssertionError(f"the offline run never ended: {found}")


def records(folder: Path, run_id: str) -> dict:
    """The file of an offline run is a LevelDB log of protobuf records."""
    from wandb.proto import wandb_internal_pb2 as wire

    (path,) = folder.glob(f"wandb/offline-run-*-{run_id}/*.wandb")
    data, at, whole, found = path.read_bytes(), 7, b"", {"history": [], "summary": {}, "run": None, "exit": None}
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + 7])
        if at + 7 + size > len(data):
            break
        whole, at = whole + data[at + 7 : at + 7 + size], at + 7 + size
        if kind in (1, 4):  # full, or the last of several
            record = wire.Record.FromString(whole)
            whole = b""
            name = record.WhichOneof("record_type")
            if name == "history":
                values = {i.key or i.nested_key[0]: json.loads(i.value_json) for i in record.history.item}
                found["history"].append(values)
            elif name == "summary":
                found["summary"] |= {u.key or u.nested_key[0]: json.loads(u.value_json) for u in record.summary.update}
            elif name == "run":
                found["run"] = record.run
            elif name == "exit":
                found["exit"] = record.exit.exit_code
    return found


def test_tensorboard_holds_each_cell_as_a_run_with_its_curve_settings_and_end(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for cell in (FIRST, SECOND):
        rows = track(tmp_path, ["tensorboard"], cell)
        found = scalars(tmp_path, cell.run_id)
        for tag in CURVES:
            assert found[tag] == [(row["step"], pytest.approx(row[tag], rel=1e-6)) for row in rows]
        assert found["final/loss"] == [(cell.steps, pytest.approx(rows[-1]["loss"], rel=1e-6))]
        (run,) = tmp_path.glob(f"tensorboard/study/*{cell.run_id}")
        events = EventAccumulator(str(run)).Reload()
        settings = events.Tensors("settings/text_summary")[0].tensor_proto.string_val[0].decode()
        assert f'"seed": {cell.seed}' in settings
        assert f'"arm": "{cell.arm}"' in settings
        assert any(tag.startswith("_hparams_") for tag in events.summary_metadata)
    assert len(list(tmp_path.glob("tensorboard/study/*"))) == 2


@pytest.mark.parametrize("until", [1, 3])
def test_tensorboard_gets_no_point_twice_when_a_run_goes_on(tmp_path, until):
    track(tmp_path, ["tensorboard"], FIRST, until)
    rows = track(tmp_path, ["tensorboard"], FIRST)
    assert [step for step, _ in scalars(tmp_path, FIRST.run_id)["loss"]] == [row["step"] for row in rows]


@pytest.mark.slow
def test_wandb_offline_holds_each_cell_as_a_run_and_no_point_twice(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(trackers, "PATIENCE_SECONDS", 120)  # its service is slow to start on a busy machine
    track(tmp_path, ["wandb"], FIRST, 2)
    assert offline(tmp_path, FIRST.run_id)["exit"] == 1
    for cell, state in ((FIRST, "done"), (SECOND, "diverged")):
        rows = track(tmp_path, ["wandb"], cell, state=state)
        found = offline(tmp_path, cell.run_id)
        assert [point["_step"] for point in found["history"]] == [row["step"] for row in rows]
        for tag in CURVES:
            assert [point[tag] for point in found["history"]] == [row[tag] for row in rows]
            assert found["summary"][tag] == rows[-1][tag]
        assert (found["summary"]["state"], found["exit"]) == (state, 0 if state == "done" else 1)
        config = {u.key: json.loads(u.value_json) for u in found["run"].config.update}
        assert config["optim.learning_rate"] == cell.optim.learning_rate
        assert (found["run"].run_id, found["run"].run_group, found["run"].project) == (cell.run_id, "study", "isoflop")


@pytest.mark.slow
def test_wandb_without_a_login_writes_offline_and_says_so(tmp_path, monkeypatch, caplog):
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    from isoflop.experiments.trackers.wandb import WeightsAndBiases, logged_in

    assert not logged_in()
    with caplog.at_level(logging.WARNING):
        assert WeightsAndBiases(tmp_path).mode == "offline"
    assert "no W&B login here" in caplog.text
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    assert WeightsAndBiases(tmp_path).mode == "online"


class Failing:
    """A sink that takes `good` writes and raises from then on."""

    def __init__(self, good: int) -> None:
        self.good, self.calls = good, 0

    def write(self, run, rows, *, ended) -> None:
        self.calls += 1
        if self.calls > self.good:
            raise OSError("no space left\non device")

    def close(self) -> None:
        raise AssertionError("a sink that failed is left alone")


@pytest.mark.parametrize("good", [0, 2])
def test_a_failing_tracker_is_one_warning_and_the_other_goes_on(tmp_path, monkeypatch, caplog, good):
    failing, real = Failing(good), trackers.open_sink
    monkeypatch.setattr(trackers, "open_sink", lambda n, folder: failing if n == "wandb" else real(n, folder))
    rows = track(tmp_path, ["wandb", "tensorboard"], FIRST)
    assert failing.calls == good + 1
    assert [r.getMessage() for r in caplog.records] == [
        "tracker wandb failed (no space left); training goes on without it"
    ]
    assert len(scalars(tmp_path, FIRST.run_id)["loss"]) == len(rows)


def test_a_tracker_that_cannot_open_is_a_warning(tmp_path, monkeypatch, caplog):
    def refuse(name, folder):
        raise ImportError("No module named 'x'")

    monkeypatch.setattr(trackers, "open_sink", refuse)
    track(tmp_path, ["tensorboard"], FIRST)
    assert "tracker tensorboard failed (No module named 'x')" in caplog.text


def test_a_slow_tracker_holds_up_neither_the_training_nor_its_end(tmp_path, monkeypatch, caplog):
    released = threading.Event()
    slow = SimpleNamespace(write=lambda *_, **__: released.wait(), close=lambda: None)
    monkeypatch.setattr(trackers, "open_sink", lambda name, folder: slow)
    monkeypatch.setattr(trackers, "PATIENCE_SECONDS", 0.1)
    track(tmp_path, ["wandb"], FIRST)  # comes back while the first write is still at work
    assert "wandb not done after" in caplog.text
    released.set()


def test_no_tracker_is_no_thread(tmp_path):
    with Trackers([], tmp_path, "s", CORPUS, "cpu") as none:
        none.follow(FIRST, curve(FIRST))
        none.finish(FIRST, [])
        assert not none._thread.is_alive()
    assert list(tmp_path.iterdir()) == []


def test_a_tracker_is_no_part_of_what_a_run_is():
    tracked = replace(single(flops=3e9), where=WhereSpec(trackers=["wandb"]))
    assert only(tracked).run_id == FIRST.run_id


def test_a_tracker_that_is_unknown_or_not_installed_is_refused_before_anything_starts(monkeypatch):
    with pytest.raises(UsageError, match=r"where\.trackers: no tracker 'tensorbord'; did you mean 'tensorboard'\?"):
        trackers.check(["tensorbord"])
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"wandb is not installed; pip install 'isoflop\[wandb\]', or leave it out"):
        trackers.check(["wandb"])


@pytest.mark.slow
def test_a_launch_writes_the_curves_that_the_store_holds(typed, here):
    where = ("where.trackers=[tensorboard]", "hydra/launcher=basic", "where.workers=1")
    data = ("data=text", "data.files=[../text/*.txt]", "data.held_out_fraction=0.3", "data.eval_tokens=512")
    study = ("study.name=study", "study.sizes=[d8]", "study.budgets=[4e8,8e8]", "study.window.min_steps=20")
    rest = ("schedule.warmup_steps=3", "data.max_epochs=99")
    assert typed("run", *where, *data, *study, *rest)[0] == 0
    table = read_runs(here / "runs")
    assert table["run_id"].nunique() == 2
    for run_id, rows in table.groupby("run_id"):
        found = scalars(here / "runs", run_id)
        assert [step for step, _ in found["loss"]] == rows["step"].tolist()
        assert [value for _, value in found["loss"]] == pytest.approx(rows["loss"].tolist(), rel=1e-6)
