"""Vega, Vega-Lite and vega-embed as one script for the page, made once for a version of vl_convert."""

import os
from contextlib import suppress
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

from isoflop.analysis.background import BackgroundCall
from isoflop.cache_folder import cache_folder, check_ours, private_folder


class Script:
    """The script, kept in the user's cache; where it is not there yet it is made in a separate process, at once.

    Making it takes a core two seconds. Without a cache folder of the user's own it is made for each report.
    """

    def __init__(self) -> None:
        self._path = cache_folder() / f"vega-{version('vl-convert-python')}.js"
        self._kept = _read(self._path)
        self._call = BackgroundCall("vl_convert", "javascript_bundle") if self._kept is None else None

    @cached_property
    def text(self) -> str:
        """The script, waited for. Raises what making it raised."""
        if self._call is None:
            assert self._kept is not None
            return self._kept
        text = str(self._call.value)
        _keep(self._path, text)
        return text


def _read(path: Path) -> str | None:
    """What is kept; None where there is nothing, or where others may have written it."""
    try:
        _, open_to_others = private_folder()
        check_ours(path)
        return None if open_to_others else path.read_text(encoding="utf-8") or None
    except (OSError, UnicodeError):
        return None


def _keep(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        private_folder()
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError:  # the next report makes it again
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
