"""What was written differently and is one run is said, with the settings that do nothing; a lost arm is refused."""

import pytest

from isoflop.experiments.compose.compose import compose_all
from isoflop.experiments.study.check import StudyError, checked_study
from isoflop.experiments.study.same_runs import in_words, told_apart
from tests.support.sweep.studies import FakeCorpus


def study(*overrides):
    (spec,) = compose_all(["experiment=smoke", "study.sizes=[d8]", *overrides])
    return checked_study(spec, FakeCorpus())


def same(*overrides):
    return [line for line in study(*overrides).warnings if "same runs" in line]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["study.vary={optim.momentum:[0.9,0.95]}"], "optim.momentum (0.9, 0.95) makes no difference"),
        (
            ["schedule=constant", "study.vary={schedule.final_fraction:[0.1,0.2]}"],
            "schedule.final_fraction (0.1, 0.2) makes",
        ),
        (
            ["study.vary={optim.name:[adamw,muon],optim.momentum:[0.9,0.95]}"],
            "cells are the same runs as others: optim.momentum",
        ),
        (["study.budgets=[1e9,1.0001e9]"], "budget_flops (1000000000.0, 1000100000.0) makes no difference"),
        (["study.arms={a:{study:{seeds:[0,1]}},b:{}}"], "of arms a, b, each under the last that has it"),
    ],
)
def test_settings_that_do_nothing_are_named(overrides, message):
    (line,) = same(*overrides)
    assert message in line


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["study.vary={optim.momentum:[0.9,0.95]}", "optim=muon"],
        ["study.arms={a:{},b:{optim:{learning_rate:0.5}}}"],
        ["study.seeds=[0,1]", "study.replicates=[{seeds:[1,2]}]"],
    ],
)
def test_cells_that_differ_or_are_written_twice_alike_draw_no_line(overrides):
    assert not same(*overrides)


def test_an_arm_that_is_another_is_refused_by_name():
    arms = "study.arms={control:{},momentum:{optim:{momentum:0.99}},depth:{optim:{base_depth:4}}}"
    with pytest.raises(
        StudyError, match=r"study\.arms\.control: its \d+ cells are the same runs as those of depth"
    ) as e:
        study(arms)
    assert "optim.base_depth (2, 4), optim.momentum (0.95, 0.99) make no difference in them" in str(e.value)


def test_cells_of_one_label_are_told_apart_by_their_settings():
    found = study("study.vary={optim.weight_decay:[0,0.1],optim.beta2:[0.9,0.95]}")
    words = {in_words(one) for one in told_apart(found.cells).values()}
    assert words == {f"beta2={b} weight_decay={w}" for b in ("0.9", "0.95") for w in ("0", "0.1")}
    assert len(told_apart(found.cells)) == len(found.cells)
    assert told_apart(study("optim=olmo", "study.seeds=[0,1]").cells) == {}
