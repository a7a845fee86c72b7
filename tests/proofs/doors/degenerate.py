"""Degenerate tables through every law and the commands that fit: no traceback, no warning of numpy's, no vague refusal.

    python -m tests.proofs.doors.degenerate 400        # tables 0 to 399, a third of a second of CPU each
    python -m tests.proofs.doors.degenerate 400 1000   # tables 1000 to 1399

Prints each failure with its number and command line; exits with 1 where there is one.
"""

import sys

from tests.support.doors.drawn.degenerate import degenerate
from tests.support.doors.drawn.generated import try_numbers

if __name__ == "__main__":
    sys.exit(try_numbers(degenerate))
