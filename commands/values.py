"""Values of options that are plain already are taken as they are: what typer converts others with loads slowly.

What is not plain goes the usual way, so that a value is refused in the same words.
"""

import inspect
import re
import types
from functools import partial
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

_NUMBER = re.compile(r"[+-]?\d{1,15}(\.\d{1,15})?(e[+-]?\d{1,2})?")


def spare_conversions(command: Any) -> None:
    """Let the parameters of a command take plain values without a conversion."""
    listed = command.get_params

    def get_params(context: Any) -> Any:
        hints = {"help": bool, **get_type_hints(inspect.unwrap(command.callback), include_extras=True)}
        parameters = listed(context)
        for parameter in parameters:
            if "process_value" not in vars(parameter) and parameter.name in hints:
                kind, ranged = _kind(hints[parameter.name])
                convert = parameter.process_value
                parameter.process_value = partial(_process, parameter, kind, ranged, convert)
        return parameters

    if "get_params" not in vars(command):
        command.get_params = get_params


def _kind(hint: Any) -> tuple[Any, bool]:
    """The type of the values, without "or None", and whether they have a least or a greatest one."""
    kind, *notes = get_args(hint) if hasattr(hint, "__metadata__") else (hint,)
    ranged = any(getattr(note, end, None) is not None for note in notes for end in ("min", "max"))
    if get_origin(kind) in (Union, types.UnionType):
        parts = [part for part in get_args(kind) if part is not types.NoneType]
        kind = parts[0] if len(parts) == 1 else None
    return kind, ranged


def _process(parameter: Any, kind: Any, ranged: bool, convert: Any, context: Any, value: Any) -> Any:
    """The value for the command, as `convert` would return it; after the parameter's callback."""
    plain, found = _plain(value, kind, ranged)
    if not plain or (value is None and parameter.required):
        return convert(context, value)
    if value is None and (parameter.multiple or parameter.nargs == -1):
        found = ()
    return parameter.callback(context, parameter, found) if parameter.callback else found


def _plain(value: Any, kind: Any, ranged: bool) -> tuple[bool, Any]:
    """Whether a value needs no conversion, and what it is then."""
    if value is None or (type(value) is kind and not isinstance(value, str)):
        return True, value  # a default
    if kind == list[str] and isinstance(value, list | tuple):
        return all(map(_is_word, value)), list(value)
    if not isinstance(value, str) or not _is_word(value):
        return False, None
    if kind in (str, Path):
        return True, kind(value)
    if ranged or not _NUMBER.fullmatch(value):
        return False, None
    if kind is float:
        return True, float(value)
    return kind is int and value.isdigit(), int(value) if value.isdigit() else None


def _is_word(value: Any) -> bool:
    return isinstance(value, str) and value.isascii() and value.isprintable()
