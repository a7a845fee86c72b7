"""Tables through every reader: half in another dialect of a known table, half damaged at random.

    python -m tests.proofs.dialects 100000 1

Shows 0 tracebacks and 0 hangs. Of the first half every file gives the known table back by `read_table` and by
`isoflop import`, or a line that says why not; refusals are counted by kind. Prints a failure a line, then the totals.
"""

import signal
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path

import numpy as np

from isoflop.scaling.imports.source import SourceError
from isoflop.scaling.table.columns import TableError
from isoflop.scaling.table.runs import RunTableError
from tests.support.root import ROOT
from tests.support.tables.dialects import Known, by_fit, by_import, damage, difference, write_dialect

PATIENCE = 20  # seconds for one file, whose readers take milliseconds
FILES = ROOT / "tests" / "support" / "files"
REFUSALS = (TableError, SourceError, RunTableError)


class HangError(BaseException):
    """A reader took longer than PATIENCE."""


def _alarm(*_: object) -> None:
    raise HangError


def one(case: int, seed: int, folder: Path, refused: Counter) -> list[str]:
    """What is wrong with the answers to one file, a line each."""
    rng = np.random.default_rng([seed, case])
    known: Known | None = write_dialect(rng, folder)
    assert known is not None
    path, told = known.path, ", ".join(known.told)
    if case % 2:
        others = sorted(FILES.rglob("*.*")) if rng.random() < 0.3 else []
        source = others[int(rng.integers(len(others)))] if others else path
        path = folder / source.name
        path.write_bytes(damage(source.read_bytes(), rng))
        known, told = None, f"damaged {source.name}: {told}"
    failures = []
    for door in (by_fit, by_import):
        signal.alarm(PATIENCE)
        try:
            found, unit = door(path)
            wrong = difference(known, found, unit) if known else ""
        except REFUSALS as error:
            wrong = "" if str(error).strip() and "\n" not in str(error) else f"not one line: {str(error)!r}"
            if known:
                refused[door.__name__, str(error).split(": ", 1)[-1].split("(")[0][:60]] += 1
        except HangError:
            wrong = f"no answer in {PATIENCE} s"
        except Exception as error:  # what is counted here
            place = traceback.extract_tb(error.__traceback__)[-1]
            wrong = f"{type(error).__name__}: {str(error)[:200]!r} at {Path(place.filename).name}:{place.lineno}"
        finally:
            signal.alarm(0)
        if wrong:
            failures.append(f"case {case} {door.__name__}: {wrong} [{told}]")
    for file in folder.iterdir():
        file.unlink()
    return failures


def main(count: int, seed: int, first: int = 0) -> int:
    """Try `count` files and print the failures and totals; returns the number of failures."""
    signal.signal(signal.SIGALRM, _alarm)
    refused: Counter = Counter()
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        for case in range(first, first + count):
            for line in one(case, seed, Path(folder), refused):
                failures += 1
                print(line, flush=True)
    for (door, why), n in refused.most_common():
        print(f"refused {n} known tables, {door}: {why}")
    print(f"{count} files, half known and half damaged, by fit and by import: {failures} failures")
    return failures


if __name__ == "__main__":
    raise SystemExit(1 if main(*map(int, sys.argv[1:])) else 0)
