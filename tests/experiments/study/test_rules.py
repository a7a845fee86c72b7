"""Named rules give the numbers their papers give, as plain numbers in the cell."""

import re
from dataclasses import replace

import pytest

from isoflop.experiments.compose.compose import compose_all
from isoflop.experiments.compose.messages import UsageError
from isoflop.experiments.config import BudgetSpec, ExperimentConfig, OptimSpec, ScheduleSpec
from isoflop.experiments.study.arms import ArmError, variants
from isoflop.experiments.study.rules import RULES, resolve, unused
from isoflop.experiments.study.study import expand
from isoflop.models.config import ModelConfig, n_matrices
from tests.support.sweep.studies import CORPUS, only, single

MODEL = ModelConfig("transformer", vocab_size=256, context_length=64, n_layer=8, d_model=96, n_head=12)
TOKENS = 2e7


def resolved(rule: str, tokens: float = TOKENS, **optim) -> tuple[OptimSpec, ScheduleSpec]:
    return resolve(OptimSpec(rule=rule, **optim), ScheduleSpec(), MODEL, tokens)


@pytest.mark.parametrize(
    ("rule", "learning_rate", "batch_tokens"),
    [("step-law", 1.6e-2, 8.6e3), ("deepseek", 5.4e-3, 11.8e3), ("olmo", 2.2e-2, 14.4e3)],
)
def test_three_published_rules_at_a_million_parameters(rule, learning_rate, batch_tokens):
    assert n_matrices(MODEL) == pytest.approx(1e6, rel=0.15)
    optim, _ = resolved(rule)
    assert optim.learning_rate == pytest.approx(learning_rate, rel=0.15)
    assert optim.batch_size * MODEL.context_length == pytest.approx(batch_tokens, rel=0.15)


def test_exact_at_the_anchor_of_the_olmo_rule():
    model = replace(MODEL, n_layer=12, d_model=768, n_head=96)
    optim, schedule = resolve(OptimSpec(rule="olmo"), ScheduleSpec(), model, 1e10)
    ratio = n_matrices(model) / 108e6
    assert optim.learning_rate == pytest.approx(0.0047 * ratio ** (-1 / 3))
    assert optim.beta2 == 0.99
    warmup_tokens = schedule.warmup_steps * optim.batch_size * model.context_length
    assert 0 <= warmup_tokens - n_matrices(model) < optim.batch_size * model.context_length


def test_beta2_keeps_its_half_life_in_tokens_at_every_batch():
    for batch_size in (1, 8, 64):
        optim, _ = resolved("", batch_size=batch_size, beta2_half_life=35_000.0)
        steps = 35_000 / (batch_size * MODEL.context_length)
        assert optim.beta2**steps == pytest.approx(0.5)
    assert resolved("", batch_size=8, beta2_half_life=35_000.0)[0].beta2 == pytest.approx(0.99, abs=2e-4)


@pytest.mark.parametrize(("tokens", "expected"), [(2e9, n_matrices(MODEL)), (2e6, 1e5)])
def test_proportional_warm_up_is_a_token_per_parameter_or_a_twentieth_of_the_run(tokens, expected):
    optim, schedule = resolved("proportional", tokens)
    assert schedule.warmup_steps * optim.batch_size * MODEL.context_length == pytest.approx(expected, rel=0.01)
    assert optim == OptimSpec()


