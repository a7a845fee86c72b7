"""Vega, Vega-Lite and vega-embed as one script, made beside the report: it takes a core seconds and is needed last."""

import subprocess
import sys
import tempfile
from functools import cache
from typing import IO

_MAKE = "import sys, vl_convert; sys.stdout.write(vl_convert.javascript_bundle())"


class Bundle:
    """A process at work on the script, and the script once somebody asks for it."""

    def __init__(self) -> None:
        self._out: IO[str] = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 - as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-X", "utf8", "-c", _MAKE], stdout=self._out, stderr=subprocess.PIPE, text=True
        )

    @cache  # noqa: B019 - there is one
    def text(self) -> str:
        """The script, safe inside a script element. Waits for it; raises RuntimeError where it could not be made."""
        _, said = self._process.communicate()
        if self._process.returncode:
            raise RuntimeError(f"vl_convert could not make the page's JavaScript: {said.strip()[-200:]}")
        self._out.seek(0)
        return self._out.read().replace("</script", "<\\/script")


@cache
def bundle() -> Bundle:
    """The one of this process, begun by the first call."""
    return Bundle()
