"""Named rules for the settings of an optimizer. No torch.

Rules set batch, learning rate, beta2 and warm-up: they are where a search starts, not what it finds.

A rule is resolved to plain numbers before a cell is made, so a cell carries and hashes the numbers, never the rule's
name. What a rule does not set stays as written. Rates of published rules are for one rate over all tensors
(parametrization: standard). The horizon is that of a budget without the optimizer's own FLOPs, which follow from the
batch: with Muon it is longer than the run, and a tenth of it is more of the run. Units: batch, warm-up
and horizon in tokens.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache

from isoflop.experiments.config import OptimSpec, ScheduleSpec
from isoflop.experiments.study.optimizers import check
from isoflop.models.config import ModelConfig, count_params, n_matrices, training_flops_per_token


@dataclass(frozen=True)
class Setting:
    """What a rule sets; None leaves the written value."""

    batch_tokens: float | None = None
    learning_rate: float | None = None
    beta2: float | None = None
    warmup_tokens: float | None = None
    warmup_by_memory: bool = False  # 2 / (1 - beta2) steps, once beta2 is known


# What a `Setting` sets, by its fields.
KEYS = {
    "batch_tokens": "optim.batch_size",
    "learning_rate": "optim.learning_rate",
    "beta2": "optim.beta2",
    "warmup_tokens": "schedule.warmup_steps",
    "warmup_by_memory": "schedule.warmup_steps",
}
ANY_MODEL = ModelConfig("transformer", vocab_size=256, context_length=64, n_layer=2, d_model=16, n_head=2)
ANY_TOKENS = 1e9  # a rule sets the same keys of every cell

MOST_WARMUP = 0.1  # of a run, where the optimiser's memory asks for more


def resolve(
    optim: OptimSpec, schedule: ScheduleSpec, model: ModelConfig, tokens: float
) -> tuple[OptimSpec, ScheduleSpec]:
    """The settings with the values of `optim.rule` filled in, for a run of `model` on `tokens` tokens.

    Raises ValueError for an unknown optimizer or rule, and for a value out of its range.
    """
    if optim.beta2_half_life is not None and not optim.beta2_half_life > 0:
        raise ValueError(f"optim.beta2_half_life must be a positive number of tokens; not {optim.beta2_half_life}")
    if optim.rule and optim.rule not in RULES:
        raise ValueError(f"optim.rule must be one of {', '.join(RULES)}, or empty; not {optim.rule!r}")
    rule = RULES[optim.rule](model, tokens) if optim.rule else Setting()
    length = model.context_length
    batch_size = optim.batch_size if rule.batch_tokens is None else max(1, round(rule.batch_tokens / length))
    optim = replace(
        optim,
        rule="",
        clip_norm=optim.clip_norm or 0.0,  # 0 is what a cell has without clipping
        batch_size=batch_size,
        learning_rate=optim.learning_rate if rule.learning_rate is None else rule.learning_rate,
        beta2=optim.beta2 if rule.beta2 is None else rule.beta2,
    )
    if optim.beta2_half_life is not None:
        optim = replace(optim, beta2=0.5 ** (batch_size * length / optim.beta2_half_life), beta2_half_life=None)
    check(optim)
    warmup_tokens = rule.warmup_tokens
    if rule.warmup_by_memory:
        warmup_tokens = min(round(2 / (1 - optim.beta2)) * batch_size * length, MOST_WARMUP * tokens)
    if warmup_tokens is not None:
        schedule = replace(schedule, warmup_steps=max(1, math.ceil(warmup_tokens / (batch_size * length))))
    return optim, schedule


def overruled(optim: OptimSpec, keys: Iterable[str]) -> str:
    """Which setting of `optim` replaces the value of one of these keys (`optim.learning_rate`), and what keeps it; ""
    where none does."""
    by = dict.fromkeys(_set_by(optim.rule), f"optim.rule={optim.rule} sets it; optim.rule=''")
    if optim.beta2_half_life is not None:
        by["optim.beta2"] = f"optim.beta2_half_life={optim.beta2_half_life:g} sets it; optim.beta2_half_life=null"
    return next((f"{by[key]} keeps the value" for key in keys if key in by), "")


@cache
def _set_by(rule: str) -> tuple[str, ...]:
    """The keys that a rule sets."""
    setting = RULES[rule](ANY_MODEL, ANY_TOKENS) if rule in RULES else Setting()
    return tuple(key for name, key in KEYS.items() if getattr(setting, name))


def unused(optim: OptimSpec, schedule: ScheduleSpec) -> list[str]:
    """A line for each value, of a file or of what an arm replaces, that another setting of `optim` replaces."""
    written = {"optim": (optim, OptimSpec()), "schedule": (schedule, ScheduleSpec())}
    lines = []
    for key in dict.fromkeys(KEYS.values()):
        group, _, name = key.partition(".")
        value, default = (getattr(spec, name) for spec in written[group])
        if value != default and (why := overruled(optim, [key])):
            lines.append(f"{key}={value} is not used: {why}")
    return lines


def _olmo(model: ModelConfig, tokens: float) -> Setting:
    """The OLMo ladder's rule, after Porian et al. 2406.19146: warm-up of as many tokens as parameters."""
    ratio = n_matrices(model) / 108e6
    batch = 327_680 * ratio ** (2 / 3)
    return Setting(batch, 0.0047 * ratio ** (-1 / 3), 0.99 if batch < 524_288 else 0.95, n_matrices(model))


def _step_law(model: ModelConfig, tokens: float) -> Setting:
    """Li et al. 2503.04715, constants refitted from their bootstraps; N without embedding and head."""
    blocks = n_matrices(model) - count_params(model)["unembedding"]
    return Setting(0.574 * tokens**0.571, 1.78 * blocks**-0.712 * tokens**0.307)


def _deepseek(model: ModelConfig, tokens: float) -> Setting:
    """DeepSeek 2401.02954, equation 1, with C the training FLOPs."""
    flops = tokens * training_flops_per_token(model)
    return Setting(0.2920 * flops**0.3271, 0.3118 * flops**-0.125)


def _proportional(model: ModelConfig, tokens: float) -> Setting:
    """Warm-up of as many tokens as parameters, 5% of the horizon at most: a fixed one bends the law (Porian et al.)."""
    return Setting(warmup_tokens=min(n_matrices(model), 0.05 * tokens))


def _untuned_warmup(model: ModelConfig, tokens: float) -> Setting:
    """Warm-up of 2 / (1 - beta2) steps, until the second moment knows its scale (Ma and Yarats 1910.04209), 10% of the
    run at most."""
    return Setting(warmup_by_memory=True)


RULES: dict[str, Callable[[ModelConfig, float], Setting]] = {
    "olmo": _olmo,
    "step-law": _step_law,
    "deepseek": _deepseek,
    "proportional": _proportional,
    "untuned-warmup": _untuned_warmup,
}
