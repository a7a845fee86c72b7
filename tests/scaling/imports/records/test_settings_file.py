"""config.json beside a history: its settings are those of the run, and it is no source of its own."""

import json
from pathlib import Path

import pytest

from isoflop.scaling.imports.assemble import Imported, ImportOptions
from isoflop.scaling.imports.read import import_source
from isoflop.scaling.imports.records.settings_file import settings_of
from isoflop.scaling.imports.source import SourceError

CONFIG = {
    "model": {"n_params": 1e7, "n_layer": 6}, "optim": {"name": "adamw", "lr": 1e-3}, "batch_tokens": 1000,
    "max_steps": 300, "tokens": 9e9, "step": 0, "betas": [0.9, 0.95], "loss": "ce", "name": "mine",
}  # fmt: skip


def imported(source: Path, **options) -> Imported:
    return import_source(source, "auto", ImportOptions(**options), {})


def history(folder: Path, config: dict | None = None, name: str = "config.json", **columns) -> None:
    folder.mkdir(parents=True)
    rows = [{"step": step, "val_loss": 4 - step / 1000, "train_loss": 3.0, **columns} for step in (100, 200, 300)]
    for row in rows:
        row |= {key: row[key] * row["step"] / 300 for key in ("tokens_seen",) if key in row}
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    if config is not None:
        (folder / name).write_text(json.dumps(config))


@pytest.mark.parametrize("name", ["config.json", "args.json", "hparams.json"])
def test_settings_beside_a_history_are_those_of_its_run(tmp_path, name):
    history(tmp_path / "runs/d6", CONFIG, name)
    history(tmp_path / "runs/d8", CONFIG | {"model": {"n_params": 4e7, "n_layer": 8}}, name)
    found = imported(tmp_path / "runs")
    ends = found.ends.set_index("run_id")
    assert ends.index.tolist() == ["d6", "d8"]
    assert (ends["n_params"].tolist(), ends["tokens"].tolist()) == ([1e7, 4e7], [3e5, 3e5])
    assert (ends["loss"].tolist(), ends["max_steps"].tolist()) == ([3.7, 3.7], [300, 300])
    assert ends["peak_learning_rate"].tolist() == [1e-3, 1e-3]
    assert "learning_rate" not in ends
    assert ends["optim/name"].tolist() == ["adamw", "adamw"]
    assert f"{name} holds settings of the runs in its folder" in found.notes


def test_what_a_history_reports_itself_goes_before_its_settings(tmp_path):
    history(tmp_path / "runs/d6", CONFIG, params=2e7, lr=3e-3, tokens_seen=5e5)
    history(tmp_path / "runs/d8", None, params=4e7, tokens_seen=6e5)
    ends = imported(tmp_path / "runs").ends
    assert (ends["n_params"].tolist(), ends["tokens"].tolist()) == ([2e7, 4e7], [5e5, 6e5])
    assert ends["peak_learning_rate"].tolist()[0] == 3e-3


def test_a_result_is_a_run_and_settings_alone_are_refused_as_before(tmp_path):
    (tmp_path / "runs").mkdir()
    for k in range(2):
        (tmp_path / f"runs/{k}.json").write_text(json.dumps({"n_params": 1e7, "tokens": 1e9, "val_loss": 3.0 + k}))
    assert imported(tmp_path / "runs").ends["loss"].tolist() == [3, 4]
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(SourceError):
        imported(tmp_path / "config.json")


@pytest.mark.parametrize(
    "text", ["[1, 2]", "{", '{"rows": [{"a": 1}]}', '{"loss": [3, 2], "step": [1, 2]}', '"x"', "\x00"]
)
def test_what_holds_no_settings(tmp_path, text):
    (tmp_path / "c.json").write_text(text)
    assert settings_of(tmp_path / "c.json") == {}
