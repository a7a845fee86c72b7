"""The evaluation that a run keeps: by position, by document, paired between runs."""

from types import SimpleNamespace

import duckdb
import numpy as np
import pandas as pd
import pytest
import torch

from isoflop.experiments.config import DataSpec, ExperimentConfig, ScheduleSpec, StudySpec, WhereSpec, WindowSpec
from isoflop.experiments.data.corpus import prepare
from isoflop.experiments.data.shards import DOCUMENTS
from isoflop.experiments.finished.remeasure import corpus_of
from isoflop.experiments.store.models import evaluation_file, find_trained
from isoflop.experiments.store.sample import sample, sample_file
from isoflop.experiments.store.store import StoreError, create_store
from isoflop.experiments.sweep.launch import load
from isoflop.experiments.sweep.progress import closing_table
from isoflop.experiments.sweep.train_job import train_claimed, work_of
from isoflop.experiments.training.evaluate import detail, evaluate
from isoflop.models import build_model
from isoflop.models.config import ModelConfig
from isoflop.models.parametrization import initialize
from isoflop.models.step.training_step import choose
from isoflop.scaling.table.evaluations.evaluation import NAMES, paired, paired_loss, read_evaluation
from isoflop.scaling.table.runs import RunTableError


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """A folder of thirty short files, and the data set of them."""
    root = tmp_path_factory.mktemp("texts")
    for i in range(30):
        (root / f"{i}.txt").write_text("".join(f"{i}.{j} {j * j % 89}, " for j in range(60 + 7 * i)))
    return DataSpec(
        name="t", source="files", files=[f"{root}/*.txt"], eval_tokens=2048, held_out_fraction=0.4, context_length=32
    )


@pytest.fixture(scope="module")
def corpus(texts, tmp_path_factory):
    return prepare(texts, tmp_path_factory.mktemp("corpora"))


@pytest.fixture(scope="module", params=["transformer", "lstm"])
def evaluated(request, corpus):
    model = initialize(build_model(ModelConfig(request.param, 256, 32, 1, 16, 2)), 0)
    with torch.no_grad():
        model.head.normal_(generator=torch.Generator().manual_seed(1))
    return evaluate(choose(model), torch.from_numpy(corpus.eval_windows.astype("int64")))


def of(rows, measure):
    return rows[rows["measure"] == measure].set_index("number")


def test_both_cuts_average_to_the_loss_and_the_accuracy(corpus, evaluated):
    rows = detail("r", evaluated, corpus)
    assert list(rows) == list(NAMES)
    for measure in ("position", "document"):
        cut = of(rows, measure)
        assert cut["targets"].sum() == corpus.eval_windows[:, 1:].size
        for column in ("loss", "accuracy"):
            assert np.average(cut[column], weights=cut["targets"]) == pytest.approx(
                getattr(evaluated, column), rel=1e-6
            )
    assert list(of(rows, "position").index) == list(range(1, 33))


def test_a_documents_loss_is_that_of_its_own_targets(corpus, evaluated):
    """By the text itself: every document says its number in a way that no other does."""
    rows = of(detail("r", evaluated, corpus), "document")
    ends = np.fromfile(corpus.folder / DOCUMENTS, "<i8")
    assert ends[-1] == corpus.held_out_tokens
    whole = bytes(corpus.held_out.astype(np.uint8))
    starts = [
        whole.find(bytes(window.astype(np.uint8))) for window in corpus.eval_windows
    ]  # the windows are distinct pieces
    losses = {}
    for start, nats in zip(starts, evaluated.nats.tolist(), strict=True):
        for k, value in enumerate(nats):
            document = sum(start + 1 + k >= end for end in ends)
            losses.setdefault(document, []).append(value)
    assert sorted(losses) == list(rows.index)
    assert len(losses) > 5
    for document, values in losses.items():
        assert rows["targets"][document] == len(values)
        assert rows["loss"][document] == pytest.approx(np.mean(values), rel=1e-6)


def test_a_corpus_without_documents_is_cut_by_window(corpus, evaluated, tmp_path):
    bare = type(corpus)(**{**vars(corpus), "folder": tmp_path})
    rows = of(detail("r", evaluated, bare), "window")
    assert len(rows) == len(corpus.eval_windows)
    np.testing.assert_allclose(rows["loss"], evaluated.nats.double().mean(1), rtol=1e-6)


