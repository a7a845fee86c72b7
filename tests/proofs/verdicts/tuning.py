"""Do tunings of simulated sweeps hold their optimum as often as they say, and lose how little?

python -m tests.proofs.verdicts.tuning [--kind KIND ...] [--sweeps N] [--raw FILE]

Sweeps of rate, batch and weight decay with a known optimum (tests/support/fits/tuned_sweeps.py): noise of 1% on every
run, cells and runs missing, optima outside the rates tried. A line of JSON per sweep is added to --raw, so that an
interrupted proof goes on; delete the file after a change of the code.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from scipy.stats import beta

from isoflop.scaling.tuning.sweep import NoOptimumError
from tests.support.fits.tuned_sweeps import KINDS, outcome

BAR, MOST_LOST = (0.86, 0.96), 0.0025


def simulate(kind: str, sweeps: int, raw: Path) -> list[dict]:
    """The outcomes of the first sweeps of a kind; those in the file are not made again."""
    known = [json.loads(line) for line in raw.read_text().splitlines()] if raw.exists() else []
    found = {row["sweep"]: row for row in known if row["kind"] == kind and row["sweep"] < sweeps}
    for sweep in sorted({*range(sweeps)} - {*found}):
        row = {"kind": kind, "sweep": sweep, "holds": None, "regret": None, "edges": None}
        try:
            one = outcome(kind, sweep)
            row |= {"holds": one.holds, "regret": one.regret, "edges": one.edges}
        except NoOptimumError:
            pass  # every cell at an edge: refused
        found[sweep] = row
        with raw.open("a") as file:
            file.write(json.dumps(row) + "\n")
    return list(found.values())


def report(kind: str, rows: list[dict]) -> None:
    """Print the coverage of each part of the optimum with its binomial 95% interval, and the regret."""
    answered = [row for row in rows if row["holds"] is not None]
    for part in dict.fromkeys(part for row in answered for part in row["holds"]):
        held = [row["holds"][part] for row in answered if part in row["holds"]]
        k, n = sum(held), len(held)
        lo, hi = (beta.ppf(0.025, k, n - k + 1) if k else 0.0), (beta.ppf(0.975, k + 1, n - k) if k < n else 1.0)
        print(f"{kind}: {part} held in {k / n:.3f} of {n} ({lo:.3f} to {hi:.3f}; bar {BAR[0]} to {BAR[1]})")
    lost = [row["regret"] for row in answered]
    edges = np.mean([row["edges"] for row in answered])
    print(
        f"{kind}: regret median {np.median(lost):.4%} (bar {MOST_LOST:.2%}), 90% below {np.quantile(lost, 0.9):.4%}; "
        f"{edges:.1f} cells at an edge; {len(rows) - len(answered)} of {len(rows)} sweeps refused",
        flush=True,
    )


def main() -> None:
    """Simulate what is missing and print the summary."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", action="append", choices=list(KINDS))
    parser.add_argument("--sweeps", type=int, default=200)
    parser.add_argument("--raw", type=Path, default=Path("build/tuning.jsonl"))
    given = parser.parse_args()
    given.raw.parent.mkdir(parents=True, exist_ok=True)
    for kind in given.kind or list(KINDS):
        report(kind, simulate(kind, given.sweeps, given.raw))


if __name__ == "__main__":
    main()
