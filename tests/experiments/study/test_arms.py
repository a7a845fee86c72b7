"""Arms and varied keys expand to the configurations they describe; run ids outlive the fields that they do not use."""

from dataclasses import replace

import pytest

from isoflop.experiments.compose.compose import compose_all
from isoflop.experiments.config import CellSpec, ExperimentConfig, OptimSpec, ScheduleSpec, StudySpec, WindowSpec
from isoflop.experiments.study import arms
from isoflop.experiments.study.arms import ArmError, variants
from isoflop.experiments.study.cell import Cell
from isoflop.experiments.study.check import StudyError, checked_study
from isoflop.experiments.study.study import expand
from tests.support.sweep.studies import CORPUS, FakeCorpus, only, single

ARMS = {"transformer": {"study": {"sizes": ["d8", "d12"]}}, "lstm": {"study": {"sizes": ["lstm-d20"]}}}


def compared(**fields) -> ExperimentConfig:
    given = {"name": "s", "arms": ARMS, "budgets": [3e9], "window": WindowSpec(min_steps=1)} | fields
    return ExperimentConfig(study=StudySpec(**given), schedule=ScheduleSpec(warmup_steps=5))


def cells(config: ExperimentConfig) -> tuple[Cell, ...]:
    return expand(config, CORPUS).cells


def test_each_arm_has_its_own_sizes_and_its_name():
    assert [(c.arm, c.size, c.model.family) for c in cells(compared())] == [
        ("transformer", "d8", "transformer"),
        ("transformer", "d12", "transformer"),
        ("lstm", "lstm-d20", "lstm"),
    ]


def test_an_arm_is_the_same_run_as_the_cell_alone():
    lstm = cells(compared())[-1]
    alone = ExperimentConfig(
        study=StudySpec(sizes=["lstm-d20"], budgets=[3e9], window=WindowSpec(min_steps=1)),
        schedule=ScheduleSpec(warmup_steps=5),
    )
    assert [lstm.run_id] == [c.run_id for c in cells(alone)]


def test_arms_meet_one_budget_and_one_order_of_data():
    found = cells(compared(seeds=[0, 1]))
    assert {c.seed for c in found} == {0, 1}
    for cell in found:
        assert cell.training_flops == pytest.approx(3e9, rel=0.05)
        assert (cell.corpus_id, cell.batch_tokens) == (found[0].corpus_id, found[0].batch_tokens)


def test_varied_keys_are_crossed_with_each_other_and_with_the_arms():
    arms = {"a": {"optim": {"parametrization": "mup"}}, "b": {"optim": {"parametrization": "standard"}}}
    vary = {"optim.learning_rate": [0.01, 0.02], "optim.batch_size": [4, 8]}
    found = [(v.arm, v.optim.parametrization, v.optim.learning_rate, v.optim.batch_size)
             for v in variants(compared(arms=arms, vary=vary))]  # fmt: skip
    assert found == [
        (arm, rule, rate, size) for arm, rule in (("a", "mup"), ("b", "standard"))
        for rate in (0.01, 0.02) for size in (4, 8)
    ]  # fmt: skip


def test_a_group_is_changed_once_for_all_the_values_of_other_groups(monkeypatch):
    made, changed = [], arms._changed
    monkeypatch.setattr(
        arms, "_changed", lambda part, key, value: made.append((key, value)) or changed(part, key, value)
    )
    rates, lengths = [0.01, 0.02, 0.03], [32, 64]
    vary = {"optim.learning_rate": rates, "data.context_length": lengths, "optim.beta1": [0.8]}
    found = [(v.optim.learning_rate, v.data.context_length, v.optim.beta1)
             for v in variants(compared(arms={}, sizes=["d8"], vary=vary))]  # fmt: skip
    assert found == [(rate, length, 0.8) for rate in rates for length in lengths]
    assert len(made) == len(rates) + len(lengths) + len(rates)


def test_an_arm_may_vary_values_of_its_own():
    arms = {"a": {"study": {"vary": {"optim.learning_rate": [0.01, 0.02]}}}, "b": {}}
    found = [(v.arm, v.optim.learning_rate) for v in variants(compared(arms=arms))]
    assert found == [("a", 0.01), ("a", 0.02), ("b", OptimSpec().learning_rate)]


def test_arms_and_varied_values_may_each_read_another_corpus():
    requested = []

    def corpora(data):
        requested.append((data.tokenizer, data.unique_tokens))
        return FakeCorpus("-".join(map(str, requested[-1])), train_tokens=data.unique_tokens or 10_000_000)

    arms = {
        "bytes": {"study": {"vary": {"data.unique_tokens": [900_000, 400_000]}}},
        "bpe": {"data": {"tokenizer": "bpe"}},
    }
    study = expand(compared(arms=arms, sizes=["d8"], budgets=[2e10], seeds=[0, 1]), corpora)
    found = {(c.arm, c.corpus_id, c.data.unique_tokens) for c in study.cells}
    assert found == {
        ("bytes", "bytes-900000", 900_000),
        ("bytes", "bytes-400000", 400_000),
        ("bpe", "bpe-None", None),
    }
    assert len({c.trunk_id for c in study.cells}) == len({c.run_id for c in study.cells}) == 6
    assert "2 of 6 cells repeat their corpus" in study.warnings[0]


