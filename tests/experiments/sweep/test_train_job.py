"""What one job does with its trunks, in this process: what it reads, how it trains, what stops it."""

import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from isoflop.experiments.config import WhereSpec
from isoflop.experiments.data import CorpusError
from isoflop.experiments.store.running import CURVE_FILE
from isoflop.experiments.store.store import Store, StoreError, create_store, open_store
from isoflop.experiments.sweep import train_job as sweep
from isoflop.experiments.sweep.launch import load
from isoflop.experiments.training import trainer
from isoflop.experiments.training.learner import Learner
from tests.support.root import ROOT
from tests.support.sweep.launches import run, states, sweep_with, two_trunks


@pytest.fixture
def spec(text, tmp_path):
    return two_trunks(text, tmp_path)


ROBBED = {  # after what is the claim another machine's
    "the claim": (sweep, "_left"), "a step": (Learner, "advance"), "the last measurement": (trainer, "_cool_down"),
    "the model": (trainer, "_rows"), "a failure": (Learner, "advance"),
}  # fmt: skip


@pytest.mark.parametrize("after", ROBBED)
def test_a_process_whose_trunk_was_taken_over_ends_with_one_line_and_writes_nothing(spec, monkeypatch, capsys, after):
    """As a process that was stopped for so long that another machine took it for dead."""
    store = create_store(spec.runs)
    study, corpora = load(spec)
    cells = next(iter(study.trunks.values()))
    claim = store.trunk_folder(cells[0].trunk_id) / "claim.json"
    then: dict[Path, bytes] = {}

    def content() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in store.root.rglob("*") if path.is_file()}

    place, name = ROBBED[after]
    original = getattr(place, name)

    def robbed(*args, **kwargs):
        found = original(*args, **kwargs)
        if not then:
            claim.write_text(json.dumps(json.loads(claim.read_text()) | {"host": "node7/abc"}))
            then.update(content())
        if after == "a failure":
            raise RuntimeError("boom")
        return found

    monkeypatch.setattr(place, name, robbed)
    monkeypatch.setattr(sweep, "HEARTBEAT_SECONDS", 600.0)  # the thread's own look is tested with the claim
    where = replace(spec.where, checkpoint_seconds=0.0)
    sweep.train_claimed(sweep.work_of(study, cells, where), corpora, store, where)
    assert capsys.readouterr().err == (
        f"the claim on {claim.parent} was taken over by node7 while this process was at work; it leaves the trunk and "
        "writes nothing more of it\n"
    )
    assert content() == then


def test_no_cell_that_has_ended_has_a_curve_beside_it_even_if_the_process_is_killed_right_then(spec, monkeypatch):
    store = create_store(spec.runs)
    study, corpora = load(spec)
    cells = next(iter(study.trunks.values()))
    curve = store.trunk_folder(cells[0].trunk_id) / CURVE_FILE
    curve.parent.mkdir(parents=True)
    curve.write_text("{}")  # of a process that was killed before
    settle, there = sweep._settle, []

    def settled(*args):
        there.append(curve.exists())
        settle(*args)
        there.append(curve.exists())

    monkeypatch.setattr(sweep, "_settle", settled)
    sweep.train_claimed(sweep.work_of(study, cells, spec.where), corpora, store, spec.where)
    assert there == [False, False] * len(cells)


def out_of_memory(monkeypatch, *, above: int):
    """Make the first step raise what torch does while more than so many sequences are taken at once."""
    advance = Learner.advance

    def hungry(self, until, steps):
        if self.micro_batch > above:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
        return advance(self, until, steps)

    monkeypatch.setattr(Learner, "advance", hungry)


@pytest.mark.slow
def test_out_of_memory_tries_half_of_the_sequences(spec, monkeypatch, caplog):
    out_of_memory(monkeypatch, above=16)
    assert run(spec) == 0
    assert "out of memory: d6 at" in caplog.text
    assert "trying 16 sequences" in caplog.text
    assert (states(spec)["attempts"] == 1).all()


@pytest.mark.slow
def test_out_of_memory_again_is_a_failure_with_the_estimate(spec, monkeypatch):
    out_of_memory(monkeypatch, above=1)
    assert run(spec) == 1
    table = states(spec)
    assert set(table["state"]) == {"failed"}
    assert table["error"].str.contains("needs about 0.3.. GB with where.micro_batch=16; lower where.micro_batch").all()


def launched(spec) -> tuple[Store, list[Path]]:
    """The store of a launch whose jobs have not begun, and the files of their work."""
    with pytest.raises(KeyboardInterrupt):
        sweep_with(spec, lambda job_overrides, first: (_ for _ in ()).throw(KeyboardInterrupt))
    store = open_store(spec.runs)
    return store, sorted(store.root.glob("trunks/*/cells-*.json"))


