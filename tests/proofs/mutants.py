"""Do the tests notice one wrong operator? python -m tests.proofs.mutants [--only FILE ...] [--workers N] [--raw FILE]

Every single-operator mutant (a sign, a bound, a number off by one, a dropped term, n_params for tokens, and for or, min
for max, True for False) of the files in ROOMS meets the fast tests of its room, in a copy of the repository. Each runs
in a fork of a process that has the libraries loaded already, with a limit of CPU time; one that sleeps for good is
ended too. A mutant is killed when a test fails. The verdicts go to a JSONL file, by hash of the file and mutant, so an
interrupted proof goes on; survivors are tried again when the tests have changed. Survivors on a line with the comment
`# equivalent: why` (`// equivalent: why`) are no fault. Prints the others as file:line old -> new.
"""

import argparse
import gc
import hashlib
import importlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.support.mutation import python_source, script_source
from tests.support.mutation.python_source import Mutant
from tests.support.root import ROOT

_DESIGN = ("candidates", "design", "information", "planning", "search")
ROOMS = {
    "experiments/sweep/queue.py": ("tests/experiments/sweep/test_queue.py",),
    "experiments/files.py": ("tests/experiments/store/test_store.py", "tests/experiments/test_files.py"),
    "experiments/store/store.py": ("tests/experiments/store/test_store.py",),
    **{f"scaling/design/{name}.py": (f"tests/scaling/design/test_{name}.py",) for name in _DESIGN},
    "scaling/selection/averaging.py": ("tests/scaling/selection/test_averaging.py",),
    "scaling/prediction/registered/distribution.py": ("tests/scaling/prediction/registered/test_distribution.py",),
    "scaling/selection/law_weights.py": ("tests/scaling/selection/test_law_weights.py",),
    "analysis/page/calculator.py": ("tests/analysis/page/test_calculator.py",),
    "analysis/page/page.js": ("tests/analysis/page/test_script.py",),
}
OURS = {"tests", "isoflop", "hydra_plugins", "conftest", "__main__"}
FAST = "not slow and not process and not browser and not gpu and not slurm"
EQUIVALENT = "equivalent:"
LEAST_CPU, TIMES_CPU = 10, 8  # seconds, and times what the tests take unchanged
ASLEEP_SECONDS, LOOK_SECONDS = 20.0, 0.5  # of sleep of every process of a mutant, and between two looks


def mutants(path: str) -> list[Mutant]:
    """Every mutant of a file of the repository."""
    return (script_source if path.endswith(".js") else python_source).mutants((ROOT / path).read_text())


def arguments(room: Sequence[str]) -> list[str]:
    """The command line of pytest for a room; its plugins are loaded before it can rewrite them."""
    loaded = ["-W", "ignore:Module already imported so cannot be rewritten"]
    return ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *loaded, "-m", FAST, *room]


class Room:
    """A copy of the repository in which the mutants of one file meet their tests."""

    def __init__(self, path: str, copy: Path) -> None:
        self.path, self.copy, self.tests = path, copy, ROOMS[path]
        self.source = (ROOT / path).read_text()
        self.file_hash = _hash(re.sub(r"[ \t]*(#|//) equivalent:.*", "", self.source))
        self.test_hash = _hash(*((ROOT / t).read_text() for t in self.tests))

    def key(self, mutant: Mutant) -> str:
        """By what a verdict is found again."""
        column = mutant.start - self.source.rfind("\n", 0, mutant.start)
        return f"{self.path} {self.file_hash} {column} {mutant}"

    def serve(self, todo: Sequence[Mutant]) -> Iterator[tuple[Mutant, str]]:
        """The verdict of each mutant, from a process of its own that has this copy's libraries loaded."""
        positions = {(m.start, m.old, m.new): m for m in todo}
        command = [sys.executable, "-m", "tests.proofs.mutants", "--serve", str(self.copy), self.path]
        with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdin is not None
            assert server.stdout is not None
            server.stdin.write(json.dumps([vars(m) for m in todo]))
            server.stdin.close()
            for line in server.stdout:
                answer = json.loads(line)
                yield positions[answer["start"], answer["old"], answer["new"]], answer["verdict"]
        if server.returncode:
            raise SystemExit(f"{self.path}: the unchanged file fails its tests, {' '.join(self.tests)}")


def serve(copy: Path, path: str) -> int:
    """Read mutants from standard input, print the verdict of each as a line of JSON; 1 if none can be judged."""
    todo = [Mutant(**fields) for fields in json.load(sys.stdin)]
    out = os.fdopen(os.dup(1), "w")
    os.chdir(copy)
    for name in [n for n in sys.modules if n.partition(".")[0] in OURS - {"__main__"}]:
        del sys.modules[name]
    sys.path[:0] = [str(copy)]
    room, target = ROOMS[path], copy / path
    source = target.read_text()
    libraries = copy / "libraries"
    child = os.fork()
    if not child:  # which libraries the tests load, with everything compiled on the way
        code = _pytest(room)
        libraries.write_text("\n".join(sys.modules))
        os._exit(code)
    if _wait(child, 3600)[0] != 0:
        return 1
    sys.dont_write_bytecode = True
    for name in libraries.read_text().split():
        if name.partition(".")[0] not in OURS:
            _load(name)
    gc.collect()
    gc.freeze()
    verdict, usual = _judge(room, target, source, 3600)
    if verdict != "survived":
        return 1
    limit = max(LEAST_CPU, int(TIMES_CPU * usual))
    for mutant in todo:
        verdict, _ = _judge(room, target, mutant.of(source), limit)
        print(json.dumps(vars(mutant) | {"verdict": verdict}), file=out, flush=True)
    target.write_text(source)
    return 0


