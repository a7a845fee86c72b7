"""Hydra's tree to plain values, and Hydra's complaints to one line with a remedy."""

import argparse
import math
import re
import shlex
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import cast

import yaml
from hydra import compose, initialize_config_module
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Quote, QuotedString
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException, ValidationError
from yaml import YAMLError

from isoflop.experiments.config import ExperimentConfig, WhereSpec, no_flag
from isoflop.experiments.study.sizes import suggest

ConfigStore.instance().store(name="schema", node=ExperimentConfig)

GROUPS = ("model", "data", "optim", "schedule", "experiment")  # folders of conf
OPEN = ("study.vary=", "study.vary.", "study.arms=", "study.arms.")  # what these hold has names of its own
MOST_BYTES, MOST_VALUES = 10_000_000, 100_000  # of a file of YAML, and of what its anchors unfold to
SETS_THE_GRID = ("model", "model.n_layer", "model.d_model", "model.n_head", "model.d_ff", "seed")


class UsageError(ValueError):
    """What was typed does not fit the configuration."""


def compose_all(arguments: Sequence[str]) -> list[ExperimentConfig]:
    """One configuration for each combination of `key=a,b` in the overrides; --config-dir is as in Hydra."""
    with others_hydra_kept(), readable_errors(), initialize_config_module("isoflop.conf", version_base="1.3"):
        loader, overrides = GlobalHydra.instance().config_loader(), as_overrides(arguments)
        sets = split_overrides(overrides, loader)
        return [to_spec(compose("config", overrides=one, return_hydra_config=True)) for one in sets]


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


def _check_hydra(overrides: Sequence[str]) -> None:
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
        return isinstance(value, list) and all(_plain_text(one).startswith("file://") for one in value)
    launcher = key == "hydra/launcher" and re.fullmatch(r"\w+", _plain_text(value)) is not None
    option = key.startswith("hydra.launcher.") and key.removeprefix("hydra.launcher.") in LAUNCHER_OPTIONS
    return launcher or option or (key, value) == ("hydra.mode", "MULTIRUN")


def _plain_text(value: object) -> str:
    return value.text if isinstance(value, QuotedString) else str(value)


@contextmanager
def others_hydra_kept() -> Iterator[None]:
    """Set aside what other code of this process initialised Hydra with, and put it back at the end."""
    hydra, config = GlobalHydra.instance().hydra, HydraConfig.instance().cfg
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().hydra, HydraConfig.instance().cfg = hydra, config


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
    overrides = [_opened(one) for one in overrides]
    check_grammar(overrides)
    if found.config_dir is None:
        return overrides
    if not found.config_dir.is_dir():
        raise UsageError(f"--config-dir {found.config_dir}: there is no such folder")
    check_files(found.config_dir, overrides)
    overrides = [f"hydra.searchpath=['file://{found.config_dir.resolve()}']", *overrides]
    try:
        _check_hydra(overrides)
    except UsageError as error:
        raise UsageError(f"--config-dir {found.config_dir}: {error}") from error
    return overrides


def _opened(override: str) -> str:
    """`study.vary` and `study.arms` take keys that the schema does not have: Hydra wants ++ there."""
    return f"++{override}" if override.startswith(OPEN) else override


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
            if parsed.key_or_group in GROUPS and isinstance(parsed.value(), int | float | dict):
                group = parsed.key_or_group
                raise UsageError(
                    f"{override[:200]}: {group} takes the name of a file of conf/{group}; its keys are {group}.KEY"
                )
        except HydraException as error:
            key, equals, value = override.partition("=")
            remedy = (
                f"; a text with such characters is typed in quotes: {quoted(key, value)}" if equals and value else ""
            )
            reason = _first_sentence(error)
            raise UsageError(f"{override[:200]} is not in Hydra's grammar ({reason}){remedy}") from error


def quoted(key: str, value: str) -> str:
    """`key=value` as it is typed in a shell so that Hydra takes the value, or each entry of a list, for a text."""
    inside = value[1:-1].split(",") if value.startswith("[") and value.endswith("]") else None
    texts = [QuotedString(one.strip().strip("'\""), Quote.single).with_quotes() for one in inside or [value]]
    whole = f"{key}=[{','.join(texts)}]" if inside is not None else f"{key}={texts[0]}"
    return shlex.quote(whole) if set(whole) & set('"$`!\\') else f'"{whole}"'


