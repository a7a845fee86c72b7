"""isoflop retry, clean and status as they are typed, over stores in every state."""

import json
import os
import shutil
import time

import pytest

from isoflop.experiments import app
from isoflop.experiments import files as claims
from isoflop.experiments.compose.messages import UsageError
from isoflop.experiments.compose.trust import check_kept
from isoflop.experiments.store.store import create_store, open_store
from isoflop.experiments.sweep import repair
from isoflop.experiments.training import checkpoint, trainer
from isoflop.experiments.training.checkpoint import saved
from isoflop.scaling.table.runs import read_runs, same_runs

STUDY = (
    "study.name=tiny", "study.sizes=[d6,d8]", "study.budgets=[2e8,4e8]", "study.window.min_steps=1",
    "schedule.warmup_steps=3", "data=text", "data.files=[../text/*.txt]", "data.eval_tokens=512",
    "data.held_out_fraction=0.3", "data.context_length=16", "optim.batch_size=32", "hydra/launcher=basic",
    "where.checkpoint_seconds=0",
)  # fmt: skip


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """Where the study was trained first: [the folder, a copy of it], empty before."""
    return []


@pytest.fixture
def trained(typed, here, first, tmp_path_factory):
    """The study trained in `here`: once, and copied for every further test as if it had been typed there."""
    if not first:
        assert typed("run", *STUDY)[0] == 0
        first.extend([here.parent, shutil.copytree(here.parent, tmp_path_factory.mktemp("first") / "copy")])
        return
    folder, copy = first
    shutil.copytree(copy, here.parent, dirs_exist_ok=True)
    for launch in here.glob("runs/launches/*.json"):
        launch.write_text(launch.read_text().replace(str(folder), str(here.parent)))


def states(here):
    return open_store(here / "runs").states().set_index("run_id")


