"""Quantities that a table tells by several columns: tokens as steps times a batch, parameters as a sum."""

import re
from collections.abc import Mapping

import pandas as pd

from isoflop.scaling.table.meaning import parse, words

_EPOCHS = ("epochs", "n_epochs", "num_epochs", "train_epochs", "num_train_epochs", "training_epochs", "epoch")
_DATASETS = ("dataset_tokens", "tokens_per_epoch", "epoch_tokens", "unique_tokens")
# How often and the tokens of one, as `words` writes their names.
_PRODUCTS = (
    (("steps", "n_steps", "num_steps", "train_steps", "training_steps", "iterations", "n_iterations"),
     ("batch_tokens", "tokens_per_step", "tokens_per_iter", "tokens_per_batch", "batch_size_in_tokens",
      "batch_size_tokens")),
    (_EPOCHS, _DATASETS),
    (("samples", "n_samples", "num_samples", "samples_seen", "consumed_samples", "sequences", "n_sequences",
      "num_sequences", "sequences_seen"),
     ("context_length", "seq_len", "seq_length", "sequence_length", "block_size", "max_seq_len")),
)  # fmt: skip


def with_sizes(frame: pd.DataFrame, mapping: Mapping[str, str], notes: list[str]) -> pd.DataFrame:
    """The table with the parameters of nanochat's results: those of its matrices, as its own analysis counts them."""
    if "n_params" in mapping or "n_params" in frame:
        return frame
    for parts in (("params_transformer", "params_lm_head"), ("num_scaling_params",)):
        if {"flops_budget", *parts} <= set(frame):
            counts = [parse(frame[name])[0] for name in parts]
            notes.append(f"n_params: {' + '.join(parts)}")
            return frame.assign(n_params=sum(counts[1:], counts[0]))
    return frame


def with_tokens(frame: pd.DataFrame, found: dict[str, str], notes: list[str]) -> pd.DataFrame:
    """The table with the tokens of each run where it tells them as a product of two columns; `found` then names it."""
    if "tokens" in found or "tokens" in frame:
        return frame
    for names in _PRODUCTS:
        first, second = (_named(frame, some) for some in names)
        if first is None or second is None:
            continue
        counts = parse(frame[first])[0].astype(float)
        if names[0] is _EPOCHS and counts.min() <= 0:  # counted from 0, as logs do
            continue
        notes.append(f"tokens: column {first} times column {second}")
        found["tokens"] = "tokens"
        return frame.assign(tokens=counts * parse(frame[second])[0])
    return frame


def without_one_epoch(frame: pd.DataFrame, found: list[str]) -> list[str]:
    """Of the columns that may be tokens those that are not one epoch's, where some run has more epochs, or less."""
    epochs = _named(frame, _EPOCHS)
    if epochs is None or (parse(frame[epochs])[0].dropna() == 1).all():
        return found
    return [name for name in found if _words(name) not in _DATASETS]


def _named(frame: pd.DataFrame, names: tuple[str, ...]) -> str | None:
    """The column of numbers with the first of these names."""
    columns = {_words(c): c for c in frame if isinstance(c, str) and not isinstance(frame[c], pd.DataFrame)}
    return next((columns[n] for n in names if n in columns and parse(frame[columns[n]])[0].notna().any()), None)


def _words(name: str) -> str:
    """The words of a name, those in brackets too."""
    return words(re.sub(r"[()\[\]]", " ", name))
