"""Checkpoints that are cut short, flipped or gone, and which of them are needed."""

import logging

import pytest
import torch

from isoflop.experiments.training.checkpoint import Checkpoints, needless, prune, saved

STATE = {"weights": torch.arange(1000.0), "loss_sum": torch.zeros(())}


def state(step):
    return STATE | {"step": step, "weights": STATE["weights"] + step}


def steps(folder, *kinds):
    return [one.step for one in saved(folder, *kinds)]


@pytest.fixture
def three(tmp_path):
    """Saved at 10, 20 and 30 steps."""
    checkpoints = Checkpoints(tmp_path, 0.0)
    for step in (10, 20, 30):
        checkpoints.save_trunk(state(step))
    return checkpoints


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty(path):
    path.write_bytes(b"")


def test_the_last_two_are_kept_and_the_last_is_read(three, tmp_path):
    assert steps(tmp_path) == [30, 20]
    assert torch.equal(three.trunk(up_to=99)["weights"], state(30)["weights"])
    assert three.trunk(up_to=29)["step"] == 20
    assert three.trunk(up_to=19) is None


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, empty])
def test_a_damaged_one_falls_back_to_the_one_before_and_is_named(three, tmp_path, caplog, damage):
    latest, before = saved(tmp_path)
    damage(latest.path)
    with caplog.at_level(logging.WARNING):
        assert three.trunk(up_to=99)["step"] == 20
    (record,) = caplog.records
    assert f"checkpoint {latest.path} is damaged" in record.getMessage()
    assert f"going on from step 20 ({before.path.name})" in record.getMessage()
    assert steps(tmp_path) == [20]


@pytest.mark.parametrize("damage", [truncate, flip_a_bit])
def test_with_both_damaged_it_starts_again_and_says_so(three, tmp_path, caplog, damage):
    for one in saved(tmp_path):
        damage(one.path)
    assert three.trunk(up_to=99) is None
    assert [r.getMessage().endswith("going on from the start") for r in caplog.records] == [True, True]
    three.save_trunk(state(10))
    assert three.trunk(up_to=99)["step"] == 10


def test_a_deleted_one_is_not_missed(three, tmp_path, caplog):
    saved(tmp_path)[0].path.unlink()
    assert three.trunk(up_to=99)["step"] == 20
    assert not caplog.records


def test_a_damaged_branch_point_is_written_again(tmp_path):
    checkpoints = Checkpoints(tmp_path, 0.0)
    checkpoints.save_branch(state(10))
    truncate(saved(tmp_path)[0].path)
    assert checkpoints.trunk(up_to=10) is None
    checkpoints.save_branch(state(10))
    assert checkpoints.trunk(up_to=10)["step"] == 10


def test_a_cooldown_falls_back_too_and_is_dropped_whole(tmp_path):
    checkpoints = Checkpoints(tmp_path, 0.0)
    for step in (90, 95):
        checkpoints.save_cooldown("abc", state(step))
    flip_a_bit(saved(tmp_path)[0].path)
    assert checkpoints.cooldown("abc")["step"] == 90
    assert checkpoints.cooldown("other") is None
    checkpoints.drop_cooldown("abc")
    assert steps(tmp_path) == []


def test_a_write_that_is_cut_short_leaves_the_ones_before(three, tmp_path, monkeypatch):
    def dies(state, file):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", dies)
    with pytest.raises(KeyboardInterrupt):
        three.save_trunk(state(40))
    assert steps(tmp_path) == [30, 20]
    assert len(list(tmp_path.iterdir())) == 2


def test_what_no_cell_needs_is_pruned_and_the_furthest_state_stays(tmp_path):
    checkpoints = Checkpoints(tmp_path, 0.0)
    for step in (100, 200, 400):
        checkpoints.save_branch(state(step))
    for step in (390, 395):
        checkpoints.save_trunk(state(step))
    checkpoints.save_cooldown("done", state(120))
    checkpoints.save_cooldown("left", state(220))
    prune(tmp_path, {"left": 200})
    assert [(one.kind, one.step) for one in saved(tmp_path)] == [
        ("branch", 400),
        ("cooldown-left", 220),
        ("branch", 200),
        ("branch", 100),
    ]
    prune(tmp_path, {})
    assert steps(tmp_path) == [400]
    assert [one.step for one in needless(tmp_path, {}, keep_furthest=False)] == [400]


def test_a_state_before_the_first_step_is_not_worth_a_file(tmp_path):
    Checkpoints(tmp_path, 0.0).save_branch(state(0))
    assert steps(tmp_path) == []


def test_a_trunk_of_shards_is_not_started_again_in_silence(tmp_path, caplog):
    (tmp_path / "sharded" / "trunk-64").mkdir(parents=True)
    with caplog.at_level(logging.WARNING):
        assert Checkpoints(tmp_path, 0).trunk(up_to=100) is None
    assert f"trunk {tmp_path.name} starts again: its checkpoints are shards" in caplog.text
