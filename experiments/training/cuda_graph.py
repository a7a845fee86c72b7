"""A training step as one CUDA graph: a small model's hundred kernels cost one launch, and no Python between them.

A graph is the kernels of one call with the addresses that they had: what the step reads must stay where it is, and its
Python is not run again. So a step reads its inputs, which are copied into buffers of their own, and its state, which
it changes in place; it reads nothing back to the host. `tests/support/training/tape.py` holds steps to that on CPU.
"""

import gc
from collections.abc import Callable, Sequence
from functools import cache, partial

import torch
from torch import Tensor

WARM_UP = 3  # runs before a capture, on a stream of their own: CUDA's libraries allocate what they keep


class CaptureError(RuntimeError):
    """CUDA refused to capture a step as a graph; the cause is the first error that it raised."""


class GraphedStep:
    """`step(*inputs)` captured as a CUDA graph, to be called with tensors of the shapes, types and device of `example`.

    `state` is everything that the step changes and a later one reads: the runs that warm it up leave no trace in it.
    On CPU there are no graphs: the step itself then runs on the same buffers, after the same warm-up. All graphs of one
    device share the scratch memory of CUDA's libraries: call them on one stream.

    Raises CaptureError for a step that cannot be captured.
    """

    def __init__(self, step: Callable[..., object], example: Sequence[Tensor], state: Sequence[Tensor]) -> None:
        self._inputs = [tensor.clone() for tensor in example]
        before = [tensor.clone() for tensor in state]
        run = partial(step, *self._inputs)
        self._replay: Callable[[], object]
        if (device := self._inputs[0].device).type == "cuda":
            self._replay = _graph(run, device).replay
        else:
            _warm_up(run)
            self._replay = run
        for tensor, was in zip(state, before, strict=True):
            tensor.copy_(was)

    def __call__(self, *inputs: Tensor) -> None:
        """Queue one step; on CUDA returns before it is done."""
        for buffer, given in zip(self._inputs, inputs, strict=True):
            buffer.copy_(given, non_blocking=True)
        self._replay()


def _graph(run: Callable[[], object], device: torch.device) -> torch.cuda.CUDAGraph:
    """Warmed up and captured on one stream, since autograd goes back to the stream that a tensor was made on."""
    stream = _stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        _warm_up(run)
    torch.cuda.current_stream(device).wait_stream(stream)
    gc.collect()  # another graph that is garbage by now must not be destroyed within a capture
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.stream(stream), torch.cuda.graph(graph, stream=stream):  # a failed capture forgets to leave it
            run()
    except RuntimeError as error:
        raise CaptureError("the step cannot be captured as a CUDA graph; where.graph=false trains without") from error
    return graph


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """One for all graphs of a process: for each stream, cuBLAS keeps tens of megabytes."""
    return torch.cuda.Stream(device)


def _warm_up(run: Callable[[], object]) -> None:
    for _ in range(WARM_UP):
        run()
