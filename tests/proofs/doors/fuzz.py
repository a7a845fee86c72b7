"""Damaged files through every reader: only an error of the reader's own class may come, and it names the file.

    python -m tests.proofs.doors.fuzz [--files 5000] [--first 0] [--seed 0] [--only NAME,NAME] [--case N] [--times]

Prints a line a failure, with the arguments that repeat it, a line for every 5000 cases, then the totals. A case is
damaged by (seed, number) alone: a run that was stopped goes on with --first, several processes take a seed each. Cases
run in forks of a few hundred, so that one that ends its process, or does not return, is named too. --times tells
instead what a case of each reader takes.
"""

import argparse
import os
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.support.doors.fuzz_case import WAITED, copy_of, run_case
from tests.support.doors.readers import READERS, Reader, readers_named, turns
from tests.support.doors.sound import write_files

FORK = 400  # cases of one process
REPORTED = 5000
MEMORY = 6 * 2**30  # bytes of address space beyond what is in use: a header cannot ask for more


def main() -> None:
    """Damage and read; exits 1 where a case failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=5000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="")
    parser.add_argument("--case", type=int, help="this one alone, with its traceback")
    parser.add_argument("--times", action="store_true")
    options = parser.parse_args()
    readers = turns(readers_named([name for name in options.only.split(",") if name]))
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        (work / "sound").mkdir()
        sound = write_files(work / "sound")
        for reader in dict.fromkeys(readers):
            _in_a_fork(lambda reader=reader: reader.read(copy_of(sound, work / "case", reader)), reader.name)
        if options.times:
            _print_times(dict.fromkeys(readers), options.seed, sound, work)
            return
        if options.case is not None:
            print(run_case(readers, options.case, options.seed, sound, work, full=True) or "no failure")
            return
        began = time.monotonic()
        failed = run(readers, range(options.first, options.first + options.files), options.seed, sound, work, options)
        took = time.monotonic() - began
        every = len(set(readers))
        print(f"{options.files} damaged files, {every} of {len(READERS)} readers: {failed} failed ({took:.0f} s)")
    sys.exit(1 if failed else 0)


def run(
    readers: Sequence[Reader], cases: range, seed: int, sound: Path, work: Path, options: argparse.Namespace
) -> int:
    """Run the cases in forks; prints each failure and returns how many there are."""
    failed, case, message = 0, cases.start, cases.start + REPORTED
    places = Counter[str]()
    while case < cases.stop:
        ended, lines = _fork(readers, case, min(cases.stop, case + FORK), seed, sound, work)
        for number, line in lines:
            failed += 1
            places[line.rpartition(" at ")[2]] += 1
            reader = readers[number % len(readers)].name
            again = f"--seed {seed} --case {number}" + (f" --only {options.only!r}" if options.only else "")
            print(f"{reader}: {line}   [{again}]", flush=True)
        case = ended
        if case >= message:
            print(f"seed {seed}: cases {cases.start} to {case - 1}: {failed} failed", flush=True)
            message += REPORTED
    for place, count in places.most_common(20):
        print(f"  {count:>6}  {place}")
    return failed


def _fork(
    readers: Sequence[Reader], first: int, last: int, seed: int, sound: Path, work: Path
) -> tuple[int, list[tuple[int, str]]]:
    """The number of the next case, and (case, failure) of those before it. A case that kills the fork is a failure."""
    kept = work / "kept"
    kept.write_text("")
    child = os.fork()
    if child == 0:
        try:
            used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
            resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
            quiet = os.open(os.devnull, os.O_WRONLY)
            os.dup2(quiet, 2)
            with kept.open("a") as file:
                for case in range(first, last):
                    print(f"{case}\t", file=file, end="", flush=True)
                    print(run_case(readers, case, seed, sound, work).replace("\n", " "), file=file, flush=True)
        finally:
            os._exit(0)
    status = _ended(child, kept)
    lines = [line.partition("\t") for line in kept.read_text(errors="replace").split("\n") if line]
    found = [(int(number), text) for number, _, text in lines]
    if status or (found and not kept.read_text(errors="replace").endswith("\n")):
        found[-1] = (found[-1][0], f"the process died (status {status}) at exit")
    return (found[-1][0] + 1 if found else last), [one for one in found if one[1]]


def _ended(child: int, kept: Path) -> int:
    """The status of a fork; it is killed where it tells nothing for twice as long as a case may wait."""
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        if time.time() - kept.stat().st_mtime > 2 * WAITED:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.02)


def _in_a_fork(read: Callable[[], object], name: str) -> None:
    """Read a sound file; ends the proof where that fails."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            read()
            code = 0
        finally:
            if code:
                sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
                sys.stderr.flush()
            os._exit(code)
    if os.waitpid(child, 0)[1]:
        sys.exit(f"{name}: a sound file is not read")


def _print_times(readers: Sequence[Reader] | dict[Reader, None], seed: int, sound: Path, work: Path) -> None:
    for reader in readers:
        began = time.process_time()
        for case in range(20):
            run_case((reader,), case, seed, sound, work)
        took = (time.process_time() - began) / 20
        print(f"{1000 * took:8.1f} ms  {1000 * took / reader.every:8.1f} a round  {reader.name}", flush=True)


if __name__ == "__main__":
    main()
