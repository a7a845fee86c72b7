"""`isoflop` and Python as processes forked from one that has imported the libraries: they start in no time.

Each is a process of its own, with the folder, environment, streams, signals and exit code that it would have, and so is
each worker of its pool; only the imports are done before, and what is looked at every second is looked at every tenth,
so that no test waits for that. Run as a module it is that first process. What a fresh interpreter does is seen by other
tests: of the package, of the pool, of a bare machine, and on SLURM.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, NoReturn

from tests.support.root import ROOT

# What commands and workers import; nothing here starts a thread.
LOADED = (
    "pandas", "scipy.optimize", "scipy.stats", "matplotlib.pyplot", "hydra", "torch", "joblib", "isoflop.commands.laws",
    "isoflop.scaling.findings.verdict", "isoflop.scaling.selection.comparison", "isoflop.scaling.prediction.predict",
    "isoflop.experiments.sweep.launch", "isoflop.experiments.sweep.train_job", "isoflop.experiments.training.trainer",
)  # fmt: skip
# Seconds between what a worker tells of itself, its looks at its parent, and a launch's looks at others' trunks.
OFTEN = (
    ("isoflop.experiments.sweep.queue", "WAIT_SECONDS"),
    ("isoflop.experiments.sweep.train_job", "HEARTBEAT_SECONDS"),
    ("isoflop.experiments.training.process", "LOOK_SECONDS"),
)
# `isoflop` and `python` of a shell: hands over what it was started with, and ends as the command does. Python that is
# asked for neither `-c CODE` nor `-m MODULE` is the interpreter itself.
CLIENT = """#!{python} -IS
import json, os, socket, sys
if sys.argv[0].endswith("python") and sys.argv[1:2] not in (["-c"], ["-m"]):
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
with socket.socket(socket.AF_UNIX) as door:
    door.connect({door!r})
    socket.send_fds(door, [b"-"], [0, 1, 2])
    door.sendall(json.dumps([sys.argv, os.getcwd(), dict(os.environ)]).encode() + b"\\n")
    lines = door.makefile()
    number, code = lines.readline(), lines.readline()
sys.exit(int(code or 255) % 256)
"""


class Forked:
    """A command that was started, with the part of `subprocess.Popen` that tests use."""

    def __init__(self, door: socket.socket, output: IO[str] | None):
        self._door, self._output = door, output
        self.pid = int(self._line())
        self.returncode: int | None = None

    def _line(self) -> str:
        """The next line from the process that waits for the command."""
        line = b""
        while not line.endswith(b"\n"):
            part = self._door.recv(1)
            if not part:
                raise OSError(f"the first process ended: it sent {line!r}")
            line += part
        return line.decode()

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        if self.returncode is None and select.select([self._door], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, once it has ended. Raises subprocess.TimeoutExpired after `timeout` seconds."""
        if self.returncode is None:
            if not select.select([self._door], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("isoflop", timeout or 0.0)
            self.returncode = int(self._line())
            self._door.close()
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        """What it printed, once it has ended."""
        self.wait(timeout)
        if self._output is None:
            return "", None
        with self._output as output:
            output.seek(0)
            return output.read(), None

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


class Commands:
    """The first process, and the commands that are asked of it."""

    def __init__(self, folder: Path):
        """`folder` is empty and its path short; `bin` in it is for PATH, with such an `isoflop` and `python`."""
        self.door, self.bin = str(folder / "door"), folder / "bin"
        self.bin.mkdir()
        for name in ("isoflop", "python"):
            (self.bin / name).write_text(CLIENT.format(python=sys.executable, door=self.door))
            (self.bin / name).chmod(0o755)
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(self.door)
            listening.listen()
            self.first = subprocess.Popen(
                [sys.executable, "-m", __name__, str(listening.fileno())], cwd=ROOT, pass_fds=[listening.fileno()],
                env=os.environ | {"PYTHONPATH": str(ROOT)}, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            )  # fmt: skip

    def start(
        self, words: Sequence[object], *, cwd: Path, log: IO[str] | None = None, program: str = "isoflop",
        **environment: str,
    ) -> Forked:  # fmt: skip
        """Start `isoflop` or `python` with these words; what it prints goes to `log`, or is told by `communicate`."""
        output = None if log else tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed by communicate)
        written = log or output
        assert written is not None
        door = socket.socket(socket.AF_UNIX)
        door.connect(self.door)
        with open(os.devnull) as nothing:
            socket.send_fds(door, [b"-"], [nothing.fileno(), written.fileno(), written.fileno()])
        requested = [[program, *map(str, words)], str(cwd), dict(os.environ) | environment]
        door.sendall(json.dumps(requested).encode() + b"\n")
        return Forked(door, output)

    def end(self) -> None:
        """End the first process."""
        self.first.terminate()
        self.first.wait()


