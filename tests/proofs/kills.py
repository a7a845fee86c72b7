"""SIGKILL at random moments over sweeps of 12 cells: python -m tests.proofs.kills [kills] [seed]

A victim is drawn each time among the launching process and its workers, at a moment drawn over half of what an
undisturbed sweep takes: while Hydra starts, a worker imports, a trunk trains, a checkpoint or a result is written.
What died is launched again with the same command. A sweep that ends before all kills are spent is compared with the
undisturbed one, to the bit, and the next one begins.
"""

import sys
import tempfile
from pathlib import Path

from tests.support.sweep.kills import N_CELLS, torture, undisturbed
from tests.support.texts import write_texts


def main(kills: int = 100, seed: int = 0) -> None:
    """Kill so many times, and print what it took; raises AssertionError if anything was lost."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_texts(folder / "text", files=20, words=2000)
        whole, seconds = undisturbed(folder)
        print(f"undisturbed: {N_CELLS} cells, {len(whole)} rows, {seconds:.1f} s", flush=True)
        toll = torture(folder, kills, seed=seed, whole=whole, pause=seconds / 2)
    print(
        f"{toll.kills} kills ({toll.parents} of the parent, {toll.workers} of workers) over {toll.sweeps} sweeps of "
        f"{N_CELLS} cells in {toll.seconds:.0f} s: {toll.launches} launches, {toll.attempts} attempts at "
        f"{toll.sweeps * N_CELLS} cells"
    )
    print("cells by state, summed over the kills: " + ", ".join(f"{n} {state}" for state, n in toll.states.items()))
    print("every table equal to the undisturbed one to the bit, no cell lost, none trained again once it was done")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
