"""A function at work in a process of its own while the report goes on: reports use two cores.

python -m isoflop.analysis.background    reads (module, function, arguments) pickled, writes (value, error) pickled
"""

import importlib
import pickle
import subprocess
import sys
import tempfile
from functools import cached_property
from typing import Any


class Beside:
    """A call under way. `value` waits for it, and raises what it raised."""

    def __init__(self, module: str, function: str, *args: Any, **kwargs: Any) -> None:
        self._out = tempfile.TemporaryFile()  # noqa: SIM115 - files, so that no pipe can fill; open as long as the call
        with tempfile.TemporaryFile() as told:
            pickle.dump((module, function, args, kwargs), told)
            told.seek(0)
            self._process = subprocess.Popen(
                [sys.executable, "-m", "isoflop.analysis.background"],
                stdin=told,
                stdout=self._out,
                stderr=subprocess.PIPE,
            )

    @cached_property
    def value(self) -> Any:
        _, said = self._process.communicate()
        self._out.seek(0)
        if self._process.returncode:
            last = said.decode(errors="replace").strip().splitlines()[-1:]
            raise RuntimeError(f"a process beside the report ended with {self._process.returncode}: {''.join(last)}")
        value, error = pickle.load(self._out)
        if error is not None:
            raise error
        return value

    def __del__(self) -> None:
        """End with whoever began it: an answer that nobody asked for need not be found."""
        self._process.kill()
        self._process.wait()
        self._process.stderr.close()
        self._out.close()


def main() -> None:
    module, function, args, kwargs = pickle.load(sys.stdin.buffer)
    try:
        answer = getattr(importlib.import_module(module), function)(*args, **kwargs), None
    except Exception as error:
        answer = None, error
    pickle.dump(answer, sys.stdout.buffer)


if __name__ == "__main__":
    main()
