"""How often the collapse check denies curves that do collapse, and how often it sees one size whose rate is off.

    python -m tests.proofs.curves.collapse [REPEATS]

Studies are of four sizes at 20 tokens a parameter under a law of whole curves in which the reducible losses of all
sizes are one curve; seeds differ by a level, rows by noise with memory. Prints the share denied at each number of
seeds, sound and with the largest size trained at a quarter or four times its rate. Passes where of sound studies at
most LEVEL and two standard errors are denied, and of the faulty ones with 3 seeds at least half.
"""

import sys

import numpy as np

from isoflop.scaling.prediction.curves.collapse import LEVEL, collapses
from tests.support.fits.simulated_curves import ladder

SIZES = (2.5e3, 5e3, 1e4, 2e4)
POWER = 0.5


def denied(repeats: int, seeds: int, off: float) -> float:
    """The share of simulated studies whose curves are said not to collapse."""
    found = []
    for repeat in range(repeats):
        draw = np.random.default_rng([repeat, seeds, int(100 * off)])
        found += [one.p < LEVEL for one in collapses(ladder(draw, SIZES, seeds, off))]
    assert len(found) == repeats
    return float(np.mean(found))


def main(repeats: int = 400) -> int:
    """Print the table; 1 where a bar is missed."""
    good = True
    limit = LEVEL + 2 * np.sqrt(LEVEL * (1 - LEVEL) / repeats)
    print(f"level {LEVEL:.2f}, {repeats} studies each; denied where the largest size has its rate x")
    print("seeds     1   1/4     4")
    for seeds in (2, 3, 5):
        sound, low, high = (denied(repeats if off == 1 else repeats // 4, seeds, off) for off in (1.0, 0.25, 4.0))
        print(f"{seeds:5d} {sound:5.3f} {low:5.2f} {high:5.2f}")
        good &= sound <= limit and (seeds < 3 or min(low, high) >= POWER)
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main(*map(int, sys.argv[1:])))
