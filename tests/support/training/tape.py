"""A CUDA graph's rules on CPU: what a step does is recorded op by op and played again without its Python.

Played ops read and write the very tensors of the recording, as kernels do their addresses: a number that Python
computed stays what it was, a tensor that was replaced is not noticed. What a capture forbids is refused: reading a
value back to the host, and a shape that depends on values.
"""

from collections.abc import Callable

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class CaptureError(RuntimeError):
    """A step does what no CUDA graph can hold."""


class Tape(TorchDispatchMode):
    """Records what runs inside `with tape:`; `play` does it again."""

    def __init__(self) -> None:
        super().__init__()
        self.ops: list[tuple[Callable, tuple, dict, dict[int, torch.Tensor]]] = []

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & set(op.tags):
            raise CaptureError(f"{op} makes the host wait for a value")
        outputs = op(*args, **kwargs)
        self.ops.append((op, args, kwargs, _new(outputs, (args, kwargs))))
        return outputs

    @torch.no_grad()
    def play(self) -> None:
        """Do every recorded operation again, into the tensors of the recording."""
        for op, args, kwargs, made in self.ops:
            if not op.is_view:
                again = tree_leaves(op(*args, **kwargs))
                for place, tensor in made.items():
                    tensor.copy_(again[place])


def record(run: Callable[[], object]) -> Tape:
    """The tape of what `run` does."""
    tape = Tape()
    with tape:
        run()
    return tape


def _new(outputs: object, inputs: object) -> dict[int, torch.Tensor]:
    """The outputs that are no part of an input, by their places."""
    known = {t.untyped_storage().data_ptr() for t in tree_leaves(inputs) if isinstance(t, torch.Tensor)}
    tensors = ((place, t) for place, t in enumerate(tree_leaves(outputs)) if isinstance(t, torch.Tensor))
    return {place: t for place, t in tensors if t.untyped_storage().data_ptr() not in known}
