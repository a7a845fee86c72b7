"""Every command on the committed tables, options drawn: no traceback, no warning of numpy's, no vague refusal.

    python -m tests.proofs.doors.on_committed 400        # command lines 0 to 399, two seconds of CPU each
    python -m tests.proofs.doors.on_committed 400 1000   # command lines 1000 to 1399

Prints each failure with its number and command line; exits with 1 where there is one.
"""

import sys
import tempfile
import warnings
from pathlib import Path

from tests.support.doors.degenerate import wrong_with
from tests.support.doors.on_committed import on_committed


def main() -> int:
    """Type the command lines that the arguments number."""
    count, first = (*map(int, sys.argv[1:3]), *(400, 0)[len(sys.argv) - 1 :])
    failed = 0
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("error")
        for seed in range(first, first + count):
            words = on_committed(seed, Path(name))
            if wrong := wrong_with(words, (Path(words[1]).name, "--")):
                failed += 1
                print(f"{seed}: isoflop {' '.join(words)}\n{wrong}\n", flush=True)
    print(f"{count} command lines, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
