"""Many command lines in one process of Python, which imports its libraries once and searches for no fit twice."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tests.support.root import ROOT

# What the runner needs and a fit does not.
RUNNER = ("torch", "hydra", "omegaconf", "yaml", "joblib", "safetensors")
# Reads command lines as JSON, prints [exit code, output, errors] of each. What its arguments name cannot be imported.
CODE = """
import contextlib, io, json, sys, traceback
absent = set(sys.argv[1:])
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
from isoflop.__main__ import main
from isoflop.scaling.fitting.search.kept_searches import keep_searches
ended = []
with keep_searches():
    for words in json.load(sys.stdin):
        sys.argv = ["isoflop", *words]
        out, err, code = io.StringIO(), io.StringIO(), 0
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                main()
            except SystemExit as end:
                code = end.code or 0
            except BaseException:
                code = "raised"
                traceback.print_exc()
        ended.append([code, out.getvalue(), err.getvalue()])
print("\\n" + json.dumps(ended))
"""


class Ended(NamedTuple):
    """How a command line ended: its exit code ("raised" for a traceback), what it printed, and where."""

    code: int | str
    out: str
    err: str


def session(
    commands: Sequence[Sequence[object]], *, cwd: Path, path: Path = ROOT, absent: Sequence[str] = ()
) -> list[Ended]:
    """Run command lines in `cwd`, one after the other, with the package at `path` and these modules out of reach."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, *absent], cwd=cwd, env=os.environ | {"PYTHONPATH": str(path)},
        input=json.dumps([[str(word) for word in words] for words in commands]), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return [Ended(*one) for one in json.loads(done.stdout.splitlines()[-1])]
