"""What a cell that ran out of memory may try, and what is said when it does not help."""

from dataclasses import replace

from isoflop.experiments.config import WhereSpec
from isoflop.experiments.cost.memory import REMEDIES, estimated_bytes, gigabytes
from isoflop.experiments.study.cell import Cell

_SIGNS = ("out of memory", "can't allocate memory", "cannot allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of Python, torch or CUDA says that memory has run out, or came of one that does.

    A CUDA graph's capture that runs out of it ends with an error of its own.
    """
    signs = isinstance(error, MemoryError) or any(sign in str(error).lower() for sign in _SIGNS)
    return signs or (error.__context__ is not None and is_out_of_memory(error.__context__))


def with_less(where: WhereSpec, cell: Cell) -> WhereSpec | None:
    """The same with half of the sequences at once, None if one is all there is."""
    sequences = min(where.micro_batch or cell.optim.batch_size, cell.optim.batch_size)
    return replace(where, micro_batch=sequences // 2) if sequences > 1 else None


def explanation(cell: Cell, where: WhereSpec) -> str:
    needs = gigabytes(estimated_bytes(cell, where))
    return f"out of memory: {cell.label} needs about {needs} with where.micro_batch={where.micro_batch}; {REMEDIES}"
