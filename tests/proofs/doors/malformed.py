"""Malformed inputs at every door: each is refused in one line that names its file, key or option.

    python -m tests.proofs.doors.malformed [--every K] [--only TEXT] [--seconds 60]

Every command line runs in a fork of its own, in a folder of its own, so that nothing it does lasts. A failure is a
traceback, an answer after more than so many seconds, an exit code other than 1 and 2, more than a line, a line that
names nothing, code that was run, or a file written outside the store. Prints a line a failure, then the totals.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.support.doors.inputs import inputs
from tests.support.doors.malformed_case import check
from tests.support.doors.options import write_neighbours

HEAVY = (
    "isoflop.analysis.report", "isoflop.experiments.app", "isoflop.experiments.finished.compare",
    "isoflop.experiments.followup.next_study", "isoflop.experiments.followup.tune_report", "isoflop.models.generate",
    "isoflop.scaling.imports.read", "isoflop.scaling.arms.multiplier", "isoflop.scaling.prediction.two_stage",
)  # fmt: skip


def main() -> None:
    """Type them all; exits 1 where one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1, help="of so many inputs, one")
    parser.add_argument("--only", default="", help="those whose name holds this, such as keys/")
    parser.add_argument("--seconds", type=float, default=60.0)
    options = parser.parse_args()
    for module in HEAVY:  # before the forks, which then need not
        __import__(module)
    began, failed, kinds = time.monotonic(), 0, Counter[str]()
    with tempfile.TemporaryDirectory() as work:
        run_id = write_neighbours(_made(Path(work) / "sound"))
        chosen = [one for one in inputs(run_id) if options.only in one.name][:: options.every]
        for one in chosen:
            fault = check(one, Path(work), options.seconds)
            if fault:
                failed += 1
                kinds[fault.partition(":")[0]] += 1
                print(f"{one.name}: {fault}", flush=True)
    print(f"{len(chosen)} malformed inputs, {failed} failed ({time.monotonic() - began:.0f} s) {dict(kinds)}")
    sys.exit(1 if failed else 0)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


if __name__ == "__main__":
    main()
