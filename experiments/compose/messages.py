"""What Hydra and OmegaConf raise about a configuration as one line, with the nearest allowed name."""

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass

from hydra.errors import HydraException, MissingConfigException
from omegaconf.errors import OmegaConfBaseException, ValidationError
from yaml import YAMLError

from isoflop.experiments.config import ExperimentConfig
from isoflop.experiments.study.sizes import suggest
from isoflop.experiments.study.takes import named_value, refused


class UsageError(ValueError):
    """What was typed does not fit the configuration."""


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
        raise UsageError(f"{file}: not a configuration ({first_sentence(error)})") from error


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
    message = first_sentence(error)
    unknown = re.search(r"Could not override '([^']+)'", message)
    if not re.search("ValidationError|TypeError", message) and not isinstance(error, ValidationError):
        unknown = unknown or re.search(r"full_key: (\S+)", str(error))
    if unknown and unknown[1] == "experiment" and (file := re.match(r"In '([^']+)'", message)):
        return f"{file[1]}.yaml: its first line must be `# @package _global_`, so that it may set any key"
    if unknown and (near := _near_key(unknown[1])):
        file = re.match(r"In '([^']+)'", message)
        return f"{f'conf/{file[1]}.yaml: ' if file else ''}unknown key {unknown[1]!r}{near}"
    if found := _refused(error):
        return found
    if error.__cause__ is not None:
        message = f"{message} {first_sentence(error.__cause__)}"
    key = re.search(r"full_key: (\S+)", str(error))
    return f"{key[1]}: {message}" if key and key[1] not in message else message


def _refused(error: Exception) -> str:
    """A key that cannot have its value: where it was typed or written, what it takes; "" for another error."""
    text = f"{error}\n{error.__cause__ or ''}"
    typed = re.match(r"Error merging override (\S+?)=(.*)", text)
    file = re.match(r"In '([^']+)'", text)
    key = re.search(r"full_key: (\S+)", text)
    if name := re.search(r"Key (\S+) \((int|float|bool|NoneType)\) is incompatible with", text):
        above = key[1].rpartition(".")[0] if key else "a name"
        where = f"{file[1]}.yaml: " if file else ""
        return f"{where}{above}: {name[1]} is no text, as names are; write it in quotes: '{name[1]}'"
    if typed and typed[1].startswith("~"):
        own = typed[1].lstrip("~")
        return f"~{own}: a key cannot be taken out; type its value, {own}=..., or leave this out"
    if typed:
        at = typed[1].lstrip("+")
        inside = refused(key[1], named_value(text)) if key and key[1] != at else ""
        message = inside or refused(at, typed[2])
        return f"{at}={typed[2]}: {message}" if message else ""
    if file and key:
        message = refused(key[1], named_value(text))
        return f"{file[1]}.yaml: {message}" if message else ""
    return ""


def first_sentence(error: BaseException) -> str:
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
