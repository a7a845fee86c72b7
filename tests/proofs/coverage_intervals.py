"""Does the default 90% interval hold the truth nine times in ten?

Simulated isoFLOP studies from a known surface; the jackknife interval of alpha, beta, a, E and N* at 10 and 100 times
the largest budget. `python -m tests.proofs.coverage_intervals [studies per design] [objective: auto, 1e-3 or squares]`.
"""

import sys

import pandas as pd

from tests.support.fits.interval_coverage import DESIGNS, QUANTITIES, interval_coverage


def main() -> None:
    """Print the coverage of every design and quantity."""
    studies = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    objective = sys.argv[2] if len(sys.argv) > 2 else "auto"
    rows = [{"design": design.name, **interval_coverage(design, studies, objective)} for design in DESIGNS]
    table = pd.DataFrame(rows)
    print(table.to_string(index=False, float_format=lambda v: f"{v:.3f}"))
    shares = table[list(QUANTITIES)].to_numpy()
    print(
        f"{objective}, {studies} studies a design: {shares.min():.3f} to {shares.max():.3f}, mean {shares.mean():.3f}"
    )


if __name__ == "__main__":
    main()
