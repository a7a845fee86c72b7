"""Overrides as they are typed, `key=value`: their grammar, their sweeps, and values in quotes."""

import re
import shlex
from collections.abc import Sequence

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Quote, QuotedString
from hydra.errors import HydraException

from isoflop.experiments.compose.messages import UsageError, first_sentence
from isoflop.experiments.config import ExperimentConfig, no_flag
from isoflop.experiments.study.rules import overruled

GROUPS = ("model", "data", "optim", "schedule", "experiment")  # folders of conf
# What these hold has names of its own.
NAMED = ("study.vary", "study.arms", "data.mixture", "data.domains")
OPEN = tuple(f"{key}{end}" for key in NAMED for end in "=.")
SETS_THE_GRID = ("model", "model.n_layer", "model.d_model", "model.n_head", "model.d_ff", "seed")


def check_grammar(overrides: Sequence[str]) -> None:
    """Raise UsageError for an override that cannot be read, with the form in quotes that can, or that names no file."""
    parser = OverridesParser.create()
    for override in overrides:
        try:
            parsed = parser.parse_override(override)
            if not parsed.key_or_group:
                raise UsageError(f"{override[:200]}: it names no key")
            value = parsed.value()
            values = value.list if isinstance(value, ChoiceSweep) else [value]
            if wrong := next(filter(None, (no_flag(parsed.key_or_group, one) for one in values)), ""):
                raise UsageError(f"{override[:200]}: {wrong}")
            if parsed.key_or_group == "config_dirs":
                raise UsageError(f"{override[:200]}: config_dirs is filled in; type --config-dir DIR")
            if parsed.is_interval_sweep():
                raise UsageError(
                    f"{override[:200]}: an interval names no values; type those to try: {parsed.key_or_group}=A,B,C"
                )
            nothing = parsed.value() is None and not parsed.is_delete()
            if parsed.key_or_group in GROUPS and (nothing or isinstance(parsed.value(), int | float | dict)):
                group = parsed.key_or_group
                keys = "leave it out for none" if group == "experiment" else f"its keys are {group}.KEY"
                raise UsageError(f"{override[:200]}: {group} takes the name of a file of conf/{group}; {keys}")
        except HydraException as error:
            key, equals, value = override.partition("=")
            remedy = (
                f"; a text with such characters is typed in quotes: {quoted(key, value)}" if equals and value else ""
            )
            reason = first_sentence(error)
            raise UsageError(f"{override[:200]} is not in Hydra's grammar ({reason}){remedy}") from error


def quoted(key: str, value: str) -> str:
    """`key=value` as it is typed in a shell so that Hydra takes the value, or each entry of a list, for a text."""
    inside = value[1:-1].split(",") if value.startswith("[") and value.endswith("]") else None
    texts = [QuotedString(one.strip().strip("'\""), Quote.single).with_quotes() for one in inside or [value]]
    whole = f"{key}=[{','.join(texts)}]" if inside is not None else f"{key}={texts[0]}"
    return shlex.quote(whole) if set(whole) & set('"$`!\\') else f'"{whole}"'


def opened(override: str) -> str:
    """What the keys of OPEN hold has names that the schema does not have: Hydra wants ++ there."""
    return f"++{override}" if override.startswith(OPEN) else override


def emptied(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """The keys of NAMED that are to hold nothing, by `KEY={}`, `KEY=null` or `~KEY`; and the other overrides. Hydra
    merges: it empties none.

    Raises UsageError where another override puts something into one of them.
    """
    forms = ("++{}={{}}", "++{}=null", "~{}", "~{}=null")
    keys = [key for key in NAMED if set(overrides) & {form.format(key) for form in forms}]
    others = [one for one in overrides if one not in {form.format(key) for form in forms for key in keys}]
    for one in others:
        for key in keys:
            if one.startswith((f"++{key}=", f"++{key}.")):
                raise UsageError(f"{one.lstrip('+')}: another override has {key} hold nothing; keep one of them")
    return keys, others


def typed(value: object) -> str:
    """A value as it is typed behind `key=` in an override."""
    if isinstance(value, list):
        return f"[{','.join(map(typed, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if not isinstance(value, str):
        return repr(value)
    literal = re.sub(r"(\\*)\$\{", r"\1\1\\${", value)  # a text, and no interpolation
    return QuotedString(literal, Quote.single).with_quotes()


def split_overrides(overrides: Sequence[str], loader: ConfigLoader) -> list[list[str]]:
    """Hydra's sweep grammar: a list of overrides for each combination of `key=a,b`."""
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(list(overrides))
    return BasicSweeper.split_arguments(parsed, max_batch_size=None)[0]


def check_overrides(overrides: Sequence[str], spec: ExperimentConfig) -> None:
    """Refuse keys that the configuration would ignore: those of a single cell on the command line of a study, and those
    that a rule of the optimizer sets."""
    study = spec.study if spec.study.sizes or spec.study.cells else None
    for override in overrides:
        key = override.split("=")[0].lstrip("+")
        if study and key in SETS_THE_GRID:
            study_key = "study.seeds" if key == "seed" else "study.sizes"
            raise UsageError(
                f"{override}: study {study.name!r} sets this by {study_key}; override {study_key}"
                f"=[...], or leave the study out to run a single cell"
            )
        if why := overruled(spec.optim, [key]):
            raise UsageError(f"{override.lstrip('+')}: {why}")


def plain_text(value: object) -> str:
    return value.text if isinstance(value, QuotedString) else str(value)
