"""What a study compares: each arm sets some keys of the configuration, `vary` runs through the values of others, and
`mixtures` through shares of domains."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from math import prod
from typing import Any, cast

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from isoflop.experiments.config import ExperimentConfig, no_flag
from isoflop.experiments.study.mixtures import mixed
from isoflop.experiments.study.rules import overruled
from isoflop.experiments.study.sizes import load_size
from isoflop.experiments.study.takes import reason, refused

MOST_COMBINATIONS = 10_000  # of the values of study.vary
ARM_SETS = ("model", "data", "optim", "schedule", "budget", "study")
OF_ALL_ARMS = ("study.name", "study.hold_out", "study.stop", "study.rounds", "study.arms")


class ArmError(ValueError):
    """An arm, or a key to vary, that the configuration has no place for."""


def variants(config: ExperimentConfig) -> Iterator[ExperimentConfig]:
    """One configuration for each arm, each combination of the values to vary and each mixture; without any the same.

    Raises ArmError naming the arm, the key and the value, DesignError for mixtures that are none.
    """
    if not config.study.arms and not config.study.vary:
        yield from mixed(config)
        return
    base = OmegaConf.structured(config)
    for name, patch in (config.study.arms or {config.arm: {}}).items():
        arm = _patched(base, name, patch or {})
        vary = {key: _values(key, given) for key, given in arm.study.vary.items()}
        if (count := prod(map(len, vary.values()))) > MOST_COMBINATIONS:
            raise ArmError(f"study.vary has {count:,} combinations of values; at most {MOST_COMBINATIONS:,}")
        set_here = list(_keys(patch or {}))
        arm.study.arms, arm.study.vary, arm.arm = {}, {}, name
        try:
            plain = cast(ExperimentConfig, OmegaConf.to_object(arm))
        except OmegaConfBaseException as error:
            raise ArmError(f"study.arms.{name}: {reason(error)}") from error
        _check_used(f"study.arms.{name}", plain, set_here)
        _check_varied(vary)
        for one in _varied(plain, list(vary.items()), {}):
            _check_used("study.vary", one, vary)
            yield from mixed(one)


def _check_used(where: str, variant: ExperimentConfig, keys: Iterable[str]) -> None:
    """Raise ArmError for a key that another setting of the variant replaces."""
    _check_shape(where, variant, keys)
    for key in keys:
        if why := overruled(variant.optim, [key]):
            raise ArmError(f"{where}.{key}: {why}")


def _check_shape(where: str, variant: ExperimentConfig, keys: Iterable[str]) -> None:
    """Raise ArmError for a key of the model that the sizes of the study set themselves, to another value."""
    shaped = [key.split(".")[1] for key in keys if key.startswith("model.")]
    names = [*variant.study.sizes, *(cell.size for cell in variant.study.cells)] if shaped else []
    for name, key in product(names, shaped):
        own = getattr(load_size(name, variant.model, variant.config_dirs), key)
        if own != getattr(variant.model, key):
            raise ArmError(
                f"{where}.model.{key}={getattr(variant.model, key)}: size {name} of the study sets {key}={own} itself; "
                f"name other sizes (a file of --config-dir DIR/model is one), or leave study.sizes out"
            )


def _values(key: str, given: object) -> list:
    if not isinstance(given, ListConfig) or not given:
        raise ArmError(f"study.vary.{key} must be a list of values; not {given!r}")
    return list(given)


def _patched(base: DictConfig, name: str, patch: Mapping) -> DictConfig:
    if not isinstance(patch, Mapping):
        raise ArmError(f"study.arms.{name} must hold keys of {', '.join(ARM_SETS)}; not {patch!r}")
    _check_keys(f"study.arms.{name}", [*patch, *_keys(patch)])
    if wrong := next(filter(None, _no_flags(patch)), ""):
        raise ArmError(f"study.arms.{name}: {wrong}")
    try:
        return cast(DictConfig, OmegaConf.merge(base, patch))
    except OmegaConfBaseException as error:
        raise ArmError(f"study.arms.{name}: {reason(error)}") from error


def _keys(patch: Mapping, above: str = "") -> Iterator[str]:
    """The keys that a patch sets, as they are typed: model.d_model."""
    for key, value in patch.items():
        yield from _keys(value, f"{above}{key}.") if isinstance(value, Mapping) else [f"{above}{key}"]


def _no_flags(patch: Mapping, above: str = "") -> Iterator[str]:
    """What is wrong with the numbers of a patch that stand for true or false."""
    for key, value in patch.items():
        if isinstance(value, Mapping):
            yield from _no_flags(value, f"{above}{key}.")
        else:
            yield no_flag(f"{above}{key}", value)


Parts = dict[tuple[int, str, int], tuple[Any, Any]]


def _varied(arm: ExperimentConfig, vary: Sequence[tuple[str, list]], made: Parts) -> Iterator[ExperimentConfig]:
    """`arm` at each combination of values, the last key's first; only the groups that change are checked and made.

    `made` keeps those: a group that was changed in a way before is changed in that way once.
    """
    if not vary:
        yield arm
        return
    (dotted, values), *others = vary
    group = dotted.partition(".")[0]
    for number, value in enumerate(values):
        part = getattr(arm, group)
        key = (id(part), dotted, number)
        if key not in made:
            made[key] = part, _changed(part, dotted, value)  # with the part, whose id is no other's while it is kept
        yield from _varied(replace(arm, **{group: made[key][1]}), others, made)


def _check_varied(keys: Iterable[str]) -> None:
    """Raise ArmError for a key to vary that is none of a group that may be."""
    _check_keys("study.vary", keys)
    for dotted in keys:
        group, _, key = dotted.partition(".")
        if not key:
            raise ArmError(f"study.vary.{dotted} names a group; vary a key of it, as in {group}.KEY")


def _changed(part: Any, dotted: str, value: object) -> Any:
    """A group of the configuration with the key `dotted` at a value, checked."""
    if wrong := no_flag(dotted, value):
        raise ArmError(f"study.vary.{dotted}={value!r}: {wrong}")
    try:
        tree = OmegaConf.structured(part)
        OmegaConf.update(tree, dotted.partition(".")[2], value)
        return OmegaConf.to_object(tree)
    except OmegaConfBaseException as error:
        message = refused(dotted, "null" if value is None else str(value)) or str(error).splitlines()[0]
        raise ArmError(f"study.vary.{dotted}={value!r}: {message}") from error


def _check_keys(where: str, keys: Iterable[object]) -> None:
    """Raise ArmError for a key that is of no group that may be set here, or of the whole study."""
    for key in keys:
        if str(key) in OF_ALL_ARMS or str(key).startswith(tuple(f"{one}." for one in OF_ALL_ARMS)):
            raise ArmError(f"{where}.{key}: it is of the whole study, not of some of its runs; set {key} itself")
        if not isinstance(key, str) or key.split(".")[0] not in ARM_SETS:
            raise ArmError(f"{where} may set keys of {', '.join(ARM_SETS)}; not {key!r}")
