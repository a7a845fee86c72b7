"""Which form tells published runs of repeated text best, and with how many parameters?

python -m tests.proofs.verdicts.repeats (needs ISOFLOP_PUBLIC_DATA): the 182 runs of Muennighoff et al. 2023, whose
vocabulary has 50257 tokens, with their Huber's delta of .001. Their published constants: .0158047. Seconds of a core.
"""

import os
from pathlib import Path

import pandas as pd

from isoflop.scaling.fitting.fit import Huber, fit

PUBLISHED = 0.0158047


def main() -> None:
    """Print the objective of each form."""
    if "ISOFLOP_PUBLIC_DATA" not in os.environ:
        raise SystemExit("the runs are public data: set ISOFLOP_PUBLIC_DATA")
    table = Path(os.environ["ISOFLOP_PUBLIC_DATA"]) / "datablations" / "fit182.csv"
    runs = pd.read_csv(table).assign(vocab_size=50257)
    for name in ("data-constrained", "repeated-tied", "repeated"):
        found = fit(name, runs, objective=Huber(1e-3))
        print(f"{name:<17} {len(found.free)} parameters, objective {found.value:.6f} (bar {PUBLISHED})", flush=True)


if __name__ == "__main__":
    main()