def _load(name: str) -> None:
    try:
        importlib.import_module(name)
    except Exception:  # of the platform or of an extra: the tests will say what they need
        return


def _judge(room: Sequence[str], target: Path, source: str, limit: int) -> tuple[str, float]:
    """Whether a source survives its tests, and the CPU seconds that they took."""
    target.write_text(source)
    for stale in (target.parent / "__pycache__").glob(f"{target.stem}.*.pyc"):
        stale.unlink()
    child = os.fork()
    if not child:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 1))
        os._exit(_pytest(room, _AtOnce()))
    code, seconds = _wait(child, ASLEEP_SECONDS)
    return ("survived" if code == 0 else "killed" if code == 1 else f"killed ({code})"), seconds


class _AtOnce:
    """A plugin that ends the process with the session: a search for garbage costs as much as the tests."""

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        os._exit(exitstatus)


def _pytest(room: Sequence[str], *plugins: object) -> int:
    import pytest

    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nothing, stream)
    try:
        return int(pytest.main(arguments(room), plugins=plugins))
    except BaseException:
        return 2


def _wait(child: int, asleep_for: float) -> tuple[int, float]:
    """Exit code and CPU seconds of a child; its session is ended once all its processes sleep for so long."""
    looked = awake = time.monotonic()
    while True:
        ended, status, usage = os.wait4(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime
        if (now := time.monotonic()) - looked > LOOK_SECONDS:
            looked = now
            if any(state not in "SZ" for state in _states(child)):
                awake = now
            elif now - awake > asleep_for:
                os.killpg(child, signal.SIGKILL)
        time.sleep(0.02)


def _states(session: int) -> Iterator[str]:
    """The state of each process of a session, R for one that computes and S for one that sleeps."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == session:
                yield fields[0]


def copied(to: Path) -> Path:
    """A copy of what git tracks, and of what is new and not ignored."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, check=True
    ).stdout
    for name in listed.decode().split("\0"):
        if (name and (ROOT / name).is_symlink()) or (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name, follow_symlinks=False)
    return to


def _hash(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:12]


def run(paths: Sequence[str], raw: Path, workers: int) -> dict[str, dict[str, str]]:
    """The verdict of every mutant by file and mutant; those that the file `raw` lacks are tried."""
    known = [json.loads(line) for line in raw.read_text().splitlines()] if raw.exists() else []
    verdicts = {message["key"]: message for message in known}

    def one(path: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            room = Room(path, copied(Path(folder).resolve()))
            todo = []
            for mutant in mutants(path):
                message = verdicts.get(room.key(mutant))
                if message is None or (message["verdict"] == "survived" and message["tests"] != room.test_hash):
                    todo.append(mutant)
            print(f"{path}: {len(todo)} mutants to try", file=sys.stderr, flush=True)
            for mutant, verdict in room.serve(todo) if todo else ():
                message = {"key": room.key(mutant), "verdict": verdict, "tests": room.test_hash}
                verdicts[message["key"]] = message
                with raw.open("a") as out:
                    print(json.dumps(message), file=out)

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(one, paths))
    return {path: _verdicts(path, verdicts) for path in paths}


def _verdicts(path: str, verdicts: dict[str, dict]) -> dict[str, str]:
    """Of each mutant: killed, equivalent or survived."""
    room, lines, found = Room(path, ROOT), (ROOT / path).read_text().splitlines(), {}
    for mutant in mutants(path):
        verdict = verdicts[room.key(mutant)]["verdict"].partition(" ")[0]
        if verdict == "survived" and EQUIVALENT in lines[mutant.line - 1]:
            verdict = "equivalent"
        found[room.key(mutant)] = verdict
    return found


def report(results: dict[str, dict[str, str]]) -> int:
    """Print survivors and counts; the number of survivors."""
    left = 0
    for path, verdicts in results.items():
        counts = Counter(verdicts.values())
        left += counts["survived"]
        for key, verdict in verdicts.items():
            if verdict == "survived":
                line, _, change = key.split(" ", 3)[3].partition(" ")
                print(f"{path}:{line} {change}")
        print(f"{path}: {len(verdicts)} made, {counts['killed']} killed, {counts['equivalent']} equivalent, "
              f"{counts['survived']} left")  # fmt: skip
    return left


def main() -> int:
    """Try the mutants of the files asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=list(ROOMS), default=list(ROOMS), metavar="FILE")
    parser.add_argument("--workers", type=int, default=1, help="files at a time")
    parser.add_argument("--raw", type=Path, default=Path("mutants.jsonl"))
    parser.add_argument("--serve", nargs=2, metavar=("COPY", "FILE"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        return serve(Path(given.serve[0]), given.serve[1])
    return int(report(run(given.only, given.raw, given.workers)) > 0)


if __name__ == "__main__":
    sys.exit(main())
