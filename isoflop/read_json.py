"""Reads JSON that somebody else may have written: one way for stores, models, corpora and registrations.

A file is data until it is checked. It must be a regular file (a pipe would wait for ever) of at most MAX_BYTES, in
UTF-8, nested at most MAX_DEPTH levels, with no key twice and no NaN or Infinity unless allowed; and it must have the
shape that its reader states as a type. Standard library only, so that every package may use it.
"""

import json
import math
import os
import stat
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, NotRequired, Union, get_args, get_origin, get_type_hints, is_typeddict

MAX_BYTES = 2**28
MAX_DEPTH = 64
MAX_INT = 2**63  # exclusive: what a column of a table can hold
_SHOWN = 60  # characters of a wrong value in a message
_WORDS = {str: "text", bool: "true or false", int: "a whole number", float: "a number", type(None): "null"}


class JsonError(ValueError):
    """JSON cannot be used; the message names the file, and the key where there is one."""


class RefusedError(JsonError):
    """JSON that is not read though it is some: nested too deeply, with a key twice, with NaN or Infinity."""


def read_json(
    path: Path, kind: Any, *, nan: bool = False, error: type[ValueError] = JsonError, remedy: str = ""
) -> Any:
    """The content of a JSON file of the shape `kind`: a TypedDict, a dataclass (as a dictionary), list[int], ...

    Keys that `kind` does not name are kept, except in a dataclass. Raises FileNotFoundError where there is no file,
    and `error` naming the file, the key and what was wrong, with `remedy` at its end.
    """
    try:
        return parse_json(read_bytes(path), kind, source=str(path), nan=nan)
    except JsonError as found:
        raise error(f"{found}{remedy and f'; {remedy}'}") from found


def read_bytes(path: Path, limit: int = MAX_BYTES) -> bytes:
    """The content of a regular file. Raises JsonError for a pipe, a folder, a device, or more than `limit` bytes."""
    if (size := require_regular(path).st_size) > limit:
        raise JsonError(f"{path}: {size} bytes, and at most {limit} are read")
    return Path(path).read_bytes()


def require_regular(path: Path) -> os.stat_result:
    """What is known of a file. Raises JsonError unless it is a regular one: to open a pipe may wait for ever."""
    about = os.stat(path)
    if not stat.S_ISREG(about.st_mode):
        raise JsonError(f"{path}: not a regular file")
    return about


def parse_json(content: bytes | str, kind: Any, *, source: str, nan: bool = False, depth: int = MAX_DEPTH) -> Any:
    """The value of the JSON text `content`. Raises JsonError, or RefusedError, which name `source`."""
    try:
        text = content.decode("utf-8") if isinstance(content, bytes) else content
        value = json.loads(text, parse_constant=None if nan else _no_constant, object_pairs_hook=_without_twins)
    except UnicodeDecodeError as error:
        raise JsonError(f"{source}: not UTF-8 (byte {error.start})") from error
    except RecursionError:
        raise RefusedError(f"{source}: nested deeper than {depth} levels") from None
    except RefusedError as error:
        raise RefusedError(f"{source}: {error}") from None
    except ValueError as error:
        raise JsonError(f"{source}: not readable as JSON ({error})") from error
    _check_depth(value, depth, source)
    check_shape(value, kind, source=source, nan=nan)
    return value


def check_shape(value: object, kind: Any, *, source: str, nan: bool = False) -> None:
    """Raise JsonError naming the first place where `value` is not of the shape `kind`."""
    _check(value, kind, "", source, nan)


def _no_constant(name: str) -> object:
    raise RefusedError(f"{name} is no JSON number")


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise RefusedError(f"key {_short(next(name for name in names if names.count(name) > 1))} is there twice")
    return found


def _check_depth(value: object, depth: int, source: str) -> None:
    level: list[Any] = [[value]]
    for _ in range(depth + 1):
        parts = [part for outer in level for part in (outer.values() if isinstance(outer, dict) else outer)]
        level = [part for part in parts if isinstance(part, list | dict)]
        if not level:
            return
    raise RefusedError(f"{source}: nested deeper than {depth} levels")


def _check(value: object, kind: Any, at: str, source: str, nan: bool) -> None:
    """As `check_shape`, of the part of the file that `at` names."""
    if kind in (Any, object):
        return
    origin, inside = get_origin(kind), get_args(kind)
    if origin in (NotRequired, Literal) or origin in (Union, types.UnionType):
        _check_choice(value, origin, inside, at, source, nan)
    elif kind in _WORDS:
        if not _is_plain(value, kind, nan):
            raise _wrong(value, _WORDS[kind], at, source)
    elif kind is list or origin in (list, tuple):
        if not isinstance(value, list):
            raise _wrong(value, "a list", at, source)
        kinds = inside if origin is tuple and inside[-1] is not ... else (inside or (Any,))[:1] * len(value)
        if len(kinds) != len(value):
            raise _wrong(value, f"a list of {len(kinds)}", at, source)
        for i, (item, one) in enumerate(zip(value, kinds, strict=True)):
            _check(item, one, f"{at}[{i}]", source, nan)
    else:
        if not isinstance(value, dict):
            raise _wrong(value, "an object", at, source)
        if is_typeddict(kind) or is_dataclass(kind):
            _check_keys(value, kind, at, source, nan)
        elif inside:
            for key, item in value.items():
                _check(item, inside[1], _below(at, key), source, nan)


def _check_choice(value: object, origin: Any, inside: tuple[Any, ...], at: str, source: str, nan: bool) -> None:
    if origin is NotRequired:
        _check(value, inside[0], at, source, nan)
    elif origin is Literal:
        if not any(type(value) is type(one) and value == one for one in inside):
            raise _wrong(value, " or ".join(map(repr, inside)), at, source)
    else:
        parts = [one for one in inside if not (one is type(None) and value is not None)]
        failed = None
        for one in parts:
            try:
                _check(value, one, at, source, nan)
                return
            except JsonError as error:
                failed = error
        assert failed is not None
        raise failed


def _check_keys(value: Mapping[str, object], kind: Any, at: str, source: str, nan: bool) -> None:
    kinds, needed = _keys(kind)
    for key in sorted(needed):
        if key not in value:
            raise JsonError(f"{source}: no key {_below(at, key)!r}")
    for key, item in value.items():
        if key in kinds:
            _check(item, kinds[key], _below(at, key), source, nan)
        elif is_dataclass(kind):
            raise JsonError(f"{source}: unknown key {_short(_below(at, key))}")


@cache
def _keys(kind: Any) -> tuple[dict[str, Any], frozenset[str]]:
    """The types of the keys of a TypedDict or a dataclass, and the keys that must be there."""
    kinds = get_type_hints(kind)
    if is_typeddict(kind):
        return kinds, frozenset(kind.__required_keys__)
    needed = [f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]
    return kinds, frozenset(needed)


def _is_plain(value: object, kind: type, nan: bool) -> bool:
    if kind is float:
        number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**1023
        return (nan and isinstance(value, float)) or (number and math.isfinite(value))  # type: ignore[arg-type]
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool) and -MAX_INT <= value < MAX_INT
    return isinstance(value, kind)


def _below(at: str, key: str) -> str:
    return f"{at}.{key}" if at else key


def _wrong(value: object, wanted: str, at: str, source: str) -> JsonError:
    where = f"{_short(at)} must be" if at else "it must be"
    return JsonError(f"{source}: {where} {wanted}; not {_short(value)}")


def _short(value: object) -> str:
    """A value as a message shows it, on one line."""
    shown = "an object" if isinstance(value, dict) else "a list" if isinstance(value, list) else ascii(value)
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."
