"""`isoflop.laws` is `isoflop.scaling.laws`, the catalogue, also for `from isoflop.laws import Law`."""

import sys

from isoflop.scaling import laws
from isoflop.scaling.laws import *  # noqa: F403 (for checkers of types)

sys.modules[__name__] = laws
