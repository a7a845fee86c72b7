"""Every command on committed tables with rows lost and columns damaged or dropped, as a CSV: answered or refused.

    python -m tests.proofs.doors.on_damaged 400        # command lines 0 to 399, about half a second of CPU each
    python -m tests.proofs.doors.on_damaged 400 1000   # command lines 1000 to 1399

No traceback, no warning of numpy's, no vague refusal, no JSON that is none. Prints each failure with its number and
command line; exits with 1 where there is one.
"""

import sys

from tests.support.doors.drawn.generated import try_numbers
from tests.support.doors.drawn.on_damaged import on_damaged

if __name__ == "__main__":
    sys.exit(try_numbers(on_damaged))
