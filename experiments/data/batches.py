"""Batches as a pure function of (seed, step): no state, so a resumed or branched run reads what it would have read.

The corpus is cut into windows of T + 1 tokens without overlap, and every epoch visits them in a new order that
(seed, epoch) alone decides. Model, batch size and budget do not enter: nested budgets read the same prefix.
"""

from functools import lru_cache

import numpy as np


def batch(tokens: np.ndarray, *, seed: int, step: int, batch_size: int, context_length: int) -> np.ndarray:
    """Inputs and targets of one step, (B, T + 1) int64: the inputs are [:, :-1], the targets [:, 1:]."""
    return batches(tokens, seed=seed, step=step, count=1, batch_size=batch_size, context_length=context_length)[0]


def batches(
    tokens: np.ndarray, *, seed: int, step: int, count: int, batch_size: int, context_length: int
) -> np.ndarray:
    """The batches of `count` steps from `step` on, (count, B, T + 1) int64, in one gather."""
    n_windows = count_windows(len(tokens), context_length)
    window = window_numbers(n_windows, seed=seed, step=step, count=count, batch_size=batch_size)
    return gather(tokens, window, context_length)


def window_numbers(n_windows: int, *, seed: int, step: int, count: int, batch_size: int) -> np.ndarray:
    """Which windows the batches of `count` steps from `step` on are made of, (count, B)."""
    position = np.arange(step * batch_size, (step + count) * batch_size)
    epoch, within = np.divmod(position, n_windows)
    window = np.concatenate([_order(seed, int(e), n_windows)[within[epoch == e]] for e in np.unique(epoch)])
    return window.reshape(count, batch_size)


def gather(tokens: np.ndarray, windows: np.ndarray, context_length: int) -> np.ndarray:
    """The tokens of windows of any shape, (.., T + 1) int64."""
    return tokens[windows[..., None] * (context_length + 1) + np.arange(context_length + 1)].astype(np.int64)


def count_windows(n_tokens: int, context_length: int) -> int:
    """Whole windows in a corpus; each predicts `context_length` tokens, so an epoch is their product.

    Raises ValueError if there is none.
    """
    windows = n_tokens // (context_length + 1)
    if not windows:
        raise ValueError(f"{n_tokens} tokens are fewer than one window of context_length={context_length} + 1")
    return windows


def remember_orders(count: int) -> None:
    """Keep so many orders of the windows at hand: a process that trains several seeds by turns needs one for each."""
    global _order
    _order = lru_cache(maxsize=count)(_order.__wrapped__)


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, n_windows: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(n_windows)