def test_pairing_sees_a_difference_that_the_losses_alone_do_not(corpus):
    rng = np.random.default_rng(0)
    hard = rng.normal(2.0, 0.5, 200)
    rows = pd.DataFrame({"run_id": "a", "measure": "document", "number": range(200), "targets": 50, "accuracy": 0.5})
    a = rows.assign(loss=hard + rng.normal(0, 0.02, 200))
    b = rows.assign(loss=hard + rng.normal(0.01, 0.02, 200), run_id="b")
    found = paired_loss(a, b)
    assert not found.within_error
    assert found.se < 0.1 * hard.std() / 200**0.5
    assert "over 200 documents" in str(found)
    assert "within two standard errors" in str(paired_loss(a, a))
    with pytest.raises(ValueError, match="runs a and b were measured on different held-out text"):
        paired_loss(a, b.head(100))


def test_the_error_of_a_paired_mean_is_right_and_uneven_documents_weigh_by_their_targets():
    rng = np.random.default_rng(1)
    weights = rng.integers(1, 200, 60).astype(float)
    found = [paired(rng.normal(0.0, 1.0, 60), weights, unit="document") for _ in range(2000)]
    z = np.array([f.difference / f.se for f in found])
    assert 0.9 < z.std() < 1.15
    assert paired(np.array([1.0, 3.0]), np.array([3.0, 1.0]), unit="x").difference == 1.5
    even = paired(np.array([1.0, 3.0, 4.0]), np.full(3, 7.0), unit="x")
    assert even.se == pytest.approx(np.std([1, 3, 4], ddof=1) / np.sqrt(3))


@pytest.fixture(scope="module")
def trained(texts, tmp_path_factory):
    """A store with two runs on the texts, and its folder of corpora."""
    root = tmp_path_factory.mktemp("runs")
    spec = ExperimentConfig(
        data=texts, schedule=ScheduleSpec(warmup_steps=3), runs=str(root / "runs"),
        study=StudySpec(name="s", sizes=["d6"], budgets=[1e8, 3e8], window=WindowSpec(min_steps=1)),
        where=WhereSpec(corpora=str(root / "corpora")),
    )  # fmt: skip
    spec.data.max_epochs = 1e3
    study, corpora = load(spec)
    store = create_store(spec.runs)
    for cells in study.trunks.values():
        train_claimed(work_of(study, cells, spec.where), corpora, store, spec.where)
    return [find_trained(store, cell.run_id) for cell in study.cells], root / "corpora"


def test_every_run_keeps_its_evaluation_where_duckdb_finds_it(trained):
    runs, _ = trained
    root = runs[0].store.root
    sql = f"select run_id, sum(loss * targets) / sum(targets) as loss from '{root}/cells/*/evaluation.parquet' "
    found = duckdb.sql(sql + "where measure = 'document' group by run_id").df().set_index("run_id")["loss"]
    assert len(found) == 2
    for run in runs:
        assert found[run.run_id] == pytest.approx(run.final["loss"], rel=1e-6)
        assert read_evaluation(evaluation_file(run.store, run.run_id))["loss"].notna().all()


def test_every_run_keeps_what_its_model_says_to_a_fixed_prompt(trained):
    runs, corpora = trained
    for run in runs:
        corpus = corpus_of(run, corpora)
        text = sample_file(run.store, run.run_id).read_text(encoding="utf-8")
        assert text == sample(run.model, corpus, run.tokenizer) + "\n"
        assert text.startswith(bytes(corpus.eval_windows[0][:8].astype(np.uint8)).decode())
        assert len(text) > 8 + 16


def test_a_run_of_one_cell_ends_with_its_text(trained):
    (run, other), _ = trained
    text = sample_file(run.store, run.run_id).read_text(encoding="utf-8")
    cells = [SimpleNamespace(run_id=r.run_id) for r in (run, other)]
    assert text in closing_table(run.store, cells[:1], 3.0)
    assert text not in closing_table(run.store, cells, 3.0)


def test_damage_and_changed_text_are_told(trained, tmp_path):
    (run, _), corpora = trained
    (tmp_path / "evaluation.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(RunTableError, match="not the evaluation of a run"):
        read_evaluation(tmp_path / "evaluation.parquet")
    other = type(run)(run.store, run.run_id)
    other.__dict__["final"] = run.final | {"eval_id": "elsewhere"}
    with pytest.raises(StoreError, match=r"measured on windows elsewhere, .* its files have changed"):
        corpus_of(other, corpora)
