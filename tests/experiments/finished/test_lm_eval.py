"""lm-eval on exported runs: scores that go with the loss, kept beside the runs; the example tasks; refusals."""

import json

import duckdb
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from isoflop.__main__ import app
from isoflop.experiments.config import (
    BudgetSpec,
    DataSpec,
    ExperimentConfig,
    ModelSpec,
    OptimSpec,
    ScheduleSpec,
    StudySpec,
    WhereSpec,
    WindowSpec,
)
from isoflop.experiments.finished.tasks import TASKS
from isoflop.experiments.store.store import create_store
from isoflop.experiments.sweep.launch import load
from isoflop.experiments.sweep.train_job import train_claimed, work_of
from isoflop.scaling.table.columns import TableError
from isoflop.scaling.table.evaluations.task_scores import (
    ITEMS,
    SCORES,
    paired_score,
    read_items,
    read_scores,
    with_score,
    write_scores,
)
from isoflop.scaling.table.runs import read_runs
from tests.support.root import ROOT
from tests.support.session import session

LINES = ["alpha beta is one\n", "gamma delta two\n", "epsilon for three\n", "zeta has four\n", "eta and five\n"]
EXAMPLES = {
    "translation": [{"source": "Guten Morgen.", "target": "Good morning."}],
    "question_answering": [{"passage": "Ada met Max.", "question": "Whom did Ada meet?", "answer": "Max"}],
    "named_entities": [{"sentence": "Ada met Max in Oslo.", "entity": "Oslo", "kind": 2}],
    "sentiment": [{"text": "I would buy it again.", "label": 1}],
}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Two runs of one trunk, a short one and a long one, on texts whose next line is determined; and an LSTM."""
    root = tmp_path_factory.mktemp("downstream")
    rng = np.random.default_rng(0)
    (root / "texts").mkdir()
    for i in range(16):
        at = rng.integers(5)
        (root / "texts" / f"{i}.txt").write_text("".join(LINES[(at + j) % 5] for j in range(100)) + f"{i}\n")
    spec = ExperimentConfig(
        model=ModelSpec(n_layer=2, d_model=24, n_head=3),
        data=DataSpec(name="t", source="files", files=[f"{root}/texts/*.txt"], eval_tokens=2048, held_out_fraction=0.4,
                      max_epochs=1e4),
        optim=OptimSpec(batch_size=8), schedule=ScheduleSpec(warmup_steps=5),
        study=StudySpec(name="s", sizes=["d16"], budgets=[5e8, 4e9], window=WindowSpec(min_steps=1)),
        where=WhereSpec(corpora=str(root / "corpora")), runs=str(root / "runs"),
    )  # fmt: skip
    study, corpora = load(spec)
    opened = create_store(spec.runs)
    for cells in study.trunks.values():
        train_claimed(work_of(study, cells, spec.where), corpora, opened, spec.where)
    spec.study, spec.budget = StudySpec(), BudgetSpec(tokens=20_000)
    spec.model = ModelSpec(family="lstm", n_layer=1, d_model=16)
    lstm, _ = load(spec)
    train_claimed(work_of(lstm, lstm.cells, spec.where), corpora, opened, spec.where)
    ids = [cell.run_id for cell in (*sorted(study.cells, key=lambda c: c.steps), *lstm.cells)]
    opened.write_study("s", [{"run_id": run_id} for run_id in ids[:2]])
    return opened, ids


@pytest.fixture(scope="module")
def evaluated(store, tmp_path_factory, commands):
    """How two commands end, one after the other: on the package's tasks, then on the examples with files of a user."""
    opened, ids = store
    folder = tmp_path_factory.mktemp("examples")
    for name, examples in EXAMPLES.items():
        lines = [json.dumps(item) + "\n" for item in examples * 3]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    examples = ",".join(str(ROOT / "conf" / "task" / f"{name}.yaml") for name in EXAMPLES)
    options = ("--json", "--runs", opened.root, "--corpora", opened.root.parent / "corpora")
    lines = [
        ("evaluate", *ids[:2], "--tasks", ",".join(TASKS), "--items", 60, *options),
        ("evaluate", ids[1], "--tasks", examples, "--items", 3, *options),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.executable", str(commands.bin / "python"))
        return session(lines, cwd=folder)


@pytest.fixture(scope="module")
def found(evaluated):
    """What `isoflop evaluate SHORT LONG --tasks ...` answers."""
    assert evaluated[0].code == 0, evaluated[0].err
    return json.loads(evaluated[0].out)


@pytest.mark.process
@pytest.mark.slow
def test_the_run_with_the_lower_loss_scores_higher_on_the_next_line(found):
    short, long = found["runs"]
    assert long["loss"] < short["loss"] - 0.1
    (pair,) = found["pairs"]
    assert pair["loss"]["difference"] == pytest.approx(long["loss"] - short["loss"], abs=1e-6)
    for score in pair["scores"]:
        assert score["verdict"] in ("goes with the loss", "within error")
    (next_line,) = [s for s in pair["scores"] if (s["task"], s["metric"]) == ("next_line", "acc_norm")]
    assert next_line["verdict"] == "goes with the loss"
    assert next_line["difference"] > 0.1
    assert {s["chance"] for run in found["runs"] for s in run["scores"]} == {0.25}


@pytest.mark.process
def test_scores_are_kept_beside_the_runs_and_are_means_of_their_items(store, found):
    opened, ids = store
    scores = read_scores(opened.root).query("task in @TASKS")
    assert set(scores["run_id"]) == set(ids[:2])
    assert list(scores) == [c.name for c in SCORES]
    items = duckdb.sql(
        f"select run_id, task, metric, avg(value) as value, count(*) as items "
        f"from '{opened.root}/cells/*/downstream_items.parquet' group by all"
    ).df()
    both = scores.merge(items, on=["run_id", "task", "metric"], suffixes=("", "_of_items"))
    assert len(both) == len(scores) == 8
    np.testing.assert_allclose(both["value"], both["value_of_items"])
    p, n = both["value"], both["items"]
    np.testing.assert_allclose(both["stderr"], np.sqrt(p * (1 - p) / (n - 1)), rtol=1e-6)
    assert scores.groupby("task")["items_id"].nunique().eq(1).all()
    table = with_score(read_runs(opened.root), opened.root, "next_line")
    assert set(table["run_id"]) == set(ids[:2])
    assert "1 runs without it are left out" in table.attrs["notes"]


@pytest.mark.process
@pytest.mark.slow
def test_the_example_tasks_run_on_a_users_own_files_and_leave_other_scores_alone(store, evaluated):
    opened, ids = store
    code, out, err = evaluated[1]
    assert code == 0, err
    scores = {score["task"]: score for score in json.loads(out)["runs"][0]["scores"]}
    assert set(scores) == set(EXAMPLES)
    assert {score["items"] for score in scores.values()} == {3}
    assert all(0 <= score["value"] <= 100 for score in scores.values())
    assert {name: scores[name]["chance"] for name in EXAMPLES} == {
        "translation": None, "question_answering": None, "named_entities": 0.25, "sentiment": 0.5
    }  # fmt: skip
    kept = read_scores(opened.root)
    assert {*EXAMPLES, *TASKS} == set(kept.loc[kept["run_id"] == ids[1], "task"])


def here(store, *arguments):
    """(exception or None, output) of `isoflop evaluate` in this process, which loads no lm-eval."""
    options = ["--runs", str(store.root), "--corpora", str(store.root.parent / "corpora")]
    result = CliRunner().invoke(app, ["evaluate", *arguments, *options])
    return result.exception, result.output


def test_a_mistyped_task_a_missing_file_and_a_model_without_a_class_are_refused(store):
    opened, ids = store
    error, _ = here(opened, ids[0], "--tasks", "next-lin")
    assert "--tasks next-lin: not known; did you mean next_line?" in str(error)
    error, _ = here(opened, ids[0], "--tasks", "nowhere.yaml")
    assert "--tasks nowhere.yaml: no such file; the examples are in" in str(error)
    error, _ = here(opened, ids[2], "--tasks", "next_line")
    assert f"run {ids[2]} is a lstm that transformers has no class for" in str(error)


def test_lm_eval_that_is_not_installed_is_named(store, monkeypatch):
    opened, ids = store
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    error, _ = here(opened, ids[0], "--tasks", "next_line")
    assert "pip install 'isoflop[evaluate]'" in str(error)


@pytest.mark.slow
def test_without_tasks_losses_are_paired_and_a_study_is_listed(store):
    opened, ids = store
    error, out = here(opened, *ids[:2])
    assert error is None
    assert f"run {ids[1]} less run {ids[0]}: loss -" in out
    assert "documents" in out
    _, out = here(opened, "--study", "s", "--json")
    assert {run["run_id"] for run in json.loads(out)["runs"]} == set(ids[:2])
    assert "name a run" in str(here(opened)[0])
    assert "no study 't'; there are s" in str(here(opened, "--study", "t")[0])


def made(run_id, values, task="t", metric="acc", items_id="x"):
    items = pd.DataFrame(
        {"run_id": run_id, "task": task, "metric": metric, "item": range(len(values)), "value": values}
    )
    row = {c.name: "x" for c in SCORES} | {"run_id": run_id, "task": task, "metric": metric, "higher_is_better": True}
    row |= {"items_id": items_id, "value": float(np.mean(values)), "stderr": 0.1, "items": len(values), "chance": 0.25}
    return pd.DataFrame([row]), items[[c.name for c in ITEMS]]


def test_scoring_again_replaces_a_task_and_keeps_the_others(tmp_path):
    folder = tmp_path / "cells" / "a"
    write_scores(folder, *made("a", [0.0, 1.0]))
    write_scores(folder, *made("a", [1.0], task="u"))
    write_scores(folder, *made("a", [1.0, 1.0]))
    scores = read_scores(tmp_path).set_index("task")
    assert scores["value"].to_dict() == {"u": 1.0, "t": 1.0}
    assert len(read_items(folder)) == 3


@pytest.mark.process
def test_scores_are_paired_over_the_same_items_alone(tmp_path):
    a, b = made("a", [1.0, 0, 1, 1])[1], made("b", [0.0, 0, 1, 0])[1]
    found = paired_score(a, b, "t", "acc")
    assert (found.difference, found.units) == (0.5, 4)
    assert paired_score(a, b.head(3), "t", "acc") is None
    assert paired_score(a, b, "t", "bleu") is None


def test_scores_over_different_questions_are_no_column(tmp_path, study_table):
    ids = study_table["run_id"].unique()[:4]
    for k, run_id in enumerate(ids):
        write_scores(tmp_path / "cells" / run_id, *made(run_id, [0.0, 1.0], items_id=f"q{k % 2}"))
    with pytest.raises(TableError, match=r"2 sets of questions of task 't': 2 runs 2 questions \(items_id q0\), 2"):
        with_score(study_table, tmp_path, "t")
    one = study_table[study_table["run_id"].isin(ids[::2])]
    assert set(with_score(one, tmp_path, "t")["run_id"]) == set(ids[::2])


def test_a_table_without_the_score_says_how_to_make_it(tmp_path, study_table):
    with pytest.raises(TableError, match="no run has a score on task 'next_line'; isoflop evaluate RUN_ID --tasks"):
        with_score(study_table, tmp_path, "next_line")
    write_scores(tmp_path / "cells" / "a", *made("a", [1.0]))
    with pytest.raises(TableError, match="no run has a score on task 'tt'; did you mean 't'"):
        with_score(study_table, tmp_path, "tt")
    with pytest.raises(TableError, match="none of the"):
        with_score(study_table, tmp_path, "t")
