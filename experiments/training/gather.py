"""Tokens of a corpus on a CUDA device: all of them go there once, where they fit, and only window numbers follow.

Which windows a step reads is decided on the host all the same (`data.batches`).
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from isoflop.experiments.data.batches import count_windows, gather

SHARE = 0.25  # of the device's free memory that the tokens of a corpus may take; larger ones stay on the host
_SIGNED = {np.dtype(np.uint16): np.int16, np.dtype(np.uint32): np.int32}  # torch has few kernels for unsigned numbers

Gather = Callable[[np.ndarray], Tensor]  # window numbers of any shape to tokens (.., T + 1) int64

_resident: dict[str, tuple[np.ndarray, Tensor]] = {}  # the corpus on each device: cells that share it find it there


def gatherer(tokens: np.ndarray, context_length: int, device: str) -> Gather:
    """A function from window numbers (any shape) to their tokens on a CUDA `device`: gathered there if they fit."""
    if fits(tokens, device):
        return on_device(tokens, context_length, device)
    return on_host(tokens, context_length, device)


def fits(tokens: np.ndarray, device: str) -> bool:
    """Whether a CUDA device holds this corpus already, or has room for it in SHARE of its free memory."""
    return _is_resident(tokens, device) or tokens.nbytes <= SHARE * torch.cuda.mem_get_info(device)[0]


def on_host(tokens: np.ndarray, context_length: int, device: str) -> Gather:
    """Gather on the host and copy the tokens to `device`."""
    return lambda windows: to_device(torch.from_numpy(gather(tokens, windows, context_length)), device)


def on_device(tokens: np.ndarray, context_length: int, device: str) -> Gather:
    """Copy the corpus to `device` unless it is there, and gather there."""
    size = context_length + 1
    rows = _resident_on(device, tokens)[: count_windows(len(tokens), context_length) * size].view(-1, size)
    wraps = tokens.dtype == np.uint16  # above 2**15 as int16, a token is negative

    def gathered(windows: np.ndarray) -> Tensor:
        numbers = to_device(torch.from_numpy(windows.ravel()), device)
        found = rows.index_select(0, numbers).long()
        return (found & 0xFFFF if wraps else found).view(*windows.shape, size)

    return gathered


def to_device(tensor: Tensor, device: str) -> Tensor:
    """A tensor of the host on `device`; a copy to CUDA is queued without waiting for it."""
    if not device.startswith("cuda"):
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def _resident_on(device: str, tokens: np.ndarray) -> Tensor:
    """All tokens on a device, uint16 and uint32 as signed numbers of the same bits; one corpus a device."""
    if not _is_resident(tokens, device):
        _resident.pop(device, None)  # before there are two
        signed = tokens.view(_SIGNED.get(tokens.dtype, tokens.dtype))
        _resident[device] = tokens, torch.from_numpy(np.array(signed)).to(device)
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)  # other streams read it too
    return _resident[device][1]


def _is_resident(tokens: np.ndarray, device: str) -> bool:
    return device in _resident and _resident[device][0] is tokens
