"""Folders of TensorBoard: which are runs, and which the splits or sessions of one; and the CSV of its page."""

from pathlib import Path

import pytest

from isoflop.scaling.imports.assemble import Imported, ImportOptions
from isoflop.scaling.imports.read import import_source
from isoflop.scaling.imports.source import SourceError

STEPS = range(100, 501, 100)
TRAIN, HELD_OUT = {"train": 3.0}, {"val": 4.0}


def imported(source: Path, mapping=None) -> Imported:
    options = ImportOptions(n_params={"": 1e7}, batch_tokens={"": 1024})
    return import_source(source, "auto", options, mapping or {})


def write_events(folder: Path, tags: dict[str, float], *, hparams: dict[str, float] | None = None) -> None:
    """Event files of one folder: each tag with a value that falls along STEPS, and a session of hyper-parameters."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams.summary_v2 import hparams_pb
    from tensorboard.summary.writer.record_writer import RecordWriter

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "events.out.tfevents.1.host.1.0").open("wb") as file:
        writer = RecordWriter(file)
        writer.write(Event(wall_time=1.0, file_version="brain.Event:2").SerializeToString())
        if hparams:
            writer.write(Event(wall_time=1.0, summary=hparams_pb(hparams)).SerializeToString())
        for step in STEPS if not hparams else (0,):
            values = [Summary.Value(tag=tag, simple_value=value - step / 1000) for tag, value in tags.items()]
            writer.write(Event(wall_time=2.0, step=step, summary=Summary(value=values)).SerializeToString())


# Folders (of one run, or of the runs beside one another) with the tags of each.
LAYOUTS = {
    "keras": {"train": {"epoch_loss": 3.0}, "validation": {"epoch_loss": 4.0}},
    "t5x": {"train": {"loss": 3.0}, "eval": {"loss": 4.0}},
    "estimator": {"": {"loss": 3.0}, "eval": {"loss": 4.0}},
    "add_scalars": {"": {}, "loss_train": {"loss": 3.0}, "loss_val": {"loss": 4.0}},
    "add_scalars with a path": {"LM_loss_train": {"LM/loss": 3.0}, "LM_loss_val": {"LM/loss": 4.0}},
    "one folder": {"": {"loss/train": 3.0, "loss/val": 4.0}},
    "a run called test": {"../test": {"train/loss": 3.0, "val/loss": 4.0}},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_folders_of_the_splits_of_a_run_are_one_run(tmp_path, layout):
    for folder, tags in LAYOUTS[layout].items():
        write_events(tmp_path / "logs" / "d6" / folder, tags)
    write_events(tmp_path / "logs" / "d8", {"train/loss": 2.0, "val/loss": 3.5})
    name = "test" if "test" in layout else "d6"
    found = imported(tmp_path / "logs")
    assert found.ends.set_index("run_id")["loss"].to_dict() == pytest.approx({name: 3.5, "d8": 3.0})
    assert len(found.table) == 2 * len(STEPS)
    alone = imported(tmp_path / "logs" / name)
    assert alone.ends[["run_id", "loss"]].to_numpy().tolist() == [[name, 3.5]]
    joined = [note for note in found.notes if "series of one run" in note]
    assert bool(joined) == (layout not in ("one folder", "a run called test"))


def test_splits_beside_one_another_are_joined_and_one_alone_is_a_run(tmp_path):
    for run, tags in {"d6_train": 3.0, "d6_val": 4.0, "d8-val": 3.5, "d8-train": 2.0}.items():
        write_events(tmp_path / "logs" / run, {"loss": tags})
    write_events(tmp_path / "logs" / "train_125m", {"val/loss": 3.6})
    ends = imported(tmp_path / "logs").ends.set_index("run_id")["loss"]
    assert ends.to_dict() == pytest.approx({"d6": 3.5, "d8": 3.0, "train_125m": 3.1})


def test_the_loss_of_a_folder_called_train_is_a_training_loss_and_the_remedy_works(tmp_path):
    write_events(tmp_path / "d6" / "train", {"loss": 3.0})
    for source in (tmp_path / "d6" / "train", tmp_path / "d6"):
        with pytest.raises(SourceError, match=r"no validation loss; only a training loss: .* --map loss=train/loss"):
            imported(source)
        assert imported(source, {"loss": "train/loss"}).ends["run_id"].tolist() == ["d6"]


def test_a_session_of_hyper_parameters_gives_the_run_above_its_values(tmp_path):
    write_events(tmp_path / "logs" / "d6", {"val/loss": 4.0})
    write_events(tmp_path / "logs" / "d6" / "17959.4", {"hparam/val_loss": 9.0}, hparams={"n_params": 5e6, "seed": 2.0})
    source = import_source(tmp_path / "logs", "auto", ImportOptions(batch_tokens={"": 1024}), {})
    assert source.ends[["run_id", "n_params", "loss"]].to_numpy().tolist() == [["d6", 5e6, 3.5]]
    assert source.ends["seed"].tolist() == [2]


def write_downloads(folder: Path, runs: dict[str, dict[str, float]]) -> None:
    folder.mkdir()
    for run, tags in runs.items():
        for tag, value in tags.items():
            rows = [f"17000{step}.5,{step},{value - step / 1000:.6f}\n" for step in STEPS]
            (folder / f"run-{run}-tag-{tag}.csv").write_text("".join(["Wall time,Step,Value\n", *rows]))


@pytest.mark.parametrize(
    "runs",
    [
        {"d6": {"train_loss": 3.0, "val_loss": 4.0}, "d8": {"train_loss": 2.0, "val_loss": 3.5}},
        {"d6_train": {"loss": 3.0}, "d6_val": {"loss": 4.0}, "d8_train": {"loss": 2.0}, "d8_val": {"loss": 3.5}},
    ],
)  # fmt: skip
def test_the_csv_that_the_page_gives_out_is_of_the_run_and_scalar_of_its_name(tmp_path, runs):
    write_downloads(tmp_path / "csv", runs)
    found = imported(tmp_path / "csv")
    assert found.ends.set_index("run_id")["loss"].to_dict() == pytest.approx({"d6": 3.5, "d8": 3.0})


def test_one_csv_of_the_page_and_one_that_is_only_named_so(tmp_path):
    write_downloads(tmp_path / "csv", {"d6": {"train_loss": 3.0, "val_loss": 4.0}})
    assert imported(tmp_path / "csv" / "run-d6-tag-val_loss.csv").ends["run_id"].tolist() == ["d6"]
    with pytest.raises(SourceError, match=r"only a training loss: use it with --map loss=train_loss"):
        imported(tmp_path / "csv" / "run-d6-tag-train_loss.csv")
    (tmp_path / "run-a-tag-b.csv").write_text("run,loss\na,3\n")
    with pytest.raises(SourceError, match=r"run-a-tag-b.csv: named as .* without columns Step and Value"):
        imported(tmp_path / "run-a-tag-b.csv")
