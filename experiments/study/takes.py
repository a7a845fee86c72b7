"""What each key of the configuration takes, in words, for the values that OmegaConf refuses without naming it."""

import re
from dataclasses import is_dataclass
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from omegaconf.errors import OmegaConfBaseException

from isoflop.experiments.config import ExperimentConfig

_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
_MANY = {int: "whole numbers", float: "numbers", str: "texts"}


def refused(key: str, value: str) -> str:
    """Why a key cannot have a value that it was given, as it was typed, and what to type; "" for a key that there is
    not. The value is empty where it is not known."""
    kind = _kind(key)
    if kind is None or kind is Any:
        return ""
    if get_origin(_stated(kind)) is list:
        shown = f"{key}=[{value}]" if value and value != "null" and value[0] not in "[{" else f"{key}=[..., ...]"
        return f"{key} takes {takes(kind)}: {shown}"
    if kind is int and (whole := re.fullmatch(r"(-?\d+)\.0", value)):
        return f"{key} takes a whole number, written as one: {key}={whole[1]}"
    given = f", not {value}" if value else ""
    remedy = "; leave it out for what it is by default" if value == "null" else ""
    return f"{key} takes {takes(kind)}{given}{remedy}"


def reason(error: OmegaConfBaseException) -> str:
    """Why OmegaConf refused a value, with the key and what it takes."""
    return refused(str(error.full_key or ""), named_value(str(error))) or str(error).splitlines()[0]


def named_value(text: str) -> str:
    """The value that an error of OmegaConf names, "" where it names none."""
    named = re.search(r"[Vv]alue:? (?!assigned)'?(.*?)'?(?: of type | for field |$)", text, re.MULTILINE)
    return "" if named is None else "null" if named[1] == "None" else named[1]


def takes(kind: Any) -> str:
    """What a key of a type takes, in words."""
    if isinstance(kind, UnionType):
        return f"{takes(_stated(kind))}, or null"
    if get_origin(kind) is list:
        (inside,) = get_args(kind)
        return f"a list of {_MANY.get(inside) or ('entries' if inside is Any else f'entries, each {takes(inside)}')}"
    if get_origin(kind) is dict:
        inside = get_args(kind)[1]
        return "names with " + (_MANY.get(inside) or "what each stands for") + ", {NAME: ...}"
    if is_dataclass(kind):
        return f"keys with values, of {', '.join(get_type_hints(kind))}"
    return _WORDS.get(kind, "a value")


def _kind(dotted: str) -> Any:
    """The type of a key of the configuration, of an entry for KEY[0] and KEY.NAME; None for none."""
    kind: Any = ExperimentConfig
    for part in re.findall(r"[^.\[\]]+", dotted):
        kind = _stated(kind)
        if is_dataclass(kind):
            kind = get_type_hints(kind).get(part)
        elif get_origin(kind) in (list, dict):
            kind = get_args(kind)[-1]
        else:
            return None
    return kind


def _stated(kind: Any) -> Any:
    """A type without the null that it may also be."""
    return next(one for one in get_args(kind) if one is not NoneType) if isinstance(kind, UnionType) else kind