@contextlib.contextmanager
def forked_commands(folder: Path) -> Iterator[Commands]:
    """Commands, while the block runs; `folder` is empty and its path short."""
    commands = Commands(folder)
    try:
        yield commands
    finally:
        commands.end()


def serve(listening: socket.socket) -> None:
    """Fork a process for each command; returns in that process, which is ready to be `isoflop`."""
    while True:
        door, _ = listening.accept()
        if os.fork() == 0:
            break
        door.close()
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:  # those that ended meanwhile
                pass
    listening.close()
    command = os.fork()
    if command:  # waits for the command, and tells how it ended
        with contextlib.suppress(BrokenPipeError):  # nobody asks any more
            door.sendall(f"{command}\n".encode())
            door.sendall(f"{os.waitstatus_to_exitcode(os.waitpid(command, 0)[1])}\n".encode())
        os._exit(0)
    _, streams, *_ = socket.recv_fds(door, 1, 3)
    arguments, cwd, environment = json.loads(door.makefile().readline())
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    door.close()
    open_streams()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a terminal; background jobs ignore it
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv, sys.path[0] = arguments, str(Path(arguments[0]).parent)


def open_streams() -> None:
    """The standard streams of this process, with nothing buffered by the one that it was forked from."""
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115 (to the end)
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115


def fork_worker(command: Sequence[str], keep: Sequence[int], env: dict[str, str] | None = None) -> int:
    """loky's `fork_exec` without the exec: a worker with the imports of the command, and none of its open files."""
    worker = os.fork()
    if worker:
        return worker
    try:
        be_worker(command, {0, 1, 2, *map(int, keep)}, env or {})
    except BaseException:  # nothing of the command may go on here
        traceback.print_exc()
    finally:
        os._exit(1)


def be_worker(command: Sequence[str], keep: set[int], env: dict[str, str]) -> NoReturn:
    """Run the module that `python -m` of the command names, and end."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in map(int, os.listdir("/proc/self/fd")):
        if number not in {*keep, nothing} and os.path.exists(f"/proc/self/fd/{number}"):
            os.dup2(nothing, number)  # its locks go; the number stays taken, and no object of before closes a new file
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    open_streams()
    os.environ.update(env)
    sys.argv = list(command[2:])
    code: object = 0
    try:
        runpy.run_module(command[2], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code
    sys.stdout.flush()
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


def main() -> None:
    """Load, then be as many commands as are asked for."""
    for module in LOADED:
        importlib.import_module(module)
    starts = importlib.import_module("joblib.externals.loky.backend.fork_exec")
    starts.fork_exec = fork_worker  # type: ignore[attr-defined]
    for module, name in OFTEN:
        setattr(importlib.import_module(module), name, 0.1)
    program = importlib.import_module("isoflop.__main__")
    gc.collect()
    gc.freeze()  # no command looks for garbage in what was imported before it
    serve(socket.socket(fileno=int(sys.argv[1])))
    try:
        if sys.argv[0].endswith("python"):
            _, kind, what, *words = sys.argv
            sys.argv, sys.path[0] = [kind, *words], ""
            if kind == "-m":
                runpy.run_module(what, run_name="__main__", alter_sys=True)
            else:
                own = sys.modules["__main__"] = types.ModuleType("__main__")
                exec(what, vars(own))
        else:
            sys.modules["__main__"] = program
            program.main()
    except SystemExit as end:
        if not isinstance(end.code, int | None):
            raise
        end_at_once(end.code or 0)
    end_at_once(0)


def end_at_once(code: int) -> NoReturn:
    """End as the interpreter would, but without taking every module apart, which costs tenths of a second."""
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads, and runs what they registered
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
