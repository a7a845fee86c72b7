"""Runs are paired where they were measured on one text and answered one set of questions, and refused elsewhere."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from isoflop.experiments.finished import compare as module
from isoflop.experiments.finished.compare import compare
from isoflop.experiments.finished.lm_eval import TaskRequest


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Makes a run measured on some text that answered some questions: eight windows, four items."""

    def items(folder):
        values = [1.0, 0.0, 1.0, float(folder.name == "b")]
        return pd.DataFrame({"task": "t", "metric": "acc", "item": range(4), "value": values})

    def make(run_id, eval_id="e", items_id="q"):
        final = dict.fromkeys(("n_params_total", "tokens", "loss", "loss_se", "bits_per_byte", "accuracy"), 1.0)
        store = SimpleNamespace(run_file=lambda name: tmp_path / name / "run.parquet")
        requested = pd.DataFrame([{
            "task": "t", "metric": "acc", "value": 0.5, "stderr": 0.2, "items": 4, "chance": np.nan,
            "items_id": items_id, "higher_is_better": True,
        }])  # fmt: skip
        known = {"run_id": run_id, "arm": "", "eval_id": eval_id}
        return SimpleNamespace(run_id=run_id, final=final | known, store=store, requested=requested)

    def evaluation(one, _corpora):
        losses = np.arange(8) / 10 + (one.run_id == "b")
        return pd.DataFrame(
            {"run_id": one.run_id, "measure": "window", "number": range(8), "targets": 32, "loss": losses}
        )

    monkeypatch.setattr(module, "evaluation_of", evaluation)
    monkeypatch.setattr(module, "check", lambda request: None)
    monkeypatch.setattr(module, "score", lambda one, request, **_: one.requested)
    monkeypatch.setattr(module, "read_items", items)
    return make


TASKS = TaskRequest(("t",), 4)


def test_runs_on_one_text_are_paired(run, tmp_path):
    (pair,) = compare([run("a"), run("b")], TASKS, corpora=tmp_path)["pairs"]
    assert pair["loss"]["difference"] == pytest.approx(1.0)
    assert pair["scores"][0]["difference"] == pytest.approx(0.25)


def test_runs_on_different_text_of_equal_sizes_are_not_paired(run, tmp_path):
    with pytest.raises(ValueError, match=r"runs a and b were measured on different held-out text \(eval_id e and f\)"):
        compare([run("a"), run("b", eval_id="f")], None, corpora=tmp_path)


def test_answers_to_different_questions_are_not_paired(run, tmp_path):
    with pytest.raises(ValueError, match=r"a and b answered different questions of task t \(items_id q and r\)"):
        compare([run("a"), run("b", items_id="r")], TASKS, corpora=tmp_path)
