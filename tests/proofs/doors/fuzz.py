"""Damaged files through every reader: only an error of the reader's own class may come, and it names the file.

    python -m tests.proofs.doors.fuzz [--files 5000] [--seed 0] [--only NAME,NAME] [--case N]

Prints a line a failure, with the arguments that repeat it, then the totals. A case is damaged by (seed, number) alone,
whatever else is run. Cases run in forks of a few hundred, so that one that ends its process is named too.
"""

import argparse
import os
import resource
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.support.doors.fuzz_case import copy_of, run_case
from tests.support.doors.readers import Reader, readers_named, write_files

FORK = 400  # cases of one process
MEMORY = 6 * 2**30  # bytes of address space beyond what is in use: a header cannot ask for more


def main() -> None:
    """Damage and read; exits 1 where a case failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="")
    parser.add_argument("--case", type=int, help="this one alone, with its traceback")
    options = parser.parse_args()
    readers = readers_named([name for name in options.only.split(",") if name])
    with tempfile.TemporaryDirectory() as work:
        sound = write_files(_made(Path(work) / "sound"))
        for reader in readers:
            reader.read(copy_of(sound, Path(work) / "check", reader))  # a sound file is read
        if options.case is not None:
            print(run_case(readers, options.case, options.seed, sound, Path(work), full=True) or "no failure")
            return
        began = time.monotonic()
        failed = run(readers, options.files, options.seed, sound, Path(work), options.only)
        took = time.monotonic() - began
        print(f"{options.files} damaged files, {len(readers)} readers: {failed} failed ({took:.0f} s)")
    sys.exit(1 if failed else 0)


def run(readers: tuple[Reader, ...], files: int, seed: int, sound: Path, work: Path, only: str) -> int:
    """Run the cases in forks; prints each failure and returns how many there are."""
    failed, case = 0, 0
    places = Counter[str]()
    while case < files:
        last = min(files, case + FORK)
        ended, lines = _fork(readers, case, last, seed, sound, work)
        for number, line in lines:
            failed += 1
            places[line.rpartition(" at ")[2]] += 1
            reader = readers[number % len(readers)].name
            again = f"--seed {seed} --case {number}" + (f" --only {only!r}" if only else "")
            print(f"{reader}: {line}   [{again}]", flush=True)
        case = ended
    for place, count in places.most_common(20):
        print(f"  {count:>6}  {place}")
    return failed


def _fork(readers: tuple[Reader, ...], first: int, last: int, seed: int, sound: Path, work: Path) -> tuple[int, list]:
    """The number of the next case, and (case, failure) of those before it. A case that kills the fork is a failure."""
    kept = work / "kept"
    kept.write_text("")
    child = os.fork()
    if child == 0:
        try:
            used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
            resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            with kept.open("a") as file:
                for case in range(first, last):
                    print(f"{case}\t", file=file, end="", flush=True)
                    print(run_case(readers, case, seed, sound, work).replace("\n", " "), file=file, flush=True)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    lines = [line.partition("\t") for line in kept.read_text(errors="replace").split("\n") if line]
    found = [(int(number), text) for number, _, text in lines]
    if status or (found and not kept.read_text(errors="replace").endswith("\n")):
        found[-1] = (found[-1][0], f"the process died (status {status}) at exit")
    return (found[-1][0] + 1 if found else last), [one for one in found if one[1]]


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


if __name__ == "__main__":
    main()
