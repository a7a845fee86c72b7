"""Batches as a pure function of (seed, size, step): no state, so a resumed or branched run reads what it would have
read.

The corpus is cut into windows of T + 1 tokens without overlap, and every epoch visits them in a new order that
(seed, size, epoch) alone decides, where a size is a depth and a width. Sizes of one seed share no order, so that their
losses share no noise of it. Batch size, budget, rate, optimiser and all else of a model do not enter: nested budgets
read the same prefix, and arms of one size and seed the same text in the same order. On CUDA the
tokens of a corpus go to the device once and only window numbers follow; which windows a step reads is decided on the
host all the same. torch is imported where tokens become tensors: `study` counts windows without it.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

SHARE = 0.25  # of the device's free memory that the tokens of a corpus may take; larger ones stay on the host
AT_ONCE = 1 << 22  # tokens gathered on a device at once: 32 MiB as int64
_SIGNED = {np.dtype(np.uint16): np.int16, np.dtype(np.uint32): np.int32}  # torch has few kernels for unsigned numbers

Size = tuple[int, int]  # layers and width of a model
Gather = Callable[[np.ndarray], "Tensor"]  # window numbers of any shape to tokens (.., T + 1) int64

_resident: dict[str, tuple[np.ndarray, "Tensor"]] = {}  # the corpus on each device: cells that share it find it there


def batch(tokens: np.ndarray, *, step: int, **which: Any) -> np.ndarray:
    """Inputs and targets of one step, (B, T + 1) int64: the inputs are [:, :-1], the targets [:, 1:]."""
    return batches(tokens, step=step, count=1, **which)[0]


def batches(
    tokens: np.ndarray, *, seed: int, size: Size, step: int, count: int, batch_size: int, context_length: int
) -> np.ndarray:
    """The batches of `count` steps from `step` on, (count, B, T + 1) int64, in one gather."""
    n_windows = count_windows(len(tokens), context_length)
    window = window_numbers(n_windows, seed=seed, size=size, step=step, count=count, batch_size=batch_size)
    return gather(tokens, window, context_length)


def window_numbers(n_windows: int, *, seed: int, size: Size, step: int, count: int, batch_size: int) -> np.ndarray:
    """Which windows the batches of `count` steps from `step` on are made of, (count, B)."""
    position = np.arange(step * batch_size, (step + count) * batch_size)
    epoch, within = np.divmod(position, n_windows)
    window = np.concatenate([_order(seed, size, int(e), n_windows)[within[epoch == e]] for e in np.unique(epoch)])
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
    """Cache so many orders: a process that trains several seeds by turns needs one for each."""
    global _order
    _order = lru_cache(maxsize=count)(_order.__wrapped__)


def gatherer(tokens: np.ndarray, context_length: int, device: str) -> Gather:
    """A function from window numbers (any shape) to their tokens on `device`: gathered there if the corpus fits."""
    if device.startswith("cuda") and fits(tokens, device):
        return on_device(tokens, context_length, device)
    return on_host(tokens, context_length, device)


def fits(tokens: np.ndarray, device: str) -> bool:
    """Whether a CUDA device holds this corpus already, or has room for it in SHARE of its free memory."""
    import torch

    return _is_resident(tokens, device) or tokens.nbytes <= SHARE * torch.cuda.mem_get_info(device)[0]


def on_host(tokens: np.ndarray, context_length: int, device: str) -> Gather:
    """Gather on the host and copy the tokens to `device`."""
    import torch

    return lambda windows: to_device(torch.from_numpy(gather(tokens, windows, context_length)), device)


def on_device(tokens: np.ndarray, context_length: int, device: str) -> Gather:
    """Copy the corpus to `device` unless it is there, and gather there."""
    import torch

    size = context_length + 1
    rows = _resident_on(device, tokens)[: count_windows(len(tokens), context_length) * size].view(-1, size)
    wraps = tokens.dtype == np.uint16  # above 2**15 as int16, a token is negative

    def gathered(windows: np.ndarray) -> "Tensor":
        numbers = to_device(torch.from_numpy(windows.ravel()), device)
        found = rows.index_select(0, numbers).long()
        return (found & 0xFFFF if wraps else found).view(*windows.shape, size)

    return gathered


def to_device(tensor: "Tensor", device: str) -> "Tensor":
    """A tensor of the host on `device`; a copy to CUDA is queued without waiting for it."""
    if not device.startswith("cuda"):
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


@lru_cache(maxsize=4)
def _order(seed: int, size: Size, epoch: int, n_windows: int) -> np.ndarray:
    """The upper words of the counter are the size's own: streams of one key that never meet."""
    return np.random.Generator(np.random.Philox(key=[seed, epoch], counter=[0, 0, *size])).permutation(n_windows)


def _resident_on(device: str, tokens: np.ndarray) -> "Tensor":
    """All tokens on a device, uint16 and uint32 as signed numbers of the same bits; one corpus a device."""
    import torch

    if not _is_resident(tokens, device):
        _resident.pop(device, None)  # before there are two
        signed = tokens.view(_SIGNED.get(tokens.dtype, tokens.dtype))
        _resident[device] = tokens, torch.from_numpy(np.array(signed)).to(device)
    return _resident[device][1]


def _is_resident(tokens: np.ndarray, device: str) -> bool:
    return device in _resident and _resident[device][0] is tokens
