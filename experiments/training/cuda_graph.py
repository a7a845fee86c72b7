"""A training step as one CUDA graph: a small model's hundred kernels cost one launch, and no Python between them.

A graph is the kernels of one call with the addresses that they had: what the step reads must stay where it is, and its
Python is not run again. So a step reads its inputs, which are copied into buffers of their own, and its state, which
it changes in place; it reads nothing back to the host. `tests/support/training/tape.py` holds steps to that on CPU.
"""

import gc
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache, partial

import torch
from torch import Tensor

_REFUSED = "the step cannot be captured as a CUDA graph; where.graph=false trains without"
WARM_UP = 3  # runs before a capture, on a stream of their own: CUDA's libraries allocate what they keep


class CaptureError(RuntimeError):
    """CUDA refused to capture a step as a graph; the cause is the first error that it raised."""


class GraphedStep:
    """`step(*inputs)` captured as a CUDA graph, to be called with tensors of the shapes, types and device of `example`.

    `state` is everything that the step changes and a later one reads: the runs that warm it up leave no trace in it.
    These are of `warm_up` where it is given, which runs all kernels of the step, on inputs of its own.
    On CPU there are no graphs: the step itself then runs on the same buffers, after the same warm-up. Graphs that were
    captured on one stream share the scratch memory of CUDA's libraries: call them on that stream.

    Raises CaptureError for a step that cannot be captured.
    """

    def __init__(
        self,
        step: Callable[..., object],
        example: Sequence[Tensor],
        state: Sequence[Tensor],
        warm_up: Callable[[], object] | None = None,
    ) -> None:
        self._inputs = [tensor.clone() for tensor in example]
        before = [tensor.clone() for tensor in state]
        run = partial(step, *self._inputs)
        self._replay: Callable[[], object]
        if (device := self._inputs[0].device).type == "cuda":
            self._replay = _graph(run, device, warm_up or run).replay
        else:
            _warm_up(warm_up or run)
            self._replay = run
        for tensor, was in zip(state, before, strict=True):
            tensor.copy_(was)

    def __call__(self, *inputs: Tensor) -> None:
        """Queue one step; on CUDA returns before it is done."""
        for buffer, given in zip(self._inputs, inputs, strict=True):
            buffer.copy_(given, non_blocking=True)
        self._replay()


def _graph(run: Callable[[], object], device: torch.device, warm_up: Callable[[], object]) -> torch.cuda.CUDAGraph:
    """Warmed up and captured on one stream, since autograd goes back to the stream that a tensor was made on: on the
    current one, or where that is the device's default stream, which cannot be captured, on one beside it.

    Nothing waits for the device, and no cached memory is let go of, as `torch.cuda.graph` would.
    """
    current = torch.cuda.current_stream(device)
    stream = current if current != torch.cuda.default_stream(device) else _stream(device)
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        _warm_up(warm_up)
    gc.collect()  # another graph that is garbage by now must not be destroyed within a capture
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.stream(stream):
        graph.capture_begin(capture_error_mode="thread_local")  # other threads may write files of the device's tensors
        try:
            run()
        except RuntimeError as error:
            with suppress(RuntimeError):  # that the capture is invalid
                graph.capture_end()
            raise CaptureError(_REFUSED) from error
        try:
            graph.capture_end()
        except RuntimeError as error:
            raise CaptureError(_REFUSED) from error
    current.wait_stream(stream)
    return graph


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """One for all graphs that have none: for each stream, cuBLAS keeps tens of megabytes."""
    return torch.cuda.Stream(device)


def _warm_up(run: Callable[[], object]) -> None:
    for _ in range(WARM_UP):
        run()