def fail_all(monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("boom")

    monkeypatch.setattr(trainer, "_cool_down", broken)


@pytest.mark.slow
def test_retry_trains_what_failed_from_any_folder_and_nothing_else(typed, here, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        fail_all(patched)
        assert typed("run", *STUDY)[0] == 1
    failed = states(here)
    assert set(failed["state"]) == {"failed"}
    one = failed.index[2]
    monkeypatch.chdir(tmp_path)  # `../text` must still be found
    code, out, err = typed("retry", str(here / "runs"), "--state", "failed", "--run", one[:6])
    assert code == 0, err
    assert "1 cells to train again" in err
    assert "1 cells: 1 done" in out
    assert states(here)["state"].to_dict() == {r: "done" if r == one else "failed" for r in failed.index}
    code, out, err = typed("retry", str(here / "runs"))
    assert (code, out.splitlines()[0][:15]) == (0, "3 cells: 3 done")
    assert set(states(here)["state"]) == {"done"}
    assert states(here)["attempts"].to_dict() == dict.fromkeys(failed.index, 2)


@pytest.mark.slow
def test_lost_cells_are_found_again(typed, here, trained):
    whole = read_runs(here / "runs")
    store, run_id = open_store(here / "runs"), states(here).index[0]
    store.record(run_id, "running")  # of a process that is not there
    out = typed("status")[1]
    assert f"lost      {run_id}" in out
    assert "attempt 1" in out
    assert typed("retry", "--state", "lost")[0] == 0
    assert states(here).loc[run_id, ["state", "attempts"]].tolist() == ["done", 2]
    assert same_runs(read_runs(here / "runs"), whole)


@pytest.mark.slow
def test_a_diverged_cell_is_retried_when_asked_by_name(typed, here):
    assert typed("run", *STUDY, "optim.learning_rate=1e38")[0] == 1
    assert typed("run", *STUDY, "optim.learning_rate=1e38")[0] == 1
    assert set(states(here)["attempts"]) == {1}
    out = typed("status")[1]
    assert "loss is nan at step" in out
    assert "learning rate 1e+38" in out
    assert typed("retry", "--state", "diverged")[0] == 1
    assert set(states(here)["attempts"]) == {2}
    assert set(states(here)["state"]) == {"diverged"}


@pytest.mark.slow
def test_mark_starts_nothing(typed, here, monkeypatch):
    typed("run", *STUDY, "optim.learning_rate=1e38")
    monkeypatch.setattr(app, "run_study", lambda overrides: pytest.fail("launched"))
    assert typed("retry", "--state", "diverged", "--mark")[0] == 0
    assert set(states(here)["state"]) == {"planned"}


@pytest.mark.slow
def test_a_retry_of_what_is_not_there_is_one_line(typed, here, trained):
    for arguments, message in (
        (["--state", "done"], "--state done: what can be retried is failed, lost, diverged"),
        (["--run", "zzz"], "--run zzz: it must begin exactly one run"),
        (["nowhere"], "no such folder"),
    ):
        code, _, err = typed("retry", *arguments)
        assert code == 2
        assert len(err.strip().splitlines()) == 1
        assert message in err
    run_id = states(here).index[0]
    code, _, err = typed("retry", "--run", run_id)
    assert (code, f"run {run_id} is done, not failed or lost" in err) == (2, True)


@pytest.mark.slow
def test_a_retry_after_the_study_changed_says_so(typed, here, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        fail_all(patched)
        typed("run", *STUDY)
    (tmp_path / "text" / "new.txt").write_text("another corpus, other cells " * 400)
    code, _, err = typed("retry")
    assert code == 2
    assert "is not among the 4 cells that these arguments give now" in err


@pytest.mark.slow
def test_a_trunk_keeps_only_its_furthest_state(typed, here, trained):
    folders = list((here / "runs" / "trunks").iterdir())
    assert len(folders) == 2
    for folder in folders:
        (one,) = saved(folder)
        mine = states(here)[states(here)["trunk_id"] == folder.name]
        assert one.step == mine["branch_step"].max()


@pytest.mark.slow
def test_clean_says_what_would_go_then_removes_it_and_no_result(typed, here, trained, monkeypatch):
    before = read_runs(here / "runs")
    store = open_store(here / "runs")
    trunk = here / "runs" / "trunks" / states(here)["trunk_id"].iloc[0]
    (trunk / "trunk-3-0123456789abcdef.pt").write_bytes(b"x" * 1000)
    (trunk / "claim.json").write_text(json.dumps({"host": "gone", "pid": 1, "birth": "1", "heartbeat": 0.0}))
    old, young = (store.run_file(states(here).index[0]).with_name(name) for name in (".a.1.tmp", ".b.1.tmp"))
    for path in (old, young):
        path.write_bytes(b"y" * 10)
    os.utime(old, (time.time() - 3600,) * 2)
    claim_bytes = (trunk / "claim.json").stat().st_size
    assert "0 claims, 1 temporary files (1 trunks at work left alone)" in typed("clean")[1]
    seen = claims._since_boot()
    monkeypatch.setattr(claims, "_since_boot", lambda: seen + claims.STALE_SECONDS)
    code, out, _ = typed("clean")
    assert code == 0
    assert (
        out
        == f"to remove: 1 checkpoints, 1 claims, 1 temporary files: {1010 + claim_bytes:,} bytes; --yes removes them\n"
    )
    assert old.exists()
    code, out, _ = typed("clean", "--yes")
    assert (code, out) == (0, "removed 1 checkpoints, 1 claims, 1 temporary files: 1,010 bytes\n")
    assert (old.exists(), young.exists(), len(saved(trunk))) == (False, True, 1)
    assert same_runs(read_runs(here / "runs"), before)
    assert typed("clean", "--trunks", "--yes")[1].startswith("removed 2 checkpoints")
    assert list((here / "runs").rglob("*.pt")) == []
    assert same_runs(read_runs(here / "runs"), before)
    assert typed("run", *STUDY, "study.budgets=[2e8,4e8,6e8]")[0] == 0


@pytest.mark.slow
def test_a_claim_and_a_state_cut_short_stop_neither_clean_nor_the_study(typed, here, trained, monkeypatch):
    monkeypatch.setattr(claims, "UNREADABLE_SECONDS", 0.2)
    whole, store = read_runs(here / "runs"), open_store(here / "runs")
    done, lost = states(here).index[:2]
    store.run_file(lost).unlink()
    claim = store.trunk_folder(states(here).loc[done, "trunk_id"]) / "claim.json"
    for path in (store.state_file(done), store.state_file(lost), claim):
        path.write_text('{"run_id": "')
    assert states(here).loc[[done, lost], "state"].tolist() == ["done", "lost"]
    assert "1 claims, 0 temporary files, 2 states that were cut short" in typed("clean")[1]
    assert typed("clean", "--yes")[0] == 0
    assert (claim.exists(), store.state_file(done).exists(), store.state_file(lost).exists()) == (False, True, False)
    for path in (store.state_file(done), store.state_file(lost), claim):
        path.write_text('{"run_id": "')
    assert typed("run", *STUDY)[0] == 0
    assert states(here).loc[[done, lost], ["state", "attempts"]].to_numpy().tolist() == [["done", 0], ["done", 1]]
    assert same_runs(read_runs(here / "runs"), whole)


@pytest.mark.slow
@pytest.mark.parametrize("moved", ["folder", "text"])
def test_nothing_is_marked_for_a_launch_that_cannot_begin(typed, here, tmp_path, monkeypatch, moved):
    with monkeypatch.context() as patched:
        fail_all(patched)
        typed("run", *STUDY)
    before = states(here)[["state", "error"]]
    if moved == "folder":
        (tmp_path / "there").mkdir()
        (here / "runs").rename(tmp_path / "there" / "runs")
        monkeypatch.chdir(tmp_path)
        shutil.rmtree(here)
    else:
        (tmp_path / "text").rename(tmp_path / "elsewhere")
    runs = tmp_path / "there" / "runs" if moved == "folder" else here / "runs"
    code, _, err = typed("retry", str(runs))
    assert (code, err.count("\n")) == (2, 1)
    assert str(here if moved == "folder" else "../text/*.txt") in err
    assert before.equals(open_store(runs).states().set_index("run_id")[["state", "error"]])
    assert typed("retry", str(runs), "--mark")[0] == 0
    assert set(open_store(runs).states()["state"]) == {"planned"}


@pytest.mark.slow
def test_clean_knows_sharded_checkpoints(typed, here, trained):
    trunk = next((here / "runs" / "trunks").iterdir())
    for name in ("trunk-5", "branch-9", "cooldown-abc-12"):
        folder = trunk / "sharded" / name
        folder.mkdir(parents=True)
        (folder / "0.safetensors").write_bytes(b"x" * 50)
    assert typed("clean", "--yes") == (0, "removed 2 checkpoints, 0 claims, 0 temporary files: 100 bytes\n", "")
    assert [path.name for path in (trunk / "sharded").iterdir()] == ["branch-9"]
    typed("clean", "--trunks", "--yes")
    assert list((trunk / "sharded").iterdir()) == []


@pytest.mark.slow
def test_clean_leaves_a_trunk_at_work_alone(typed, here, trained):
    trunk_id = states(here)["trunk_id"].iloc[0]
    claim = open_store(here / "runs").claim(trunk_id)
    out = typed("clean", "--trunks", "--yes")[1]
    assert "removed 1 checkpoints" in out
    assert "(1 trunks at work left alone)" in out
    assert len(saved(claim.folder)) == 1
    claim.release()


@pytest.mark.slow
def test_clean_keeps_what_a_cell_without_a_result_goes_on_from(typed, here, trained):
    store = open_store(here / "runs")
    trunk_id = states(here)["trunk_id"].iloc[0]
    for run_id in states(here).index[states(here)["trunk_id"] == trunk_id]:
        store.record(run_id, "failed")
    assert "1 checkpoints" in typed("clean", "--trunks", "--yes")[1]
    assert len(saved(store.trunk_folder(trunk_id))) == 1


@pytest.mark.slow
def test_status_tells_attempts_heartbeat_and_reason(typed, here, trained):
    store, cells = open_store(here / "runs"), states(here)
    trunk_id = cells["trunk_id"].iloc[0]
    first, second = cells.index[cells["trunk_id"] == trunk_id]
    claim = store.claim(trunk_id)
    store.record(first, "running")
    store.record(second, "failed", step=7, error="Traceback (most recent call last):\nKeyError: 'x'\n")
    claim.beat(step=5)
    out = typed("status")[1]
    assert f"running   {first}" in out
    assert "step 5/" in out
    assert "attempt 1, heartbeat 0 s ago" in out
    assert "KeyError: 'x'" in out
    answer = {cell["run_id"]: cell for cell in json.loads(typed("status", "--json")[1])["cells"]}
    assert 0 <= answer[first]["heartbeat_age"] < 30
    assert answer[second]["heartbeat_age"] is None
    claim.release()
    assert "no process is at work on it" in typed("status")[1]


@pytest.mark.slow
def test_a_study_in_a_folder_of_the_users_own_is_planned_run_and_retried(typed, here, tmp_path):
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "own.yaml").write_text(
        "# @package _global_\nstudy: {name: own, sizes: [d6], budgets: [2e8], window: {min_steps: 1}}\n"
    )
    arguments = ("--config-dir", "../mine", "experiment=own", *STUDY[3:])
    assert "d6" in typed("plan", "--no-calibrate", *arguments)[1]
    code, _, err = typed("run", *arguments)
    assert code == 0, err
    open_store(here / "runs").record(states(here).index[0], "failed")
    code, out, err = typed("retry")
    assert code == 0, err
    assert "1 cells: 1 done" in out
    for command in ("plan", "run"):
        code, _, err = typed(command, "--config-dir", "../nowhere", "experiment=own")
        assert code == 2
        assert "--config-dir ../nowhere: there is no such folder" in err


@pytest.mark.parametrize(
    "override",
    [
        "+hydra.callbacks.x={_target_: shutil.copy}", "hydra.callbacks={x: {_target_: a.b}}", "++hydra.job.env_set.A=b",
        "hydra/launcher=../../x", "hydra.launcher._target_=os.system", "hydra.launcher.setup=[touch P]",
        "hydra.launcher.command=[touch]", "hydra.launcher.more=['--wrap=touch P']", "hydra.run.dir=/tmp/x",
        "hydra/callbacks=x", "hydra.searchpath=[pkg://os]", "hydra.sweeper._target_=os.system", "~hydra.launcher",
        "experiment@hydra=quick", "unknown.key=1", "--multirun", "-cn=x", "no override",
        "study.name={_target_: a.b}", "data.name=${oc.env:HOME}", "data.files=['${oc.env:HOME}/x']", "runs=${seed}",
        "hydra.job_logging={formatters: {x: {(): os.system}}}",
    ],
)  # fmt: skip
def test_a_launch_in_a_store_sets_keys_of_the_schema_or_is_refused_by_name(here, override):
    with pytest.raises(UsageError, match=r"launches/a\.json") as error:
        check_kept(["study.name=x", override], "launches/a.json")
    assert repr(override) in str(error.value)


@pytest.mark.slow
def test_launches_as_they_are_typed_are_accepted():
    slurm = ("hydra/launcher=slurm_cpu", "hydra.launcher.partition=p", "hydra.launcher.trunks_per_task=2")
    check_kept([*STUDY, "seed=0,1", "+study.arms.a={optim: {beta1: 0.8}}", "hydra.mode=MULTIRUN"], "x")
    check_kept(["experiment=quick", "model=d16", *slurm], "x")


@pytest.mark.slow
def test_retry_runs_nothing_out_of_a_store(typed, here, tmp_path):
    typed("run", *STUDY[:1], *STUDY[3:], "model=d6", "budget.flops=2e8")
    (kept,) = (here / "runs" / "launches").glob("*.json")
    (tmp_path / "evil" / "experiment").mkdir(parents=True)
    callback = "callbacks: {x: {_target_: shutil.copy, src: a, dst: b}}"
    (tmp_path / "evil" / "experiment" / "e.yaml").write_text(f"# @package _global_\nhydra: {{{callback}}}\n")
    launch = json.loads(kept.read_text())
    open_store(here / "runs").record(states(here).index[0], "failed")
    searchpath = f"hydra.searchpath=['file://{tmp_path / 'evil'}']"
    for more in (["+hydra.callbacks.x={_target_: shutil.copy}"], [searchpath, "experiment=e"]):
        kept.write_text(json.dumps(launch | {"arguments": launch["arguments"] + more}))
        code, _, err = typed("retry")
        assert code == 2
        assert kept.name in err
        assert "callbacks" in err
        assert set(states(here)["state"]) == {"failed"}


def test_clean_follows_no_link_and_goes_on_after_a_failure(typed, tmp_path, monkeypatch):
    store = create_store(tmp_path / "runs")
    outside = tmp_path / "outside"
    (outside / "sharded" / "trunk-5").mkdir(parents=True)
    names = ("trunk-3-0123456789abcdef.pt", "trunk-4-0123456789abcdef.pt", "x.tmp", "sharded/trunk-5/0", "claim.json")
    for name in names:
        (outside / name).write_text("{}")
        os.utime(outside / name, (0, 0))
    (store.root / "trunks" / "b").mkdir(parents=True)
    (store.root / "trunks" / "a").symlink_to(outside)
    (store.root / "trunks" / "b" / "sharded").symlink_to(outside / "sharded")
    (store.root / "trunks" / "b" / "trunk-3-0123456789abcdef.pt").symlink_to(outside / names[0])
    (store.root / "cells").symlink_to(outside)
    for name, target in (("a.tmp", outside), ("b.tmp", outside / "x.tmp"), ("c.tmp", tmp_path / "nowhere")):
        (store.root / name).symlink_to(target)
        os.utime(store.root / name, (0, 0), follow_symlinks=False)
    stuck = store.root / "stuck.tmp"
    stuck.write_text("x")
    os.utime(stuck, (0, 0))

    def discard(path):
        if path == store.root / "a.tmp":
            raise PermissionError(13, "Permission denied", str(path))
        return checkpoint.discard(path)

    with monkeypatch.context() as patched:
        patched.setattr(repair, "discard", discard)
        code, _, err = typed("clean", str(store.root), "--yes", "--trunks")
    assert (code, err) == (1, f"{store.root / 'a.tmp'}: not removed (Permission denied)\n")
    assert typed("clean", str(store.root), "--yes", "--trunks")[0] == 0
    assert all((outside / name).read_text() == "{}" for name in names)
    assert [path.name for path in store.root.rglob("*.tmp")] == []
    assert not (store.root / "trunks" / "b" / names[0]).is_symlink()