@pytest.mark.parametrize(
    ("optim", "tokens", "steps"),
    [
        ({"beta2": 0.99}, 2e7, 200),
        ({"beta2": 0.999}, 2e7, 2000),
        ({"beta2": 0.999}, 512 * 5000, 500),  # a tenth of the run
        ({"batch_size": 64, "beta2_half_life": 35_000.0}, 2e7, 26),  # .92: beta2 is set before the warm-up
    ],
)
def test_untuned_warm_up_is_twice_the_memory_of_the_second_moment(optim, tokens, steps):
    optim, schedule = resolved("untuned-warmup", tokens, **{"batch_size": 8} | optim)
    assert schedule.warmup_steps == steps
    assert schedule.warmup_steps == min(round(2 / (1 - optim.beta2)), 0.1 * tokens // (optim.batch_size * 64))


def test_a_rule_and_its_numbers_are_one_run():
    config = replace(single(), budget=BudgetSpec(tokens=4e5), optim=OptimSpec(rule="olmo"))
    by_rule = only(config)
    assert by_rule.optim.rule == ""
    by_number = replace(config, optim=by_rule.optim, schedule=by_rule.schedule)
    assert only(by_number).run_id == by_rule.run_id != only(replace(config, optim=OptimSpec())).run_id


def test_no_rule_changes_nothing():
    assert resolve(OptimSpec(), ScheduleSpec(), MODEL, TOKENS) == (OptimSpec(), ScheduleSpec())


@pytest.mark.parametrize(
    ("optim", "message"),
    [
        (
            OptimSpec(rule="kaplan"),
            "optim.rule must be one of olmo, step-law, deepseek, proportional, untuned-warmup, or empty; not 'k",
        ),
        (OptimSpec(beta2_half_life=0.0), "optim.beta2_half_life must be a positive number of tokens; not 0.0"),
    ],
)
def test_bad_rules_are_refused(optim, message):
    with pytest.raises(ValueError, match=message):
        only(ExperimentConfig(optim=optim, budget=BudgetSpec(tokens=1e6)))


SET = {
    "olmo": {"optim.batch_size": 4, "optim.learning_rate": 0.02, "optim.beta2": 0.9, "schedule.warmup_steps": 30},
    "step-law": {"optim.batch_size": 4, "optim.learning_rate": 0.02},
    "deepseek": {"optim.batch_size": 4, "optim.learning_rate": 0.02},
    "proportional": {"optim.beta2": 0.95, "schedule.warmup_steps": 30},  # beta2 by the half-life of its file
    "untuned-warmup": {"optim.beta2": 0.95, "schedule.warmup_steps": 30},
}


@pytest.mark.parametrize(("rule", "key"), [(rule, key) for rule, keys in SET.items() for key in keys])
def test_what_a_rule_sets_is_refused_where_it_is_typed(rule, key):
    override, remedy = f"{key}={SET[rule][key]}", r"optim\.(rule=''|beta2_half_life=null) keeps the value"
    with pytest.raises(UsageError, match=f"{override}: optim.* sets it; {remedy}") as refused:
        compose_all([f"optim={rule}", "budget.tokens=1e6", override])
    kept = re.search(remedy, str(refused.value))[0].split(" ")[0]
    compose_all([f"optim={rule}", "budget.tokens=1e6", override, kept])  # as the message has it
    group, _, name = key.partition(".")
    for study in ({"arms": {"one": {group: {name: SET[rule][key]}}}}, {"vary": {key: [SET[rule][key]]}}):
        (config,) = compose_all([f"optim={rule}", "experiment=smoke"])
        config = replace(config, study=replace(config.study, **study))
        with pytest.raises(ArmError, match=rf"study\.(arms\.one|vary)\.{key}: optim.* sets it; {remedy}"):
            list(variants(config))


def test_what_a_rule_does_not_set_may_be_typed():
    for override in ("optim.weight_decay=0.1", "schedule.warmup_steps=30", "optim.beta2=0.9"):
        compose_all(["optim=step-law", "budget.tokens=1e6", override])
    compose_all(["optim=proportional", "budget.tokens=1e6", "optim.learning_rate=0.01", "optim.batch_size=4"])


def test_a_value_of_a_file_that_a_rule_replaces_is_named():
    (config,) = compose_all(["experiment=smoke", "optim=proportional"])
    line = "schedule.warmup_steps=10 is not used: optim.rule=proportional sets it; optim.rule='' keeps the value"
    assert line in expand(config, CORPUS).warnings
    assert unused(OptimSpec(beta2=0.9, beta2_half_life=35_000.0), ScheduleSpec()) == [
        "optim.beta2=0.9 is not used: optim.beta2_half_life=35000 sets it; "
        "optim.beta2_half_life=null keeps the value"
    ]  # fmt: skip


@pytest.mark.slow
def test_every_rule_has_a_file():
    for rule in RULES:
        (config,) = compose_all([f"optim={rule}"])
        assert config.optim.rule == rule