def check_files(folder: Path, overrides: Sequence[str]) -> None:
    """Raise UsageError naming a file of the folder, among those that the overrides name, that Hydra would not survive.

    That is one whose anchors unfold to too much, whose defaults come back to it, or that is not YAML in UTF-8.
    """
    for override in overrides:
        group, _, names = override.lstrip("+").partition("=")
        for name in names.split(","):
            _check_file(folder, group, name.strip("'\""), ())


def _check_file(folder: Path, group: str, name: str, named_by: tuple[Path, ...]) -> None:
    """Check GROUP/NAME.yaml of the folder, if there is one, and what its defaults name."""
    path = folder / group / f"{name}.yaml"
    if not path.is_file():  # of isoflop's own, or a pipe, which Hydra does not read either
        return
    if path in named_by:
        circle = " -> ".join(str(one) for one in (*named_by[named_by.index(path) :], path))
        raise UsageError(f"the defaults of a file name the file itself: {circle}")
    nodes = _nodes(path)
    _check_values(nodes, "" if group == "experiment" else f"{group}.", path)
    for below in _defaults(nodes, path):
        inner, _, value = below.rpartition("=")
        inner, value = (one.removeprefix("override ").partition("@")[0].strip() for one in (inner, value))
        whole = Path("/", group, inner, value)  # a group that begins with / is no part of this one
        _check_file(folder, str(whole.parent).strip("/"), whole.name, (*named_by, path))


def _nodes(path: Path) -> yaml.Node | None:
    """What a file of YAML holds, its anchors not unfolded. Raises UsageError."""
    try:
        if (size := path.stat().st_size) > MOST_BYTES:
            raise UsageError(f"{path}: {size:,} bytes; a file of a configuration has at most {MOST_BYTES:,}")
        node = yaml.compose(path.read_text(encoding="utf-8"), yaml.CSafeLoader)
        if node is not None and not isinstance(node, yaml.MappingNode):
            raise UsageError(f"{path}: a file of a configuration holds keys with values, KEY: VALUE")
        if _unfolded(node, {}) > MOST_VALUES:
            raise UsageError(f"{path}: its anchors unfold to more than {MOST_VALUES:,} values")
        return node
    except (UnicodeDecodeError, RecursionError, OSError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise UsageError(f"{path} cannot be read ({reason})") from error
    except YAMLError as error:
        raise UsageError(f"{path}: {_first_sentence(error)}") from error


def _check_values(node: yaml.Node | None, above: str, path: Path) -> None:
    """Raise UsageError naming the file for keys that are empty, and for numbers in the place of true or false."""
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.tag.endswith(":null"):
            raise UsageError(f"{path}: line {key.start_mark.line + 1}: a key is a text")
        dotted = f"{above}{key.value}"
        if dotted == "config_dirs":
            raise UsageError(f"{path}: config_dirs is filled in; type --config-dir DIR")
        number = yaml.safe_load(value.value) if value.tag.endswith((":int", ":float")) else None
        if wrong := no_flag(dotted, number):
            raise UsageError(f"{path}: {wrong}")
        _check_values(value, f"{dotted}.", path)


def _defaults(node: yaml.Node | None, path: Path) -> Iterator[str]:
    """NAME or GROUP=NAME for every entry of the list of defaults in a file."""
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        if key.value == "defaults" and isinstance(value, yaml.SequenceNode):
            for entry in value.value:
                if isinstance(entry, yaml.ScalarNode):
                    yield entry.value
                elif isinstance(entry, yaml.MappingNode):
                    if any(isinstance(name, yaml.MappingNode) for _, name in entry.value):
                        raise UsageError(
                            f"{path}: line {entry.start_mark.line + 1}: an entry of defaults is NAME or GROUP: NAME"
                        )
                    yield from (
                        f"{group.value}={name.value}"
                        for group, name in entry.value
                        if isinstance(name, yaml.ScalarNode)
                    )


def _unfolded(node: yaml.Node | None, known: dict[int, float]) -> float:
    """The values of a node when every anchor stands where it is named; a node that holds itself has no end."""
    if node is None or isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in known:
        known[id(node)] = math.inf
        parts = node.value if isinstance(node, yaml.SequenceNode) else [one for pair in node.value for one in pair]
        known[id(node)] = 1 + sum(_unfolded(one, known) for one in parts)
    return known[id(node)]


def split_overrides(overrides: Sequence[str], loader: ConfigLoader) -> list[list[str]]:
    """Hydra's sweep grammar: a list of overrides for each combination of `key=a,b`."""
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(list(overrides))
    return BasicSweeper.split_arguments(parsed, max_batch_size=None)[0]


def to_spec(config: DictConfig) -> ExperimentConfig:
    """The typed configuration of a composed tree, interpolations resolved, keys beyond the schema refused."""
    config = deepcopy(config)
    with open_dict(config):
        hydra = config.pop("hydra", None)
        config.config_dirs = list((hydra or {}).get("searchpath") or [])
    if missing := sorted(OmegaConf.missing_keys(config)):
        raise UsageError(f"{missing[0]}=??? has no value; give it one")
    plain = OmegaConf.to_container(config, resolve=True)  # as plain values: `+key=...` opens the tree's own schema
    return cast(ExperimentConfig, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(ExperimentConfig), plain)))


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
    except (HydraException, OmegaConfBaseException) as error:
        raise UsageError(explain(error)) from error
    except (
        YAMLError,
        AssertionError,
        TypeError,
        ValueError,
        RecursionError,
    ) as error:  # of a file's text: Hydra passes these on as they are
        if isinstance(error, RecursionError):
            raise UsageError(
                "the configuration does not end: a file names itself in its defaults, directly or through others, "
                "or is nested too deeply"
            ) from error
        if (file := _file_read(error)) is None and not isinstance(error, YAMLError):
            raise
        raise UsageError(f"{file}: not a configuration ({_first_sentence(error)})") from error


