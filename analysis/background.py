"""A function called in a separate process while the report goes on, so that a report uses two cores.

python -m isoflop.analysis.background    reads (module, function, args, kwargs) pickled, writes (value, error) pickled
"""

import importlib
import pickle
import subprocess
import sys
import tempfile
from functools import cached_property
from typing import Any


class BackgroundCall:
    """A call of `module.function` in a separate process, started at once."""

    def __init__(self, module: str, function: str, *args: Any, **kwargs: Any) -> None:
        # Files, because a pipe can fill before anybody reads it; the output's is open as long as the call.
        self._process: subprocess.Popen[bytes] | None = None
        self._output = tempfile.TemporaryFile()  # noqa: SIM115
        with tempfile.TemporaryFile() as call:
            pickle.dump((module, function, args, kwargs), call)
            call.seek(0)
            self._process = subprocess.Popen(
                [sys.executable, "-m", "isoflop.analysis.background"],
                stdin=call,
                stdout=self._output,
                stderr=subprocess.PIPE,
            )

    @cached_property
    def value(self) -> Any:
        """The function's value, waited for. Raises what the function raised; RuntimeError if the process died."""
        assert self._process is not None
        _, stderr = self._process.communicate()
        self._output.seek(0)
        if self._process.returncode:
            last = stderr.decode(errors="replace").strip().splitlines()[-1:]
            code = self._process.returncode
            raise RuntimeError(f"a background process of the report ended with {code}: {''.join(last)}")
        value, error = pickle.load(self._output)
        if error is not None:
            raise error
        return value

    def __del__(self) -> None:
        """End the process with the object: nobody can ask for its value any more."""
        self._output.close()
        if self._process is None:  # none could be started
            return
        self._process.kill()
        self._process.wait()
        if self._process.stderr:
            self._process.stderr.close()


def main() -> None:
    """Make the call that stands pickled on standard input, and write its result pickled to standard output."""
    module, function, args, kwargs = pickle.load(sys.stdin.buffer)
    value, raised = None, None
    try:
        value = getattr(importlib.import_module(module), function)(*args, **kwargs)
    except Exception as error:
        raised = error
    pickle.dump((value, raised), sys.stdout.buffer)


if __name__ == "__main__":
    main()
