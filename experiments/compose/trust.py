"""What overrides out of a store, and files of studies, may set: keys of the schema, and nothing that runs code."""

import re
from collections.abc import Sequence
from dataclasses import fields
from typing import cast

from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from isoflop.experiments.compose.hydra_state import others_hydra_kept
from isoflop.experiments.compose.messages import UsageError, readable_errors
from isoflop.experiments.compose.overrides import plain_text, split_overrides
from isoflop.experiments.config import ExperimentConfig

LAUNCHER_OPTIONS = (
    "partition", "account", "qos", "constraint", "time", "nodes", "cpus_per_task", "gres", "mem", "job_name",
    "trunks_per_task", "parallel", "warn_seconds", "max_restarts", "poll_seconds", "n_jobs",
)  # fmt: skip
_SET_BY_HYDRA = ("overrides", "runtime", "searchpath", "job")


def check_kept(overrides: Sequence[str], source: str) -> None:
    """Refuse overrides out of a store, which may be anybody's, unless they set keys of the schema and nothing else.

    Beyond the schema only a launcher by its name, those of its options that run no command, and folders of studies are
    accepted; files in those folders may set nothing of Hydra's own. Raises UsageError naming `source` and the override.
    """
    remedy = "type the launch again with isoflop run if you trust it"
    for override in overrides:
        if override.startswith("-") or not _is_kept(override):
            raise UsageError(f"{source}: the override {override[:200]!r} is not one that a store may hold; {remedy}")
    ours = [one for one in overrides if one.lstrip("+").startswith("hydra") and not one.startswith("hydra.searchpath")]
    with others_hydra_kept(), readable_errors(), initialize_config_module("isoflop.conf", version_base="1.3"):
        known = _hydra_settings(ours)
        for one in split_overrides(overrides, GlobalHydra.instance().config_loader()):
            for key, value in _hydra_settings(one).items():
                if value != known.get(key):
                    raise UsageError(f"{source}: a file that its overrides name sets hydra.{key}; {remedy}")
            if place := _interpolation(compose("config", overrides=one)):
                raise UsageError(f"{source}: a file that its overrides name has an interpolation at {place}; {remedy}")


def check_hydra(overrides: Sequence[str]) -> None:
    """Refuse files of studies that set what is Hydra's own: callbacks, logging and launchers name code that it runs.

    A file may set those options of a launcher that run nothing. What is typed is trusted. Raises UsageError naming the
    key.
    """
    ours = [one for one in overrides if one.lstrip("+~").startswith("hydra")]
    with others_hydra_kept(), readable_errors(), initialize_config_module("isoflop.conf", version_base="1.3"):
        known = _hydra_settings(ours)
        for one in split_overrides(overrides, GlobalHydra.instance().config_loader()):
            for key, value in _hydra_settings(one).items():
                if key == "launcher" and (wrong := _changed(value, known[key]) - {*LAUNCHER_OPTIONS}):
                    key = f"launcher.{min(wrong)}"
                elif key == "launcher" or value == known.get(key):
                    continue
                raise UsageError(
                    f"a file in it sets hydra.{key}, which may have code run: what is Hydra's own is typed on the "
                    "command line"
                )


def _changed(new: dict, old: dict) -> set[str]:
    return {key for key in {*new, *old} if new.get(key) != old.get(key)}


def _interpolation(config: DictConfig) -> str:
    """The key of the first value that is an interpolation, such as ${oc.env:HOME}; "" without any. None is resolved."""

    def look(value: object, at: str) -> str:
        if isinstance(value, str):
            return at if "${" in value else ""
        inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        return next((found for key, one in inside if (found := look(one, f"{at}.{key}".lstrip(".")))), "")

    return look(OmegaConf.to_container(config, resolve=False), "")


def _hydra_settings(overrides: Sequence[str]) -> dict:
    """Hydra's part of a composed tree, less what differs between any two: plain values, nothing resolved."""
    node = compose("config", overrides=list(overrides), return_hydra_config=True).hydra
    plain = cast(dict, OmegaConf.to_container(node, resolve=False))
    job = {key: plain["job"].get(key) for key in ("chdir", "env_set", "env_copy")}
    return {key: value for key, value in plain.items() if key not in _SET_BY_HYDRA} | {"job": job}


def _is_kept(override: str) -> bool:
    """Whether an override sets a key of the schema, a launcher or its options, or file:// folders of studies."""
    if "_target_" in override or "hydra:" in override or "${" in override:
        return False
    try:
        parsed = OverridesParser.create().parse_override(override)
    except HydraException:
        return False
    key = parsed.key_or_group
    if parsed.is_delete() or parsed.package is not None:
        return False
    if not key.startswith("hydra"):
        return key.split(".")[0] in {"experiment", *(one.name for one in fields(ExperimentConfig))}
    if parsed.is_add() or parsed.is_force_add() or parsed.is_sweep_override():
        return False
    value = parsed.value()
    if key == "hydra.searchpath":
        return isinstance(value, list) and all(plain_text(one).startswith("file://") for one in value)
    launcher = key == "hydra/launcher" and re.fullmatch(r"\w+", plain_text(value)) is not None
    option = key.startswith("hydra.launcher.") and key.removeprefix("hydra.launcher.") in LAUNCHER_OPTIONS
    return launcher or option or (key, value) == ("hydra.mode", "MULTIRUN")
