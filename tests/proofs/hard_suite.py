"""The hard synthetic suite: does every fit reach the optimum, or say that it did not?

25 kinds of data set (few points, outliers, floors near zero, collinear designs, five forms). Each fit is held against
the best of 200 random starts, every one polished by the solver and the best by SciPy as well.
`python -m tests.proofs.hard_suite [data sets per kind]` prints a row per kind.
"""

import sys

import pandas as pd

from tests.support.fits.hard_fits import KINDS, run_kind


def main() -> None:
    """Print a row per kind, and the share of fits within 1e-9 of the reference or flagged."""
    sets = int(sys.argv[1]) if len(sys.argv) > 1 else 6
    table = pd.DataFrame([run_kind(kind, sets) for kind in KINDS])
    print(table.to_string(index=False, float_format=lambda v: f"{v:.2g}"))
    good = 1 - table["bad"].sum() / (sets * len(KINDS))
    print(f"within 1e-9 of the reference or flagged: {good:.1%} of {sets * len(KINDS)}")


if __name__ == "__main__":
    main()
