"""Slow proofs of suggested cells and of speed on simulated truths: python -m tests.proofs.decisions [NAME ...]

Each prints its measured figures and the bar. The same simulations run small in the test suite.
"""

import sys
import time
from collections.abc import Callable

import numpy as np

from isoflop.scaling.design.planning import plan_from_table
from isoflop.scaling.design.simulate import simulate_points
from isoflop.scaling.selection.scoreboard import compare
from tests.support.fits.decision_checks import BLOCK, FIRST_SEED, suggestion
from tests.support.fits.simulated import BESIROGLU, isoflop_table


def prove_suggest(repeats: int = 10 * BLOCK) -> None:
    """Spread of N* after suggested cells against that after an isoFLOP grid of the same cost."""
    for tau in (0.0, 0.001):
        found = suggestion(repeats=repeats, tau=tau)
        rounded = {k: [round(x, 3) for x in v] if isinstance(v, list) else float(f"{v:.3g}") for k, v in found.items()}
        print(f"planned with discrepancy {tau:g}, seeds from {FIRST_SEED}:", rounded)
    print(f"(bars: ratio of the first {BLOCK} repeats at most .5; predicted within 30% of realised)")


def prove_speed() -> None:
    """Seconds of a comparison of laws and of a suggestion."""
    rng = np.random.default_rng(0)
    sizes = np.exp(rng.uniform(np.log(5e7), np.log(1e10), 250))
    table = simulate_points(BESIROGLU, sizes, sizes * np.exp(rng.uniform(1.5, 5.7, 250)), noise=0.005, seed=0)
    laws = ("chinchilla", "chinchilla-kappa", "chinchilla-tied", "chinchilla-no-floor", "kaplan", "saturating",
            "power", "power-n")  # fmt: skip
    began, cpu = time.monotonic(), time.process_time()
    board = compare(table, laws)
    print(f"compare, {len(board.entrants)} laws x {len(board.origins)} origins x 250 runs: "
          f"{time.monotonic() - began:.1f} s, {time.process_time() - cpu:.1f} s of CPU (bar 5)")  # fmt: skip
    began, cpu = time.monotonic(), time.process_time()
    plan_from_table(isoflop_table(BESIROGLU, seed=0), budget=1e20, target=1e22)
    print(f"suggest: {time.monotonic() - began:.1f} s, {time.process_time() - cpu:.1f} s of CPU (bar 10)")


PROOFS: dict[str, Callable[[], None]] = {
    "suggest": prove_suggest,
    "speed": prove_speed,
}


def main(names: list[str]) -> None:
    """Run the proofs of these names, or all."""
    for name in names or list(PROOFS):
        began = time.monotonic()
        PROOFS[name]()
        print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
