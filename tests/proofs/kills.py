"""SIGKILL at random moments over sweeps of 12 cells: python -m tests.proofs.kills [kills] [seed]

A victim is drawn each time among the launching process and its workers, at a moment drawn over half of what an
undisturbed sweep takes: while Hydra starts, a worker imports, a trunk trains, a checkpoint or a result is written.
What died is launched again with the same command. A sweep that ends before all kills are spent is compared with the
undisturbed one, to the bit, and the next one begins. Then a study that stops by what it tells (`study.stop=decided`) is
killed twice, a worker and the parent, and has to decide the same.
"""

import os
import signal
import sys
import tempfile
from pathlib import Path

from isoflop.experiments.store.store import open_store
from isoflop.scaling.table.runs import read_runs, same_runs
from tests.support.sweep.kills import N_CELLS, torture, undisturbed
from tests.support.sweep.process import finish, start, worker_at_work
from tests.support.texts import write_texts

ALONE = "where.workers=1"  # no pool: the command itself trains
DECIDED = (
    "study.sizes=[d6,d8,d10,d12,d16]", "study.budgets=[1e9,2e9,5e9,2e10]", "study.window.min_steps=20",
    "study.stop=decided",
)  # fmt: skip


def decides_the_same(folder: Path) -> None:
    """Raise AssertionError unless a study that was killed twice stops its runs where the undisturbed one does."""
    reported = finish(start(folder, "whole", *DECIDED, ALONE))
    process = start(folder, "decided", *DECIDED)
    os.kill(worker_at_work(folder, "decided", process), signal.SIGKILL)
    worker_at_work(folder, "decided", process)
    process.kill()
    process.communicate()
    again = finish(start(folder, "decided", *DECIDED, ALONE))
    assert "cells stopped" in reported
    assert reported.splitlines()[-1] == again.splitlines()[-1]
    assert same_runs(read_runs(folder / "decided"), read_runs(folder / "whole"))
    states = [open_store(folder / name).states().set_index("run_id") for name in ("decided", "whole")]
    assert set(states[0]["state"]) == {"done", "stopped"}
    assert states[0][["state", "step"]].equals(states[1].loc[states[0].index, ["state", "step"]])


def main(kills: int = 100, seed: int = 0) -> None:
    """Kill so many times, and print what it took; raises AssertionError if anything was lost."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_texts(folder / "text", files=20, words=2000)
        whole, seconds = undisturbed(folder)
        print(f"undisturbed: {N_CELLS} cells, {len(whole)} rows, {seconds:.1f} s", flush=True)
        toll = torture(folder, kills, seed=seed, whole=whole, pause=seconds / 2)
        decides_the_same(folder)
    print(
        f"{toll.kills} kills ({toll.parents} of the parent, {toll.workers} of workers) over {toll.sweeps} sweeps of "
        f"{N_CELLS} cells in {toll.seconds:.0f} s: {toll.launches} launches, {toll.attempts} attempts at "
        f"{toll.sweeps * N_CELLS} cells"
    )
    print("cells by state, summed over the kills: " + ", ".join(f"{n} {state}" for state, n in toll.states.items()))
    print("every table equal to the undisturbed one to the bit, no cell lost, none trained again once it was done")
    print("a study that stops by what it tells decided the same after two kills")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
