"""`isoflop` as processes forked from one that has imported the libraries: a command starts in hundredths of a second.

For tests of many command lines that are typed in a shell. Each is a process of its own, with the folder, environment,
streams and exit code that it would have; only the imports are done before. Run as a module it is that first process.
"""

import contextlib
import importlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.support.root import ROOT

# What most commands import; nothing here starts a thread.
LOADED = (
    "pandas", "scipy.optimize", "scipy.stats", "hydra", "isoflop.commands.laws", "isoflop.scaling.findings.verdict",
    "isoflop.scaling.selection.comparison", "isoflop.scaling.prediction.predict", "isoflop.experiments.sweep.launch",
)  # fmt: skip
# The program `isoflop` of the shell: hands over what it was started with, and ends as the command does.
CLIENT = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as door:
    door.connect({door!r})
    socket.send_fds(door, [b"-"], [0, 1, 2])
    door.sendall(json.dumps([sys.argv, os.getcwd(), dict(os.environ)]).encode() + b"\\n")
    code = door.recv(16)
sys.exit(int(code or 255))
"""


@contextlib.contextmanager
def forked_commands(folder: Path) -> Iterator[Path]:
    """A folder for PATH whose `isoflop` is such a process; `folder` is empty and its path short."""
    door, bin_ = folder / "door", folder / "bin"
    bin_.mkdir()
    program = bin_ / "isoflop"
    program.write_text(CLIENT.format(python=sys.executable, door=str(door)))
    program.chmod(0o755)
    for name in ("python", "python3"):
        (bin_ / name).symlink_to(sys.executable)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(door))
        listening.listen()
        first = subprocess.Popen(
            [sys.executable, "-m", __name__, str(listening.fileno())], cwd=ROOT, pass_fds=[listening.fileno()],
            env=os.environ | {"PYTHONPATH": str(ROOT)}, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        )  # fmt: skip
    try:
        yield bin_
    finally:
        first.terminate()
        first.wait()


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
        _, status, used = os.wait4(command, 0)
        code = os.waitstatus_to_exitcode(status)
        door.sendall(str(code % 256).encode())
        os._exit(0)
    _, streams, *_ = socket.recv_fds(door, 1, 3)
    arguments, cwd, environment = json.loads(door.makefile().readline())
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    door.close()
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115 (to the end)
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv, sys.path[0] = arguments, str(Path(arguments[0]).parent)


def main() -> None:
    """Load, then be as many commands as are asked for."""
    for module in LOADED:
        importlib.import_module(module)
    program = importlib.import_module("isoflop.__main__")
    serve(socket.socket(fileno=int(sys.argv[1])))
    sys.modules["__main__"] = program
    program.main()


if __name__ == "__main__":
    main()
