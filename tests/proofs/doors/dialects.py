"""Sources through every reader: half of known runs as people and programs write them, half damaged at random.

    python -m tests.proofs.doors.dialects 100000 1                    # cases 0 .. 99999 of seed 1
    python -m tests.proofs.doors.dialects 50000 1 --first 50000       # the second half of them, in another process
    python -m tests.proofs.doors.dialects 100000 1 --log FILE         # goes on where FILE ends
    python -m tests.proofs.doors.dialects 100000 1 --known            # the known half alone; `fuzz` damages files too

Shows 0 tracebacks, 0 hangs and 0 wrong tables. A known table comes in another dialect (`support.tables.dialects`),
known runs as a program's log, export or record (`support.tables.programs`); each gives the known values by
`read_table` and by `isoflop import`, or a line that says why not, counted by kind. Prints failures, then totals.
"""

import argparse
import gc
import shutil
import signal
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from isoflop.scaling.imports.source import SourceError
from isoflop.scaling.table.columns import TableError
from isoflop.scaling.table.runs import RunTableError
from tests.support.root import ROOT
from tests.support.tables.dialects import Known, by_fit, by_import, damage, difference, write_dialect
from tests.support.tables.programs import write_program

PATIENCE = 20  # seconds for one source, whose readers take milliseconds
FILES = sorted(path for path in (ROOT / "tests" / "support" / "files").rglob("*.*") if path.is_file())
REFUSALS = (TableError, SourceError, RunTableError)
EVERY = 500  # cases between two lines of the log


class HangError(BaseException):
    """A reader took longer than PATIENCE."""


def _alarm(*_: object) -> None:
    raise HangError


def one(case: int, seed: int, folder: Path, counts: Counter) -> list[str]:
    """What is wrong with the answers to one source, a line each."""
    rng = np.random.default_rng([seed, case])
    known: Known | None = write_program(rng, folder) if case % 4 > 1 else write_dialect(rng, folder)
    assert known is not None
    path, message, options = known.path, ", ".join(known.message), known.options
    if case % 2:
        path, known = _damaged(known, rng), None
        message = f"damaged {path.name}: {message}"
    doors: list[tuple[str, Callable]] = [("import", lambda: by_import(path, **options)), ("fit", lambda: by_fit(path))]
    failures = []
    for name, door in doors:
        signal.alarm(PATIENCE)
        try:
            found, unit = door()
            wrong = difference(known, found, unit) if known and not (options and name == "fit") else ""
            counts["read" if known else "damaged and read", name] += 1
        except REFUSALS as error:
            line = str(error).strip()
            wrong = "" if line and "\n" not in line else f"not one line: {line!r}"
            if known and not (options and name == "fit"):
                counts["refused: " + line.split(": ", 1)[-1].split("(")[0][:60], name] += 1
        except HangError:
            wrong = f"no answer in {PATIENCE} s"
        except Exception as error:  # what is counted here
            place = traceback.extract_tb(error.__traceback__)[-1]
            wrong = f"{type(error).__name__}: {str(error)[:200]!r} at {Path(place.filename).name}:{place.lineno}"
        finally:
            signal.alarm(0)
        if wrong:
            failures.append(f"case {case} by {name}: {wrong} [{message}]")
    for made in folder.iterdir():
        shutil.rmtree(made) if made.is_dir() else made.unlink()
    return failures


def _damaged(known: Known, rng: np.random.Generator) -> Path:
    """The source with one of its files damaged, or in its place one of the example files, damaged."""
    inner = sorted(path for path in known.path.rglob("*") if path.is_file()) if known.path.is_dir() else [known.path]
    file = inner[int(rng.integers(len(inner)))]
    if rng.random() < 0.15 and not known.path.is_dir():
        example = FILES[int(rng.integers(len(FILES)))]
        file = known.path.with_name(example.name)
        file.write_bytes(damage(example.read_bytes(), rng))
        return file
    file.write_bytes(damage(file.read_bytes(), rng))
    return known.path


def main(arguments: Sequence[str] | None = None) -> int:
    """Try the cases and print the failures and totals; 1 if there was a failure."""
    parser = argparse.ArgumentParser(description="known and damaged sources through every reader of tables")
    parser.add_argument("count", type=int)
    parser.add_argument("seed", type=int)
    parser.add_argument("--first", type=int, default=0, help="of the cases")
    parser.add_argument("--log", type=Path, help="keeps failures and counts, and where to go on")
    parser.add_argument("--known", action="store_true", help="no damaged sources")
    requested = parser.parse_args(arguments)
    signal.signal(signal.SIGALRM, _alarm)
    counts, begin, failures = _resume(requested.log, requested.first)
    gc.freeze()  # what was imported is not looked through again
    gc.set_threshold(100_000, 50, 50)
    with tempfile.TemporaryDirectory() as folder:
        for case in range(begin, requested.first + requested.count):
            for line in () if requested.known and case % 2 else one(case, requested.seed, Path(folder), counts):
                failures += 1
                _say(requested.log, line)
            if requested.log and (case + 1) % EVERY == 0:
                _keep(requested.log, case + 1, failures, counts)
    for (why, door), n in sorted(counts.items(), key=lambda pair: -pair[1]):
        print(f"{n} {why}, by {door}")
    kinds = f"{requested.count // 2} known" if requested.known else f"{requested.count} half known and half damaged"
    _say(requested.log, f"{kinds} sources, by import and by fit: {failures} failures")
    return 1 if failures else 0


def _say(log: Path | None, line: str) -> None:
    print(line, flush=True)
    if log:
        with log.open("a") as file:
            file.write(line + "\n")


def _keep(log: Path, case: int, failures: int, counts: Counter) -> None:
    held = "\t".join(f"{why}\t{door}\t{n}" for (why, door), n in counts.items())
    with log.open("a") as file:
        file.write(f"at\t{case}\t{failures}\t{held}\n")


def _resume(log: Path | None, first: int) -> tuple[Counter, int, int]:
    """The counts, the next case and the failures that a log tells."""
    kept = [line for line in log.read_text().splitlines() if line.startswith("at\t")] if log and log.exists() else []
    if not kept:
        return Counter(), first, 0
    _, case, failures, *held = kept[-1].split("\t")
    counts = Counter({(why, door): int(n) for why, door, n in zip(held[::3], held[1::3], held[2::3], strict=True)})
    return counts, int(case), int(failures)


if __name__ == "__main__":
    raise SystemExit(main())