def where_of(spec, path: Path) -> WhereSpec:
    """The settings of the job whose work this file states."""
    return replace(spec.where, trunk=path.parent.name, cells=path.stem.removeprefix("cells-"))


def test_a_job_reads_what_its_launch_resolved(spec):
    study, corpora = load(spec)
    store, paths = launched(spec)
    assert len(paths) == len(study.trunks)
    for path in paths:
        (work,) = sweep.read_works(store, where_of(spec, path))
        cells = study.trunks[path.parent.name]
        assert work == replace(sweep.work_of(study, cells, spec.where), prepared=corpora(cells[0].data).prepared)


@pytest.mark.slow
def test_a_job_opens_the_corpus_without_its_source(spec, text, monkeypatch):
    _, paths = launched(spec)
    monkeypatch.setattr("isoflop.experiments.data.corpus.source_of", lambda data: pytest.fail("asked its source"))
    sweep.train_trunks(where_of(spec, paths[0]), spec.runs)
    done = states(spec)
    assert set(done.loc[done["trunk_id"] == paths[0].parent.name, "state"]) == {"done"}


@pytest.mark.slow
@pytest.mark.parametrize("change", ["touched", "gone"])
def test_a_corpus_that_is_not_as_it_was_is_prepared_again_or_reported_by_name(spec, tmp_path, change, monkeypatch):
    own = replace(spec, where=replace(spec.where, corpora=str(tmp_path / "own")))
    _, paths = launched(own)
    (shard,) = (tmp_path / "own").glob("*/train.bin")
    if change == "gone":
        shutil.rmtree(shard.parent)
    else:
        os.utime(shard, (0, 0))
    requested = []
    prepare = sweep.prepare
    monkeypatch.setattr(sweep, "prepare", lambda data, root: requested.append(data) or prepare(data, root))
    sweep.train_trunks(where_of(own, paths[0]), own.runs)
    assert len(requested) == 1
    assert states(own)["state"].tolist().count("done") == 2
    if change == "gone":
        shutil.rmtree(shard.parent)
        other = replace(own.data, files=[str(tmp_path / "nowhere" / "*.txt")])
        work = json.loads(paths[1].read_text())
        for cell in work["cells"]:
            cell["data"]["files"] = other.files
        paths[1].write_text(json.dumps(work))
        with pytest.raises(CorpusError, match=r"data.files: .*nowhere/\*.txt' matches no file"):
            sweep.train_trunks(where_of(own, paths[1]), own.runs)
        assert states(own)["attempts"].tolist().count(0) == 2  # no cell's fault


def test_held_out_tokens_that_changed_since_the_launch_are_refused(spec):
    _, paths = launched(spec)
    work = json.loads(paths[0].read_text())
    work["prepared"]["eval_id"] = "0" * 12
    paths[0].write_text(json.dumps(work))
    with pytest.raises(CorpusError, match="its held-out tokens have changed since the launch; isoflop run launches"):
        sweep.train_trunks(where_of(spec, paths[0]), spec.runs)


def test_other_studies_and_other_steps_have_files_of_their_own(spec):
    study, _ = load(spec)
    keys = {
        sweep.work_key(study, spec.where),
        sweep.work_key(replace(study, hold_out=(4e8,)), spec.where),
        sweep.work_key(replace(study, cells=study.cells[:1]), spec.where),
        sweep.work_key(study, replace(spec.where, activation_checkpointing=True)),
    }
    assert len(keys) == 4
    assert sweep.work_key(study, replace(spec.where, workers=7, checkpoint_seconds=1.0)) in keys


def test_work_that_was_changed_is_refused_by_name(spec):
    store, (path, *_) = launched(spec)
    where, whole = where_of(spec, path), json.loads(path.read_text())
    for change, message in (
        ({"cells": [whole["cells"][0] | {"seed": 5}]}, r"its run \w+ has the settings of run"),
        ({"cells": [{k: v for k, v in whole["cells"][0].items() if k != "steps"}]}, "not the cells .*steps"),
        ({"cells": []}, "they are of trunk none"),
        ({"listings": {}}, "not the cells of a trunk"),
        ({"study": "../x"}, "becomes part of a path"),
        ({"engine": {"graph": "yes"}}, "engine.graph.* must be true or false"),
    ):
        path.write_text(json.dumps(whole | change))
        with pytest.raises(ValueError, match=f"{path}: .*{message}.*anew"):
            sweep.read_works(store, where)
    path.unlink()
    with pytest.raises(StoreError, match=rf"{path}: no such file.*is .* the folder of the launch"):
        sweep.read_works(store, where)


@pytest.mark.slow
@pytest.mark.process
def test_a_job_enters_few_files_until_its_first_step(commands):
    command = [commands.bin / "python", "-m", "tests.proofs.files_entered", "--most", "14"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
