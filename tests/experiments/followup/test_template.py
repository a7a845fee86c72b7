"""What runs of several batches have in common: the memory of their optimizer in tokens, and its warm-up."""

from dataclasses import asdict

import pytest

from isoflop.experiments.config import DataSpec, ModelSpec, OptimSpec, ScheduleSpec
from isoflop.experiments.followup.template import model_of, rule_of
from isoflop.experiments.study.rules import resolve

TOKENS = (30_720.0, 614_400.0)


def settings(rule: str, batches: tuple[int, ...] = (4, 16), half_life: float = 35_000.0) -> list[dict]:
    """Those of runs of every batch and horizon under a rule, as a run keeps them."""
    found = []
    for batch in batches:
        for tokens in TOKENS:
            requested = OptimSpec(rule=rule, beta2_half_life=half_life, batch_size=batch)
            optim, schedule = resolve(requested, ScheduleSpec(), model_of(ModelSpec(), 256, 64), tokens)
            found.append({"optim": asdict(optim), "schedule": asdict(schedule), "data": asdict(DataSpec())})
    return found


@pytest.mark.parametrize(("rule", "reported"), [("untuned-warmup", {"rule": "untuned-warmup"}), ("", {})])
def test_a_memory_in_tokens_and_its_warm_up_are_found_from_the_numbers_of_the_runs(rule, reported):
    assert rule_of(settings(rule), TOKENS * 2) == {"beta2_half_life": 35_000.0} | reported


def test_one_number_or_each_its_own_is_no_rule():
    assert rule_of(settings("untuned-warmup", (8,)), TOKENS) == {}
    mixed = settings("", (4,)) + settings("", (16,), 70_000.0)
    assert rule_of(mixed, TOKENS * 2) == {}
