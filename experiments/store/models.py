"""Finds finished models in a store by the id of their run. `training.keep` writes them as each cell ends."""

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from isoflop.experiments.data.tokenizer import Tokenizer, continuation, find_tokenizer
from isoflop.experiments.store.run_config import RunConfig, run_config
from isoflop.experiments.store.store import Store, StoreError
from isoflop.models.generate import Sampling, generate
from isoflop.models.language_model import LanguageModel
from isoflop.models.weights import WEIGHTS_FILE, load_weights
from isoflop.scaling.table.evaluations.evaluation import EVALUATION_FILE
from isoflop.scaling.table.runs import of_study, read_runs
from isoflop.scaling.table.studies.listing import Entry, read_study


def weights_file(store: Store, run_id: str) -> Path:
    """Where the store keeps the final weights of a run."""
    return store.run_file(run_id).with_name(WEIGHTS_FILE)


def evaluation_file(store: Store, run_id: str) -> Path:
    """Where the store keeps the final held-out loss of a run by position and by document."""
    return store.run_file(run_id).with_name(EVALUATION_FILE)


def tokenizers_folder(store: Store) -> Path:
    """Where the store keeps the tokenizers of its runs, each a file named by its id."""
    return store.root / "tokenizers"


@dataclass(frozen=True)
class Trained:
    """A finished run with its model, and its arm in the study that it was found by; None: as it was trained."""

    store: Store
    run_id: str
    arm: str | None = None

    @cached_property
    def model(self) -> LanguageModel:
        """The model with its final weights, ready to evaluate."""
        return load_weights(weights_file(self.store, self.run_id))[0].eval()

    @cached_property
    def final(self) -> dict:
        """The last row of the run."""
        return of_study(read_runs(self.store.run_file(self.run_id)), {self.run_id: Entry(self.arm)}).iloc[-1].to_dict()

    @cached_property
    def config(self) -> RunConfig:
        """The settings that its table records: what determines the losses, and the study."""
        return run_config(self.store, self.run_id)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that its corpus was read with."""
        return find_tokenizer(self.final["tokenizer_id"], int(self.final["vocab_size"]), tokenizers_folder(self.store))

    def generate(self, prompt: str, *, max_tokens: int, sampling: Sampling, cached: bool = True) -> Iterator[str]:
        """Yield the text that follows a prompt in pieces, each as soon as it cannot change any more."""
        given, tokens, shown = self.tokenizer.encode(prompt), [], ""
        for token in generate(self.model, given, max_tokens=max_tokens, sampling=sampling, cached=cached):
            tokens.append(token)
            text = continuation(self.tokenizer.decode, given, tokens)
            whole = text.rstrip("\ufffd")  # may be the first bytes of a character
            if len(whole) > len(shown):
                yield whole[len(shown) :]
                shown = whole
        yield continuation(self.tokenizer.decode, given, tokens)[len(shown) :]


def find_trained(store: Store, run_id: str) -> Trained:
    """The finished run that an id, or the beginning of one, names.

    Raises StoreError for an id that names none or several, for a run that is not done, and for one without weights.
    """
    states = store.states().set_index("run_id")["state"]
    matching = [known for known in states.index if known.startswith(run_id)]
    if len(matching) != 1:
        raise StoreError(f"{store.root}: {_not_one(run_id, matching, list(states.index))}")
    if not run_id:
        raise StoreError(f"RUN_ID is empty; `isoflop status {store.root} --runs` lists the runs")
    found = matching[0]
    if states[found] != "done":
        raise StoreError(f"run {found} is {states[found]}, not done: there is no final model; run its study again")
    if not weights_file(store, found).exists():
        raise StoreError(
            f"run {found} kept no weights ({weights_file(store, found)} is missing); "
            f"delete {store.run_file(found).parent} and run its study again"
        )
    return Trained(store, found)


def finished(store: Store, study: str) -> list[Trained]:
    """The finished runs of a study and its rounds that kept their weights.

    Raises StoreError if it was not launched here.
    """
    known = store.studies()
    if study not in known:
        near = difflib.get_close_matches(study, known, n=1)
        raise StoreError(
            f"--study {study}: {store.root}: no study {study!r}; there are {', '.join(near or known) or 'none'}"
        )
    runs = read_study(store.root, study).runs
    states = store.states(runs)
    done = states.loc[states["state"] == "done", "run_id"]
    return [Trained(store, run_id, runs[run_id].arm) for run_id in done if weights_file(store, run_id).exists()]


def _not_one(run_id: str, matching: list[str], known: list[str]) -> str:
    if matching:
        return f"{run_id!r} begins {len(matching)} runs: {', '.join(matching[:5])}; give more of it"
    near = difflib.get_close_matches(run_id, known, n=1)
    suggestion = f"did you mean {near[0]}? " if near else ""
    return f"no run {run_id!r}; {suggestion}`isoflop status --runs` lists them"
