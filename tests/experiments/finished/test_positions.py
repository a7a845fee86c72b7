"""Loss by position: averages to the loss, of the runs that were best, from the weights that they kept."""

import numpy as np
import pandas as pd
import pytest

from isoflop.experiments.compose.compose import compose_all
from isoflop.experiments.config import StudySpec, WhereSpec, WindowSpec
from isoflop.experiments.finished.positions import COLUMNS, best_runs, positions, positions_text, write_positions
from isoflop.experiments.store.models import evaluation_file, weights_file
from isoflop.experiments.store.store import StoreError, create_store
from isoflop.experiments.sweep.launch import load
from isoflop.experiments.sweep.train_job import train_claimed, work_of
from isoflop.scaling.table.runs import read_runs

DATA = [
    "data=synthetic", "data.synthetic={vocab_size: 16, tokens: 40000, chains: 50}", "data.context_length=16",
    "data.eval_tokens=1600", "data.max_epochs=99", "schedule.warmup_steps=5",
]  # fmt: skip
ARMS = {"transformer": {"study": {"sizes": ["d8", "d12"]}}, "lstm": {"study": {"sizes": ["lstm-d20"]}}}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(store, folder of corpora, run table) of a small study of two arms."""
    root = tmp_path_factory.mktemp("positions")
    (spec,) = compose_all([*DATA, f"where.corpora={root / 'corpora'}", f"runs={root / 'runs'}"])
    spec.study = StudySpec(name="s", budgets=[2e8, 4e8], window=WindowSpec(min_steps=1), arms=ARMS)
    study, corpora = load(spec)
    store = create_store(spec.runs)
    for cells in study.trunks.values():
        train_claimed(work_of(study, cells, WhereSpec()), corpora, store, WhereSpec())
    return store, root / "corpora", read_runs(store.root)


def test_each_arms_best_run_at_each_budget_agrees_with_its_final_loss(trained):
    store, corpora, table = trained
    found = positions(table, store, corpora)
    assert list(found.columns) == list(COLUMNS)
    final = best_runs(table).set_index("run_id")
    assert len(final) == 4
    means = found.groupby("run_id")["loss"].mean()
    pd.testing.assert_series_equal(means, final["loss"].loc[means.index], rtol=1e-5, check_names=False)
    assert set(found.groupby(["arm", "budget"]).size()) == {16}


@pytest.mark.parametrize("name", ["new/p.parquet", "new/p.csv"])
def test_every_position_is_written_into_a_folder_that_is_made(tmp_path, name):
    found = pd.DataFrame([["r", "a", "lstm", 8, 1e9, 1, 2.5]], columns=COLUMNS)
    write_positions(found, tmp_path / name)
    read = pd.read_parquet if name.endswith("parquet") else pd.read_csv
    pd.testing.assert_frame_equal(read(tmp_path / name), found)
    assert len(list((tmp_path / "new").iterdir())) == 1


def test_text_has_a_line_per_arm_and_budget_and_doubling_spans(trained):
    text = positions_text(positions(trained[2], *trained[:2]))
    head, *lines = text.splitlines()[1:]
    assert head.split()[3:] == ["1", "2", "3-4", "5-8", "9-16"]
    assert len(lines) == 4


def test_spans_are_means_of_their_positions():
    flat = {"run_id": "r", "arm": "a", "family": "lstm", "d_model": 8, "budget": 1e9}
    losses = np.arange(1.0, 9.0)
    text = positions_text(pd.DataFrame({**flat, "position": range(1, 9), "loss": losses}))
    assert text.splitlines()[-1].split()[3:] == ["1.000", "2.000", "3.500", "6.500"]


@pytest.mark.slow
def test_a_run_that_kept_no_evaluation_is_measured_again_to_the_same_losses(trained):
    store, corpora, table = trained
    kept = positions(table, store, corpora)
    for run_id in table["run_id"].unique():
        evaluation_file(store, run_id).unlink()
    again = positions(table, store, corpora)
    pd.testing.assert_frame_equal(kept, again, rtol=1e-6)
    assert evaluation_file(store, again["run_id"].iloc[0]).exists()


def test_runs_without_evaluation_and_weights_are_refused_with_the_remedy(trained):
    store, corpora, table = trained
    files = [f(store, run_id) for run_id in table["run_id"].unique() for f in (weights_file, evaluation_file)]
    for path in [path for path in files if path.exists()]:
        path.rename(path.with_suffix(".away"))
    with pytest.raises(StoreError, match="none of the 4 best runs kept its weights; train them again"):
        positions(table, store, corpora)
    for path in files:
        if (away := path.with_suffix(".away")).exists():
            away.rename(path)
