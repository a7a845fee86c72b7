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
import pandas as pd

from isoflop.scaling.imports.assemble import ImportOptions
from isoflop.scaling.imports.read import import_source
from isoflop.scaling.imports.source import SourceError
from isoflop.scaling.table.columns import TableError
from isoflop.scaling.table.conventions import points
from isoflop.scaling.table.read import read_table
from isoflop.scaling.table.runs import RunTableError
from tests.support.root import ROOT
from tests.support.tables.dialects import Known, damage, write_dialect

PATIENCE = 20  # seconds for one file, whose readers take milliseconds
FILES = ROOT / "tests" / "support" / "files"
REFUSALS = (TableError, SourceError, RunTableError)
QUANTITIES = ["n_params", "tokens", "flops", "loss"]


class HangError(BaseException):
    """A reader took longer than PATIENCE."""


def _alarm(*_: object) -> None:
    raise HangError


def by_fit(path: Path) -> tuple[pd.DataFrame, str]:
    """The points of a file, as every command that takes a table reads them, and the unit of the loss."""
    read = read_table(path)
    found = points(read)
    labels = [name for name in ("run_id", "arm") if name in read]
    return pd.concat([found.frame[QUANTITIES], read[labels].reset_index(drop=True)], axis=1), found.loss_unit


def by_import(path: Path) -> tuple[pd.DataFrame, str]:
    """The table that `isoflop import` makes of a file, and the unit of the loss."""
    made = import_source(path, "auto", ImportOptions(), {}).table
    if "flops" not in made:
        made = made.assign(flops=6.0 * made["n_params"] * made["tokens"])
    return made, str(made["loss_unit"].iloc[0])


def difference(known: Known, found: pd.DataFrame, unit: str) -> str:
    """How a table that was read differs from the known one; empty for not."""
    if len(found) != len(known.table):
        return f"{len(found)} rows instead of {len(known.table)}"
    for name in QUANTITIES:
        ours, theirs = known.table[name].to_numpy(float), found[name].to_numpy(float)
        if not np.allclose(theirs, ours, rtol=1e-6):
            return f"{name} is {theirs[:3]} instead of {ours[:3]}"
    for name in set(known.table) - set(QUANTITIES):
        if found[name].astype(str).tolist() != known.table[name].tolist():
            return f"{name} is {found[name].tolist()} instead of {known.table[name].tolist()}"
    return "" if unit == known.unit else f"the loss is in {unit} instead of {known.unit}"


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