def test_without_arms_the_configuration_is_its_own_variant():
    config = single(flops=1e9)
    assert list(variants(config)) == [config]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"arms": {"a": {"where": {"device": "cpu"}}}},
            "study.arms.a may set keys of model, data, optim, schedule, budget, study; not 'where'",
        ),
        ({"arms": {"a": {"optim": {"learning_rat": 1}}}}, "study.arms.a: Key 'learning_rat' not in 'OptimSpec'"),
        ({"arms": {"a": {"optim": {"learning_rate": "x"}}}}, "study.arms.a: optim.learning_rate takes a number, not x"),
        ({"arms": {"a": 3}}, "study.arms.a must hold keys of model, data, optim, schedule, budget, study; not 3"),
        ({"arms": {}, "vary": {"optim.learning_rate": 0.1}}, "study.vary.optim.learning_rate must be a list"),
        (
            {"arms": {}, "vary": {"where.device": ["cpu"]}},
            "study.vary may set keys of model, data, optim, schedule, budget, study; not 'where.device'",
        ),
        ({"arms": {}, "vary": {"optim.lr": [0.1]}}, "Key 'lr' not in 'OptimSpec'"),
        (
            {"arms": {}, "vary": {"model.n_layer": [2, 4]}, "sizes": ["d8", "d12"]},
            "study.vary.model.n_layer=4: size d8 of the study sets n_layer=2 itself",
        ),
        (
            {"arms": {"wide": {"model": {"d_model": 64}}}, "cells": [CellSpec(size="d12")]},
            "study.arms.wide.model.d_model=64: size d12 of the study sets d_model=12 itself",
        ),
    ],
)
def test_bad_arms_are_refused_with_the_arm_and_the_key(fields, message):
    with pytest.raises(ArmError) as caught:
        list(variants(compared(**fields)))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


OF_ALL = {
    "hold_out": [3e9], "stop": "decided", "name": "other", "rounds": {"count": 1, "budget": 1e9, "target": 1e10},
    "arms": {"b": {"optim": {"learning_rate": 0.1}}},
}  # fmt: skip


@pytest.mark.parametrize("key", OF_ALL)
def test_what_is_of_the_whole_study_is_refused_in_an_arm_and_in_vary(key):
    with pytest.raises(ArmError, match=rf"study\.arms\.a\.study\.{key}[a-z_.]*: it is of the whole study"):
        list(variants(compared(arms={"a": {"study": {key: OF_ALL[key]}}})))
    with pytest.raises(ArmError, match=rf"study\.vary\.study\.{key}: .* set study\.{key} itself"):
        list(variants(compared(arms={}, vary={f"study.{key}": [OF_ALL[key]]})))


def test_a_budget_of_the_arms_can_be_held_out():
    arms = {
        name: {"study": {"sizes": ["d8"], "budgets": budgets}} for name, budgets in (("a", [1e9, 3e9]), ("b", [2e9]))
    }
    config = compared(arms=arms, budgets=[], hold_out=[3e9])
    assert checked_study(config, CORPUS).hold_out == (3e9,)
    with pytest.raises(StudyError, match=r"hold_out names budget 5e\+09, .* of any arm \(1e\+09, 2e\+09, 3e\+09\)"):
        checked_study(replace(config, study=replace(config.study, hold_out=[5e9])), CORPUS)


@pytest.mark.slow
def test_run_ids_of_this_version_stand():
    """A changed id here orphans every run that exists: only a new WHAT_VERSION may do that."""
    pinned = {("quick", "wsd"): "1cc6d2f24e70", ("quick", "cosine"): "f69365b6a3a3"}
    for (name, schedule), run_id in pinned.items():
        (config,) = compose_all([f"experiment={name}", f"schedule={schedule}"])
        found = expand(config, FakeCorpus("0" * 12)).cells
        assert [c.run_id for c in found if (c.size, c.budget_flops, c.seed) == ("d16", 3e10, 0)] == [run_id]


@pytest.mark.parametrize(
    ("idle", "at_work"),
    [
        (OptimSpec(base_depth=9), OptimSpec(parametrization="completep", base_depth=9)),
    ],
)
def test_a_key_counts_only_where_it_does_something(idle, at_work):
    base = single(flops=3e9)
    assert only(replace(base, optim=idle)).run_id == only(base).run_id
    without = replace(at_work, **{key: getattr(OptimSpec(), key) for key in ("base_depth",)})
    assert only(replace(base, optim=at_work)).run_id != only(replace(base, optim=without)).run_id


@pytest.mark.parametrize("name", ["cosine", "linear", "constant"])
def test_schedules_without_a_trunk_ignore_the_cooldown_and_share_nothing(name):
    schedule = ScheduleSpec(name=name, warmup_steps=5)
    config = replace(single(flops=3e9), schedule=schedule)
    other = replace(config, schedule=replace(schedule, cooldown_fraction=0.5))
    assert only(config).run_id == only(other).run_id
    longer = only(replace(config, budget=replace(config.budget, flops=6e9)))
    assert only(config).trunk_id != longer.trunk_id
