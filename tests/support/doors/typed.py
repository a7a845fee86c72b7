"""A command line run in this process or in a fork of it, and what is wrong with how it was refused."""

import contextlib
import io
import json
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest import mock


@dataclass(frozen=True)
class Answer:
    """How a command ended: its exit code, what it printed on both streams, and its traceback, if one escaped it."""

    code: int
    out: str
    err: str
    traceback: str = ""

    def fault(self, names: Sequence[str]) -> str:
        """What is wrong with this as the refusal of bad input that one of `names` must be named in; "" if nothing."""
        lines = self.err.splitlines()
        if self.traceback or "Traceback" in self.err:
            return "traceback: " + (self.traceback or self.err).strip().splitlines()[-1][:200]
        if self.code not in (1, 2):
            return f"accepted: exit code {self.code}"
        if len(lines) != 1:
            return f"{len(lines)} lines on stderr: {self.err[:200]!r}"
        if len(lines[0]) > 2500:
            return f"a line of {len(lines[0])} characters"
        if not any(name in lines[0] for name in names):
            return f"names none of {list(names)}: {lines[0][:300]}"
        return ""


def typed_here(arguments: Sequence[object]) -> Answer:
    """Run `isoflop ARGUMENTS` in this process."""
    from isoflop.__main__ import main

    out, err, escaped, code = io.StringIO(), io.StringIO(), "", 0
    words = ["isoflop", *map(str, arguments)]
    with mock.patch.object(sys, "argv", words), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
        except BaseException:
            code, escaped = 1, traceback.format_exc()
    return Answer(code, out.getvalue(), err.getvalue(), escaped)


def typed_forked(arguments: Sequence[object], folder: Path, *, seconds: float = 60.0) -> Answer:
    """Run it in a fork of this process, in `folder`, for at most so many seconds: what it loads or changes ends there.

    What the fork prints by other ways than Python's streams is kept too.
    """
    with tempfile.TemporaryFile("w+") as kept, tempfile.TemporaryFile("w+b") as raw:
        child = os.fork()
        if child == 0:
            try:
                os.dup2(raw.fileno(), 2)
                os.chdir(folder)
                kept.write(json.dumps(asdict(typed_here(arguments))))
                kept.flush()
            finally:
                os._exit(0)
        ended = time.monotonic() + seconds
        status = None
        while status is None and time.monotonic() < ended:
            done, code = os.waitpid(child, os.WNOHANG)
            status = code if done else None
            time.sleep(0.002)
        if status is None:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return Answer(-1, "", "", f"hang: no answer within {seconds:g} s")
        kept.seek(0)
        raw.seek(0)
        text, other = kept.read(), raw.read().decode(errors="replace")
        if not text:
            return Answer(-1, "", other, f"died: status {status} {other.strip()[-200:]}")
        found = Answer(**json.loads(text))
        return Answer(found.code, found.out, other + found.err, found.traceback)
