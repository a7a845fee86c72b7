"""Hydra's tree to plain values."""

import argparse
import pickle
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict

from isoflop.experiments.compose.hydra_state import others_hydra_kept
from isoflop.experiments.compose.messages import UsageError, readable_errors
from isoflop.experiments.compose.overrides import (
    check_grammar,
    check_overrides,
    emptied,
    opened,
    split_overrides,
    typed,
)
from isoflop.experiments.compose.study_files import check_files
from isoflop.experiments.compose.trust import check_hydra
from isoflop.experiments.config import ExperimentConfig, WhereSpec

ConfigStore.instance().store(name="schema", node=ExperimentConfig)
_NODE = ConfigStore.instance().load("schema.yaml").node
SCHEMA = pickle.dumps(_NODE)  # read in a tenth of the time of a deep copy
DEFAULTS = cast(dict[str, Any], OmegaConf.to_container(_NODE))


def compose_all(arguments: Sequence[str]) -> list[ExperimentConfig]:
    """One configuration for each combination of `key=a,b` in the overrides; --config-dir is as in Hydra."""
    with others_hydra_kept(), readable_errors(), initialize_config_module("isoflop.conf", version_base="1.3"):
        loader, overrides = GlobalHydra.instance().config_loader(), as_overrides(arguments)
        sets = split_overrides(overrides, loader)
        specs = [to_spec(_composed(one)) for one in sets]
        for one, spec in zip(sets, specs, strict=True):
            check_overrides(one, spec)
        return specs


def _composed(overrides: Sequence[str]) -> DictConfig:
    """Hydra's tree, with the keys empty that are to hold nothing."""
    keys, others = emptied(overrides)
    config = compose("config", overrides=others, return_hydra_config=True)
    for key in keys:
        OmegaConf.update(config, key, {}, merge=False)
    return config


def as_overrides(arguments: Sequence[str]) -> list[str]:
    """The same with --config-dir as an override, which is kept with a launch and goes wherever its jobs go.

    Raises UsageError for an override that Hydra's grammar cannot read, with the quotes that it needs, and for a file of
    the folder that is none of YAML or unfolds to too much.
    """
    known = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    known.add_argument("--config-dir", "-cd", type=Path)
    try:
        found, overrides = known.parse_known_args(list(arguments))
    except argparse.ArgumentError as error:
        raise UsageError(str(error)) from error
    overrides = [opened(one) for one in overrides]
    check_grammar(overrides)
    if found.config_dir is None:
        return overrides
    if not found.config_dir.is_dir():
        raise UsageError(f"--config-dir {found.config_dir}: there is no such folder")
    check_files(found.config_dir, overrides)
    overrides = [f"hydra.searchpath=['file://{found.config_dir.resolve()}']", *overrides]
    try:
        check_hydra(emptied(overrides)[1])
    except UsageError as error:
        raise UsageError(f"--config-dir {found.config_dir}: {error}") from error
    return overrides


def to_spec(config: DictConfig) -> ExperimentConfig:
    """The typed configuration of a composed tree, interpolations resolved, keys beyond the schema refused.

    The tree is taken apart: read it no more.
    """
    with open_dict(config):
        hydra = config.pop("hydra", None)
        config.config_dirs = list((hydra or {}).get("searchpath") or [])
    if missing := sorted(OmegaConf.missing_keys(config)):
        raise UsageError(f"{missing[0]}=??? has no value; give it one")
    plain = OmegaConf.to_container(config, resolve=True)  # as plain values: `+key=...` opens the tree's own schema
    changed = _changed(cast(dict[str, Any], plain), DEFAULTS)
    return cast(ExperimentConfig, OmegaConf.to_object(OmegaConf.unsafe_merge(pickle.loads(SCHEMA), changed)))


def _changed(given: dict[str, Any], default: dict[str, Any]) -> dict[str, Any]:
    """What of a tree differs from another in value or type: OmegaConf takes a millisecond to merge seven values."""
    changed = {}
    for key, value in given.items():
        own = default.get(key)
        if isinstance(value, dict) and isinstance(own, dict) and value:
            if part := _changed(value, own):
                changed[key] = part
        elif key not in default or repr(value) != repr(own):
            changed[key] = value
    return changed


def job_overrides(where: WhereSpec, runs: str) -> list[str]:
    """How a job runs and into which store, as overrides: all that it needs beside the cells that wait in the store.

    Settings at their default are left out, and which cells (`trunk`, `cells`): the launch adds those.
    """
    default, given = asdict(WhereSpec()), asdict(where)
    changed = [key for key in given if given[key] != default[key] and key not in ("trunk", "cells")]
    settings = [f"where.{key}={typed(given[key])}" for key in changed]
    return [f"runs={typed(runs)}", *settings]


@dataclass
class JobSpec:
    """What the overrides of a job set."""

    where: WhereSpec = field(default_factory=WhereSpec)
    runs: str = "runs"


def job_spec(overrides: Sequence[str]) -> JobSpec:
    """What `job_overrides` wrote, and the trunks and cells that a launch added; no configuration file is read."""
    spec = OmegaConf.structured(JobSpec)
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        OmegaConf.update(spec, override.key_or_group, override.value())
    return cast(JobSpec, OmegaConf.to_object(spec))
