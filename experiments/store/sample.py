"""A sample of text by a finished model: kept with every run, shown when one was trained alone."""

from pathlib import Path
from typing import TYPE_CHECKING

from isoflop.experiments.data.batches import Corpus
from isoflop.experiments.data.tokenizer import Tokenizer
from isoflop.experiments.store.store import Store

if TYPE_CHECKING:  # a reader of the file needs no torch
    from isoflop.models.language_model import LanguageModel

SAMPLE_FILE = "sample.txt"
TEMPERATURE = 0.8  # at 0 small models repeat themselves


def sample_file(store: Store, run_id: str) -> Path:
    """Where the store keeps the sample of a run."""
    return store.run_file(run_id).with_name(SAMPLE_FILE)


def sample(model: "LanguageModel", corpus: Corpus, tokenizer: Tokenizer) -> str:
    """The first tokens of the held-out text, a quarter of a window, and a window that the model writes after them.

    The same model and corpus give the same text.
    """
    from isoflop.models.generate import Sampling, generate

    context = model.config.context_length
    prompt = corpus.eval_windows[0][: max(1, context // 4)].tolist()
    follows = generate(model, prompt, max_tokens=context, sampling=Sampling(temperature=TEMPERATURE))
    return tokenizer.decode([*prompt, *follows])
