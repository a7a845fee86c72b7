"""Studies of mixtures through the real command: two workers against one, killed workers and parents, exact counts."""

import os
import signal

import pytest

from isoflop.experiments.data.batches import Mixture, window_numbers
from isoflop.experiments.data.domains.interleave import BLOCK, counts
from isoflop.experiments.store.store import open_store
from isoflop.scaling.table.runs import final_rows, read_runs, same_runs
from tests.support.sweep.process import finish, start, worker_at_work
from tests.support.texts import write_texts

pytestmark = pytest.mark.process
CONTEXT, BATCH = 64, 8
SHARES = {"one": (0.25, 0.6), "other": (0.75, 0.4)}
STUDY = (
    "study.sizes=[d8,d12]", "study.mixtures.shares=[{one:0.25,other:0.75},{one:0.6,other:0.4}]",
    "data.domains={one:[text/one/*.txt],other:[text/other/*.txt]}", "data.files=[]", "data.source=files",
    f"data.context_length={CONTEXT}", f"optim.batch_size={BATCH}",
)  # fmt: skip
ALONE = "where.workers=1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixtures")
    (folder / "text").mkdir()
    for name, words in (("one", 800), ("other", 350)):
        write_texts(folder / "text" / name, files=20, words=words)
    return folder


@pytest.fixture(scope="module")
def undisturbed(folder, commands):
    finish(start(folder, "undisturbed", *STUDY, ALONE, commands=commands))
    return read_runs(folder / "undisturbed")


def test_every_cell_read_exact_counts_of_every_domain(undisturbed):
    last = final_rows(undisturbed)
    assert len(last) == 8
    windows = {name: int(last[f"unique_tokens_{name}"].iloc[0]) // CONTEXT for name in SHARES}
    first = windows["one"]
    for row in last.itertuples():
        shares = tuple(getattr(row, f"weight_{name}") for name in SHARES)
        read = window_numbers(0, seed=row.seed, size=(row.n_layer, row.d_model), step=0, count=row.step,
                              batch_size=BATCH, mixture=Mixture(shares, tuple(windows.values()))).ravel()  # fmt: skip
        exact = [int((read[: len(read) // BLOCK * BLOCK] < first).sum()), int((read < first).sum())]
        whole = counts(shares, len(read) // BLOCK * BLOCK)
        assert exact[0] == whole[0]
        assert exact[1] - exact[0] <= len(read) % BLOCK
        for name, n in zip(SHARES, counts(shares, len(read)), strict=True):
            assert getattr(row, f"epochs_{name}") == n / windows[name]


@pytest.mark.slow
def test_after_a_killed_worker_and_a_killed_parent_two_workers_leave_the_table_of_one(folder, undisturbed, commands):
    process = start(folder, "killed", *STUDY, commands=commands)
    os.kill(worker_at_work(folder, "killed", process), signal.SIGKILL)
    worker_at_work(folder, "killed", process)
    process.kill()
    process.communicate()
    assert "8 cells: 8 done" in finish(start(folder, "killed", *STUDY, commands=commands))
    assert same_runs(read_runs(folder / "killed"), undisturbed)
    assert open_store(folder / "killed").states()["attempts"].max() >= 2
