"""What each key of the configuration may be, by itself: kind, range, names. What keys must be together is in `check`.

`FIELDS` has a rule for every key. A rule gives "" for a value that may be, else what it must be.
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from isoflop.experiments.config import ExperimentConfig
from isoflop.experiments.data.domains.python_parts import PARTS
from isoflop.experiments.data.sources import SOURCES
from isoflop.experiments.files import NAME_RULE, is_name
from isoflop.experiments.study.cell import MOST_ROWS, ROWS_PER_DOUBLING
from isoflop.experiments.study.engine import DISTRIBUTED
from isoflop.experiments.study.optimizers import OPTIMIZERS
from isoflop.experiments.study.rules import RULES
from isoflop.models.config import FAMILIES, FEWEST_BITS, FULL_BITS, MOST_BITS, OPTIONS, PARAMETRIZATIONS
from isoflop.scaling.table.schedules.schedule import COOLDOWNS, SCHEDULES

Rule = Callable[[Any], str]

SHOWN = 80  # characters of a wrong value in a message
MOST_LAYERS, WIDEST = 10_000, 1_000_000
MOST_STEPS = 10**12
LARGEST = 1e40  # FLOPs or tokens
_DEVICE = re.compile(r"cpu|cuda(:\d+)?")


class FieldError(ValueError):
    """A value that its key cannot have."""


def whole(low: int, high: int) -> Rule:
    """A whole number of a range."""
    text = f"a whole number from {low:,} to {high:,}"
    return lambda value: "" if type(value) is int and low <= value <= high else text


def number(low: float, high: float, text: str, *, open_low: bool = False, open_high: bool = False) -> Rule:
    """A finite number of a range, whose ends may be left out."""

    def rule(value: Any) -> str:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return text
        inside = (low < value if open_low else low <= value) and (value < high if open_high else value <= high)
        return "" if inside else text

    return rule


def positive(high: float = LARGEST, text: str = "a positive number") -> Rule:
    """A number above zero, up to a limit that is said of a number beyond it."""
    above, below = number(0, math.inf, text, open_low=True), number(0, high, f"{text} up to {high:g}")
    return lambda value: above(value) or below(value)


def named(names: Sequence[str], *, empty: bool = False) -> Rule:
    """One of these names, or where `empty` none at all."""
    text = f"one of {', '.join(names)}" + (", or empty" if empty else "")
    return lambda value: "" if value in names or (empty and value == "") else text


def optional(rule: Rule) -> Rule:
    """The rule that allows null too."""
    return lambda value: "" if value is None else rule(value)


@dataclass(frozen=True)
class Each:
    """A list of such values, at least so many, or null where that may be."""

    rule: Rule
    least: int = 0
    null: bool = False

    def __call__(self, values: Any) -> str:
        """Whether it is a long enough list; its values are `leaves` of their own."""
        enough = (self.null and values is None) or (isinstance(values, list | tuple) and len(values) >= self.least)
        return "" if enough else f"a list of at least {self.least}" if self.least else "a list"


def _flag(value: Any) -> str:
    return "" if isinstance(value, bool) else "true or false"


def _text(value: Any) -> str:
    return "" if isinstance(value, str) and value.strip() and "\0" not in value else "a text that is not empty"


def _path(value: Any) -> str:
    if isinstance(value, str) and value.startswith("~"):
        return "a path as it is: a shell expands ~ at the beginning of a word only; write $HOME"
    return _text(value)


def _bits(value: Any) -> str:
    text = f"a whole number from {FEWEST_BITS} to {MOST_BITS}, or {FULL_BITS} (float32)"
    return "" if type(value) is int and (FEWEST_BITS <= value <= MOST_BITS or value == FULL_BITS) else text


def _any_text(value: Any) -> str:
    return "" if isinstance(value, str) and "\0" not in value else "a text"


def _name(value: Any) -> str:
    return "" if is_name(value) else f"a name, since it becomes part of a path: {NAME_RULE}"


def _device(value: Any) -> str:
    return "" if isinstance(value, str) and _DEVICE.fullmatch(value) else "cpu, cuda or cuda:NUMBER"


def _table(value: Any) -> str:
    return "" if isinstance(value, dict) and all(isinstance(key, str) for key in value) else "keys with values"


SHARE = number(0, 1, "a number above 0 and below 1", open_low=True, open_high=True)
DECAY = number(0, 1, "a number from 0 to below 1", open_high=True)
FINITE = number(-math.inf, math.inf, "a finite number")
WEIGHT = number(-100, 100, "a number from -100 to 100")
SEED = whole(0, 2**63 - 1)
COUNT = whole(1, 2**31 - 1)
FLOPS = positive()
PAID = number(0, 1e12, "a number from 0 to 1e12")

HALF_LIFE = optional(positive(1e15, "a positive number of tokens"))

FIELDS: dict[str, Rule] = {
    "model.family": named(FAMILIES), "model.n_layer": whole(1, MOST_LAYERS), "model.d_model": whole(1, WIDEST),
    "model.n_head": whole(0, WIDEST), "model.d_ff": optional(whole(1, 8 * WIDEST)), "model.tied": _flag,
    **{f"model.{key}": named(names) for key, names in OPTIONS.items()},
    "model.experts": whole(0, 10_000), "model.experts_per_token": whole(1, 10_000),
    "model.weight_bits": _bits, "model.activation_bits": _bits,

    "data.name": _any_text, "data.source": named(tuple(SOURCES)), "data.files": Each(_text),
    "data.hub.name": _any_text, "data.hub.subset": optional(_text), "data.hub.split": _text,
    "data.hub.revision": optional(_text), "data.hub.max_bytes": optional(whole(1, 2**63 - 1)),
    "data.text_column": _text, "data.encoding": _text, "data.skip_bad": _flag, "data.clean": Each(_text),
    "data.separator": _any_text,
    "data.tokenizer": _text, "data.vocab_size": whole(1, 2**24), "data.context_length": whole(1, 2**20),
    "data.held_out_fraction": SHARE, "data.eval_tokens": whole(1, MOST_STEPS),
    "data.unique_tokens": optional(whole(1, MOST_STEPS)), "data.max_epochs": positive(),
    "data.synthetic.vocab_size": whole(2, 2**24), "data.synthetic.tokens": whole(1, 2**31 - 1),
    "data.synthetic.chains": COUNT, "data.synthetic.order": whole(1, 24), "data.synthetic.seed": SEED,
    "data.part": named(PARTS, empty=True), "data.mixture": _table, "data.domains": _table,
    "data.synthetic.rank": optional(whole(1, 2**24)), "data.synthetic.bigram_weight": WEIGHT,
    "data.synthetic.skip_weight": WEIGHT, "data.synthetic.trigram_weight": WEIGHT,
    "data.synthetic.twins": Each(whole(0, 2**31 - 1), 1),

    "optim.name": named(tuple(OPTIMIZERS)), "optim.rule": named(tuple(RULES), empty=True),
    "optim.parametrization": named(PARAMETRIZATIONS), "optim.learning_rate": positive(),
    "optim.base_width": whole(1, WIDEST), "optim.base_depth": whole(1, MOST_LAYERS), "optim.beta1": DECAY,
    "optim.beta2": DECAY, "optim.beta2_half_life": HALF_LIFE, "optim.eps": positive(1),
    "optim.momentum": DECAY, "optim.weight_decay": number(0, 1e6, "a number from 0 to 1e6"),
    "optim.clip_norm": optional(positive()), "optim.batch_size": whole(1, 2**24),

    "schedule.name": named(SCHEDULES), "schedule.warmup_steps": whole(0, MOST_STEPS),
    "schedule.cooldown_fraction": number(0, 1, "a number above 0, up to 1", open_low=True),
    "schedule.cooldown_shape": named(tuple(COOLDOWNS)),
    "schedule.final_fraction": number(0, 1, "a number from 0 to 1"),

    "budget.tokens": optional(positive()), "budget.flops": optional(FLOPS),
    "budget.tokens_per_param": optional(positive()), "seed": SEED, "init_from": _text, "arm": _any_text,

    "study.name": _any_text, "study.sizes": Each(_text), "study.budgets": Each(FLOPS),
    "study.window.tokens_per_param": Each(positive(), 2, null=True),
    "study.window.optimum_coef": optional(positive()), "study.window.optimum_exponent": optional(FINITE),
    "study.window.factor": optional(number(1, LARGEST, "a number above 1", open_low=True)),
    "study.window.min_steps": whole(0, MOST_STEPS), "study.cells.size": _text, "study.cells.flops": FLOPS,
    "study.cells.seeds": Each(SEED, 1), "study.seeds": Each(SEED, 1), "study.replicates.sizes": Each(_text),
    "study.replicates.budgets": Each(FLOPS), "study.replicates.seeds": Each(SEED), "study.arms": _table,
    "study.vary": _table, "study.mixtures.shares": Each(_table), "study.mixtures.grid": whole(0, 1000),
    "study.mixtures.draws": whole(0, 10_000), "study.mixtures.concentration": positive(1e6),
    "study.mixtures.seed": SEED, "study.hold_out": Each(FLOPS), "study.rounds.count": whole(0, 1000),
    "study.rounds.budget": optional(FLOPS), "study.rounds.target": optional(FLOPS),
    "study.stop": named(("decided",), empty=True),
    "study.rounds.goal": named(("n_opt", "loss", "multiplier")),

    "where.device": _device, "where.workers": optional(whole(1, 10_000)), "where.workers_per_gpu": whole(1, 1000),
    "where.pack": optional(whole(1, 10_000)), "where.threads": whole(1, 10_000),
    "where.curve_rows": whole(ROWS_PER_DOUBLING, MOST_ROWS),
    "where.micro_batch": optional(whole(1, 2**24)), "where.activation_checkpointing": _flag, "where.noise_scale": _flag,
    "where.precision": _text, "where.graph": optional(_flag), "where.compile": optional(_flag),
    "where.distributed": named(DISTRIBUTED), "where.trackers": Each(_text), "where.corpora": _path,
    "where.checkpoint_seconds": number(0, 1e9, "a number of seconds from 0 on"),
    "where.price_per_hour": optional(PAID), "where.watts": optional(PAID), "where.max_dollars": optional(PAID),
    "where.trunk": optional(_text), "where.cells": optional(_name), "where.only": Each(_name, null=True),
    "runs": _path, "config_dirs": Each(_text),
}  # fmt: skip


def check_fields(config: ExperimentConfig) -> None:
    """Raise FieldError naming the first key whose value cannot be, the value, and what it must be."""
    for key, at, value in leaves(config):
        rule = FIELDS[key]
        if wanted := rule(value):
            raise FieldError(f"{at} must be {wanted}; not {shown(value)}")
        if isinstance(rule, Each):
            for i, one in enumerate(value or ()):
                if wanted := rule.rule(one):
                    raise FieldError(f"{at}[{i}] must be {wanted}; not {shown(one)}")


def leaves(node: Any, key: str = "", at: str = "") -> Iterator[tuple[str, str, Any]]:
    """(key, place, value) of every value in a configuration; the place has the number of a list's entry too."""
    for one in fields(node):
        value, below, there = getattr(node, one.name), f"{key}.{one.name}".lstrip("."), f"{at}.{one.name}".lstrip(".")
        if is_dataclass(value):
            yield from leaves(value, below, there)
        elif below in LISTS:
            for i, entry in enumerate(value):
                yield from leaves(entry, below, f"{there}[{i}]")
        else:
            yield below, there, value


LISTS = ("study.cells", "study.replicates")  # of parts with keys of their own


def shown(value: object) -> str:
    """A value as a message shows it, on one line."""
    text = "null" if value is None else repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
