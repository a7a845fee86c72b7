"""Hydra's tree to plain values, and Hydra's complaints to one line with a remedy."""

import argparse
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import fields, is_dataclass
from pathlib import Path

from hydra import compose, initialize_config_module
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from isoflop.experiments.config import ExperimentConfig
from isoflop.experiments.study.sizes import suggest

ConfigStore.instance().store(name="schema", node=ExperimentConfig)

SETS_THE_GRID = ("model", "model.n_layer", "model.d_model", "model.n_head", "model.d_ff", "seed")


class UsageError(ValueError):
    """What was typed does not fit the configuration."""


def compose_all(arguments: Sequence[str]) -> list[ExperimentConfig]:
    """One configuration for each combination of `key=a,b` in the overrides; --config-dir is as in Hydra."""
    with readable_errors(), initialize_config_module("isoflop.conf", version_base="1.3"):
        loader, overrides = GlobalHydra.instance().config_loader(), as_overrides(arguments)
        return [to_spec(compose("config", overrides=one)) for one in split_overrides(overrides, loader)]


def as_overrides(arguments: Sequence[str]) -> list[str]:
    """The same with --config-dir as an override, which is kept with a launch and goes wherever its jobs go."""
    known = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    known.add_argument("--config-dir", "-cd", type=Path)
    try:
        found, overrides = known.parse_known_args(list(arguments))
    except argparse.ArgumentError as error:
        raise UsageError(str(error)) from error
    if found.config_dir is None:
        return overrides
    if not found.config_dir.is_dir():
        raise UsageError(f"--config-dir {found.config_dir}: there is no such folder")
    return [f"hydra.searchpath=['file://{found.config_dir.resolve()}']", *overrides]


def split_overrides(overrides: Sequence[str], loader: object) -> list[list[str]]:
    """Hydra's sweep grammar: a list of overrides for each combination of `key=a,b`."""
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(list(overrides))
    return BasicSweeper.split_arguments(parsed, max_batch_size=None)[0]


def to_spec(config: DictConfig) -> ExperimentConfig:
    """The typed configuration of a composed tree, interpolations resolved, keys beyond the schema refused."""
    config = deepcopy(config)
    with open_dict(config):
        config.pop("hydra", None)
    plain = OmegaConf.to_container(config, resolve=True)  # as plain values: `+key=...` opens the tree's own schema
    return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(ExperimentConfig), plain))


def check_overrides(overrides: Sequence[str], spec: ExperimentConfig) -> None:
    """Refuse keys of a single cell on the command line of a study, which would ignore them."""
    for override in overrides if spec.study.sizes or spec.study.cells else ():
        key = override.split("=")[0].lstrip("+")
        if key in SETS_THE_GRID:
            study_key = "study.seeds" if key == "seed" else "study.sizes"
            raise UsageError(
                f"{override}: study {spec.study.name!r} sets this by {study_key}; override {study_key}"
                f"=[...], or leave the study out to run a single cell"
            )


@contextmanager
def readable_errors() -> Iterator[None]:
    """Turn what Hydra and OmegaConf raise about a configuration into a UsageError of one line."""
    try:
        yield
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        raise UsageError(explain(error)) from error


def explain(error: Exception) -> str:
    """One line: what was wrong, and the nearest allowed name where there is one."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        return f"no {group or 'config'} {name!r}{suggest(name, error.options or [])}"
    told = _first_sentence(error)
    unknown = re.search(r"Could not override '([^']+)'", told) or re.search(r"full_key: (\S+)", str(error))
    if unknown and (near := _near_key(unknown[1])):
        file = re.match(r"In '([^']+)'", told)
        return f"{f'conf/{file[1]}.yaml: ' if file else ''}unknown key {unknown[1]!r}{near}"
    cause = error.__cause__
    return f"{told} {_first_sentence(cause)}" if cause is not None else told


def _first_sentence(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    lines = [
        line for line in lines if not line.startswith(("full_key:", "object_type=", "See https", "reference_type="))
    ]
    return " ".join(lines[:3]) if lines else type(error).__name__


def _near_key(dotted: str) -> str:
    """The nearest key to a mistyped one, at the level where the path leaves the schema."""
    node: object = ExperimentConfig
    path: list[str] = []
    for part in dotted.split("."):
        known = {field.name: field.type for field in fields(node)} if is_dataclass(node) else {}
        if part not in known:
            prefix = ".".join([*path, ""])
            return suggest(prefix + part, [prefix + name for name in known])
        node = known[part]
        path.append(part)
    return ""
