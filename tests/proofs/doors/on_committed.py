"""Every command on the committed tables, options drawn: no traceback, no warning of numpy's, no vague refusal, no JSON
that is none.

    python -m tests.proofs.doors.on_committed 400        # command lines 0 to 399, one or two seconds of CPU each
    python -m tests.proofs.doors.on_committed 400 1000   # command lines 1000 to 1399

Prints each failure with its number and command line; exits with 1 where there is one.
"""

import sys

from tests.support.doors.drawn.generated import try_numbers
from tests.support.doors.drawn.on_committed import on_committed

if __name__ == "__main__":
    sys.exit(try_numbers(on_committed))