def _file_read(error: BaseException) -> str | None:
    """The file that Hydra was reading when this was raised, None where it read none."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    read = [frame.f_locals["full_path"] for frame in frames if "full_path" in frame.f_locals]
    return str(read[-1]) if read else None


def explain(error: Exception) -> str:
    """One line: what was wrong, and the nearest allowed name where there is one."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        places = re.findall(r"path=(?:file://)?(\S+)", str(error))
        folders = [f"{place}/{group}" for place in places if not place.startswith(("pkg://", "structured:"))]
        searched = f"; searched {', '.join([f'conf/{group} of isoflop', *folders])}" if group else ""
        return f"no {group or 'config'} {name!r}{suggest(name, error.options or [])}{searched}"
    message = _first_sentence(error)
    unknown = re.search(r"Could not override '([^']+)'", message)
    if not re.search("ValidationError|TypeError", message) and not isinstance(error, ValidationError):
        unknown = unknown or re.search(r"full_key: (\S+)", str(error))
    if unknown and unknown[1] == "experiment" and (file := re.match(r"In '([^']+)'", message)):
        return f"{file[1]}.yaml: its first line must be `# @package _global_`, so that it may set any key"
    if unknown and (near := _near_key(unknown[1])):
        file = re.match(r"In '([^']+)'", message)
        return f"{f'conf/{file[1]}.yaml: ' if file else ''}unknown key {unknown[1]!r}{near}"
    if error.__cause__ is not None:
        message = f"{message} {_first_sentence(error.__cause__)}"
    message = message.replace("Invalid value assigned: str is not a ListConfig, list or tuple.", "It is a list: [...].")
    key = re.search(r"full_key: (\S+)", str(error))
    return f"{key[1]}: {message}" if key and key[1] not in message else message


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
        known = {one.name: one.type for one in fields(node)} if is_dataclass(node) else {}
        if part not in known:
            prefix = ".".join([*path, ""])
            return suggest(prefix + part, [prefix + name for name in known])
        node = known[part]
        path.append(part)
    return ""
