"""Degenerate tables through every law and the commands that fit: no traceback, no warning of numpy's, no vague refusal.

    python -m tests.proofs.doors.degenerate 400        # tables 0 to 399, a third of a second of CPU each
    python -m tests.proofs.doors.degenerate 400 1000   # tables 1000 to 1399

Prints each failure with its number and command line; exits with 1 where there is one.
"""

import sys
import tempfile
import warnings
from pathlib import Path

from tests.support.doors.degenerate import degenerate, wrong_with


def main() -> int:
    """Run the tables that the arguments number."""
    count, first = (*map(int, sys.argv[1:3]), *(400, 0)[len(sys.argv) - 1 :])
    failed = 0
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("error")
        for seed in range(first, first + count):
            words = degenerate(seed, Path(name))
            if wrong := wrong_with(words):
                failed += 1
                print(f"{seed}: isoflop {' '.join(words)}\n{wrong}\n", flush=True)
    print(f"{count} tables, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
