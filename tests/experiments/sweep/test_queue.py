"""What a launch does while others hold its trunks, and when its store is taken away."""

import json
import shutil
import time

import pytest

from isoflop.experiments import files as claims
from isoflop.experiments.store.store import StoreError, create_store, open_store
from isoflop.experiments.sweep import queue
from tests.support.sweep.launches import run, two_trunks


@pytest.fixture
def quick(monkeypatch):
    """Waiting takes no time: this machine's own clock goes on by ten seconds at each look."""
    clock = [0.0]

    def look():
        clock[0] += 10
        return clock[0]

    monkeypatch.setattr(claims, "_since_boot", look)
    monkeypatch.setattr(claims, "_seen", {})
    monkeypatch.setattr(queue, "WAIT_SECONDS", 0.001)
    monkeypatch.setattr(queue, "QUIET_SECONDS", 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("content", ["a day ahead", "cut short"])
def test_a_claim_of_a_dead_machine_is_named_waited_for_and_taken(text, tmp_path, quick, capsys, content):
    spec, trunks = two_trunks(text, tmp_path), []
    assert run(spec, before=trunks.append) == 0
    shutil.rmtree(tmp_path / "runs")
    folder = create_store(tmp_path / "runs").trunk_folder(trunks[0])
    folder.mkdir(parents=True)
    claim = {"host": "node7/abc", "pid": 1, "birth": "1", "heartbeat": time.time() + 86400, "since": 0.0}
    (folder / claims.CLAIM_FILE).write_text(json.dumps(claim) if content == "a day ahead" else '{"host"')
    capsys.readouterr()
    assert run(spec) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("trunk ")]
    if content == "a day ahead":
        (line,) = said
        assert line.startswith(f"trunk {trunks[0]} is held by node7 since 19")
        assert line.endswith(
            ": this launch waits for it, and takes it over once the claim has not changed for 120 s here"
        )
    assert set(open_store(tmp_path / "runs").states()["state"]) == {"done"}
    assert not list((tmp_path / "runs").rglob(".seen*"))


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before the first trunk", "before the second trunk"])
def test_a_store_that_is_deleted_at_work_ends_the_launch_and_is_not_made_again(text, tmp_path, when):
    seen = []

    def delete(trunk):
        seen.append(trunk)
        if len(seen) == (1 if when == "before the first trunk" else 2):
            shutil.rmtree(tmp_path / "runs")

    with pytest.raises(
        StoreError, match=r"its STORE.json is gone.: it was deleted or moved while a launch was at work"
    ):
        run(two_trunks(text, tmp_path), before=delete)
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_store_that_is_deleted_while_a_cell_trains(text, tmp_path, monkeypatch):
    from isoflop.experiments.training import trainer

    cool_down = trainer._cool_down

    def then_delete(*args, **kwargs):
        shutil.rmtree(tmp_path / "runs", ignore_errors=True)
        return cool_down(*args, **kwargs)

    monkeypatch.setattr(trainer, "_cool_down", then_delete)
    with pytest.raises(StoreError, match="no runs folder any more"):
        run(two_trunks(text, tmp_path))
    assert not (tmp_path / "runs").exists()
