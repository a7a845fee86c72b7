"""A corpus' windows where the training is: on CUDA its tokens go to the device once, and only window numbers follow.

Which windows a step reads is decided on the host either way (`experiments.data.batches`), so the batches are the same.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from isoflop.experiments.data.batches import count_windows, gather

SHARE = 0.25  # of the device's free memory that the tokens of a corpus may take; larger ones stay on the host
AT_ONCE = 1 << 22  # tokens gathered on a device at once: 32 MiB as int64
_SIGNED = {np.dtype(np.uint16): np.int16, np.dtype(np.uint32): np.int32}  # torch has few kernels for unsigned numbers

Gather = Callable[[np.ndarray], Tensor]

_resident: dict[str, tuple[np.ndarray, Tensor]] = {}  # the corpus on each device: cells that share it find it there


def gatherer(tokens: np.ndarray, context_length: int, device: str) -> Gather:
    """The way from window numbers, of any shape, to their tokens on `device`, (.., T + 1) int64."""
    if device.startswith("cuda") and fits(tokens, device):
        return on_device(tokens, context_length, device)
    return on_host(tokens, context_length, device)


def fits(tokens: np.ndarray, device: str) -> bool:
    """Whether a device has room for a corpus beside what it is needed for."""
    return _is_there(tokens, device) or tokens.nbytes <= SHARE * torch.cuda.mem_get_info(device)[0]


def on_host(tokens: np.ndarray, context_length: int, device: str) -> Gather:
    return lambda windows: sent(torch.from_numpy(gather(tokens, windows, context_length)), device)


def on_device(tokens: np.ndarray, context_length: int, device: str) -> Gather:
    size = context_length + 1
    rows = _resident_on(device, tokens)[: count_windows(len(tokens), context_length) * size].view(-1, size)
    wraps = tokens.dtype == np.uint16  # above 2**15 as int16, a token is negative

    def gathered(windows: np.ndarray) -> Tensor:
        numbers = sent(torch.from_numpy(windows.ravel()), device)
        found = rows.index_select(0, numbers).long()
        return (found & 0xFFFF if wraps else found).view(*windows.shape, size)

    return gathered


def sent(tensor: Tensor, device: str) -> Tensor:
    """A tensor of the host on `device`; a copy to CUDA is queued, and nobody waits for it."""
    if not device.startswith("cuda"):
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def _resident_on(device: str, tokens: np.ndarray) -> Tensor:
    if not _is_there(tokens, device):
        _resident.pop(device, None)  # before there are two
        signed = tokens.view(_SIGNED.get(tokens.dtype, tokens.dtype))
        _resident[device] = tokens, torch.from_numpy(np.array(signed)).to(device)
    return _resident[device][1]


def _is_there(tokens: np.ndarray, device: str) -> bool:
    return device in _resident and _resident[device][0] is tokens
