"""What stays of a finished cell next to its rows: weights, held-out evaluation, sample and tokenizer."""

import shutil
from collections.abc import Callable
from dataclasses import replace

from isoflop.experiments.data.batches import Corpus
from isoflop.experiments.data.tokenizer import find_tokenizer
from isoflop.experiments.store.models import evaluation_file, tokenizers_folder, weights_file
from isoflop.experiments.store.sample import sample, sample_file
from isoflop.experiments.store.store import Store
from isoflop.experiments.study.cell import Cell
from isoflop.experiments.training.evaluate import Evaluation, detail
from isoflop.models.language_model import LanguageModel
from isoflop.models.weights import load_weights, save_weights
from isoflop.scaling.table.evaluations.evaluation import write_evaluation

Elsewhere = Callable[..., None]  # calls a function with arguments, here or in another process, and waits for its end


def here(function: Callable[..., None], *arguments: object) -> None:
    """Call it in this process."""
    function(*arguments)


def keep_model(
    cell: Cell,
    model: LanguageModel,
    evaluation: Evaluation,
    *,
    store: Store,
    corpus: Corpus,
    elsewhere: Elsewhere = here,
) -> None:
    """Write a finished cell's weights, evaluation and sample, and its tokenizer where that is a file of its own.

    Evaluation and sample, which take some tenths of a second of Python, are made by `elsewhere`.
    """
    store.check_there()
    own, tokenizers = corpus.folder / "tokenizer.json", tokenizers_folder(store)
    if own.exists() and not (kept := tokenizers / f"{corpus.tokenizer_id}.json").exists():
        kept.parent.mkdir(exist_ok=True)
        shutil.copyfile(own, kept.with_suffix(f".{cell.run_id}.tmp")).replace(kept)
    about = {"run_id": cell.run_id, "step": cell.steps, "tokenizer_id": corpus.tokenizer_id}
    save_weights(model, weights_file(store, cell.run_id), about | {"corpus_id": corpus.corpus_id})
    none = corpus.train[:0]  # of the tokens that a corpus maps: another process would be sent them all
    elsewhere(describe, cell.run_id, evaluation, store, replace(corpus, train=none, held_out=none))


def describe(run_id: str, evaluation: Evaluation, store: Store, corpus: Corpus) -> None:
    """Write evaluation and sample of a run whose weights are there; of the tokens it reads the held-out windows."""
    write_evaluation(evaluation_file(store, run_id), detail(run_id, evaluation, corpus))
    on_cpu = load_weights(weights_file(store, run_id))[0]
    text = sample(on_cpu, corpus, find_tokenizer(corpus.tokenizer_id, corpus.vocab_size, tokenizers_folder(store)))
    sample_file(store, run_id).write_text(text + "\n", encoding="utf-8")
