"""What must not leave this machine with runs or models: folders, names of people and machines, keys."""

import re
from collections.abc import Iterable
from pathlib import PurePath
from typing import Any

_STARTS = ("/", "~", "file:/", "../", "..\\", "\\\\")
_PATH = re.compile(
    r"(?<![\w./~:\\-])(?:(?:file://)?(?:~[\w.-]*)?(?:/[^\s/'\":,;()\[\]{}<>|]+){2,}/?|~[\w.-]*/[^\s'\":,;]+"
    r"|(?:\.\.[/\\])+[^\s'\":,;]+|[A-Za-z]:[\\/][^\s'\":,;]+|\\\\[^\s'\":,;]+)"
)
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
_KEYS = re.compile(
    r"\bhf_[A-Za-z0-9]{20,}|\bsk-[A-Za-z0-9_-]{16,}|\bgh[pousr]_[A-Za-z0-9]{20,}|\bgithub_pat_\w{20,}|\bglpat-[\w-]{16,}"
    r"|\bAKIA[0-9A-Z]{16}\b|\bAIza[\w-]{30,}|\bxox[abprs]-[\w-]{10,}|-----BEGIN |\beyJ[\w-]{10,}\.[\w-]{10,}\."
    r"|://[^/\s:@]+:[^/\s@]+@"
)
# Columns of other people's tables that name a person, a machine or a place on it.
PERSONAL = frozenset((
    "user", "username", "user_name", "owner", "author", "email", "entity", "host", "hostname", "host_name", "node_name",
    "ip", "ip_address", "cwd", "home", "api_key", "apikey", "access_token", "secret", "password",
))  # fmt: skip


def without_folders(value: Any) -> Any:
    """`value` with the last part alone of every absolute path in it, wherever it stands: no folder of this machine."""
    if isinstance(value, dict):
        return {key: without_folders(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [without_folders(part) for part in value]
    if isinstance(value, PurePath):
        value = str(value)
    if not isinstance(value, str):
        return value
    if value.startswith(_STARTS) or _DRIVE.match(value):  # the whole is a path, whatever blanks it has
        return _last(value)
    return _PATH.sub(lambda found: _last(found[0]), value)


def _last(path: str) -> str:
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]


def refuse_keys(texts: Iterable[tuple[str, object]]) -> None:
    """Raise ValueError naming the first place whose text looks like a key or a password; the text itself is not shown.

    `texts` are (where it stands, value) pairs; of values in dictionaries and lists every text is looked at.
    """
    for where, value in texts:
        if isinstance(value, dict):
            refuse_keys((f"{where}.{key}", part) for key, part in value.items())
        elif isinstance(value, list | tuple):
            refuse_keys((where, part) for part in value)
        elif isinstance(value, str) and _KEYS.search(value):
            raise ValueError(f"{where} looks like a key or a password: nothing is shared; take it out and share again")
