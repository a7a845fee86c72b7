"""A finished run measured again: its corpus, and the evaluation of a run that kept none."""

from pathlib import Path

import pandas as pd
import torch

from isoflop.experiments.config import saved_data
from isoflop.experiments.data.batches import Corpus
from isoflop.experiments.data.corpus import prepare
from isoflop.experiments.store.models import Trained, evaluation_file
from isoflop.experiments.store.store import StoreError
from isoflop.experiments.training.evaluate import detail, evaluate
from isoflop.models.step.training_step import choose
from isoflop.scaling.table.evaluations.evaluation import read_evaluation, write_evaluation


def corpus_of(trained: Trained, corpora: Path) -> Corpus:
    """The corpus that a run was measured on, prepared again if it is gone.

    Raises StoreError where the folder of corpora is not there, or the text has changed since.
    """
    if not corpora.is_dir():
        raise StoreError(
            f"--corpora {corpora}: no such folder, and run {trained.run_id} is measured on its corpus; name the "
            "where.corpora of its study, or make the folder to have the corpus prepared there"
        )
    corpus = prepare(saved_data(trained.config["data"]), corpora)
    if corpus.eval_id != trained.final["eval_id"]:
        raise StoreError(
            f"run {trained.run_id} was measured on windows {trained.final['eval_id']}, the corpus at {corpus.folder} "
            f"now has {corpus.eval_id}: its files have changed"
        )
    return corpus


def evaluation_of(trained: Trained, corpora: Path) -> pd.DataFrame:
    """The rows (`evaluation.NAMES`) that a run kept; one that kept none is measured again, and keeps them."""
    path = evaluation_file(trained.store, trained.run_id)
    if not path.exists():
        corpus = corpus_of(trained, corpora)
        windows = torch.from_numpy(corpus.eval_windows.astype("int64"))
        write_evaluation(path, detail(trained.run_id, evaluate(choose(trained.model), windows), corpus))
    return read_evaluation(path)
