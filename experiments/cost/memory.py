"""The memory that a cell needs, in closed form, whether a launch fits, and what to try when it runs out. No torch.

Counted are parameters, gradients and moments; the two copies of the state that a branch point and a checkpoint hold;
the activations of one micro-batch, or of an evaluation where that is larger (of both beside a CUDA graph, which keeps
its own); the windows; and what a process has loaded before its first model. `python -m tests.proofs.memory` holds the
estimate to what processes take.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from isoflop.experiments.config import WhereSpec
from isoflop.experiments.study.cell import Cell
from isoflop.experiments.study.engine import Engine, decide
from isoflop.experiments.study.optimizers import OPTIMIZERS
from isoflop.models.config import ModelConfig, family_of, n_total

FLOAT = 4
IMPORTS = 320e6  # torch and the rest, before the first model
EVALUATED_AT_ONCE = {"cpu": 2048, "cuda": 65_536}  # tokens: activations that stay in a CPU's cache; few kernels
GATHERED = 64  # batches at once
REMEDIES = "lower where.micro_batch or optim.batch_size, set where.activation_checkpointing=true, or leave the size out"
_SIGNS = ("out of memory", "can't allocate memory", "cannot allocate memory")


class TooLargeError(ValueError):
    """A cell, or the cells that would run at once, need more memory than there is."""


def worker_bytes(cell: Cell, where: WhereSpec | None = None) -> float:
    """Peak bytes of a process that trains this cell on CPU."""
    window = 8 * (cell.model.context_length + 1)
    windows = 2 * GATHERED * cell.optim.batch_size + cell.data.eval_tokens / cell.model.context_length
    return IMPORTS + window * windows + model_bytes(cell, where)


def model_bytes(cell: Cell, where: WhereSpec | None = None) -> float:
    """Peak bytes of model, optimiser, copies of both and activations: what an accelerator must hold."""
    where = where or WhereSpec()
    engine = decide(cell, where)
    by_hand = engine.hand_written and family_of(cell.model).hand_written(cell.model, where.device)
    held = n_total(cell.model) * (1 + 3 * OPTIMIZERS[cell.optim.name].vectors)
    sequences = min(where.micro_batch or cell.optim.batch_size, cell.optim.batch_size)
    training = sequences * cell.model.context_length * _training_floats(cell.model, by_hand, engine)
    evaluated = EVALUATED_AT_ONCE["cpu" if where.device == "cpu" else "cuda"]
    at_once = max(min(evaluated, cell.data.eval_tokens), cell.model.context_length)
    layer = family_of(cell.model).activations(cell.model, hand_written=by_hand, fused=engine.fused)
    evaluating = at_once * (2 * cell.model.d_model + layer + 2 * cell.model.vocab_size)
    return FLOAT * (held + (training + evaluating if engine.graph else max(training, evaluating)))


def _training_floats(model: ModelConfig, by_hand: bool, engine: Engine) -> float:
    """Per token, kept between forward and backward. With `recompute` a layer keeps its input alone."""
    layer = family_of(model).activations(model, hand_written=by_hand, fused=engine.fused)
    if engine.recompute:
        return model.n_layer * model.d_model + layer + 3 * model.vocab_size
    return model.n_layer * layer + (1.5 if by_hand else 3) * model.vocab_size


def check_memory(cells: Sequence[Cell], where: WhereSpec, workers: int, available: float) -> None:
    """Raise TooLargeError naming the cell, its estimate and what to change if one cell, or the largest of as many
    `workers` as share a machine or a GPU, need more than the `available` bytes."""
    estimates = sorted(((estimated_bytes(cell, where), cell.label, cell.trunk_id) for cell in cells), reverse=True)
    if not estimates:
        return
    most, label, _ = estimates[0]
    place = "this machine" if where.device == "cpu" else where.device
    if most > available:
        raise TooLargeError(
            f"{label} needs about {gigabytes(most)} and {place} has {gigabytes(available)} free: {REMEDIES}"
        )
    largest = sorted({trunk: need for need, _, trunk in reversed(estimates)}.values(), reverse=True)[:workers]
    if sum(largest) > available:
        fitting = max(n for n in range(1, len(largest)) if sum(largest[:n]) <= available)
        at_once = f"{len(largest)} workers at once need about {gigabytes(sum(largest))}"
        raise TooLargeError(
            f"{at_once} (the largest, {label}, {gigabytes(most)}) and {place} has {gigabytes(available)} free: "
            f"where.workers{'' if where.device == 'cpu' else '_per_gpu'}={fitting} fits; or {REMEDIES}"
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of Python, torch or CUDA reports that memory ran out, or was raised while handling one that
    does (capturing a CUDA graph ends with an error of its own)."""
    signs = isinstance(error, MemoryError) or any(sign in str(error).lower() for sign in _SIGNS)
    return signs or (error.__context__ is not None and is_out_of_memory(error.__context__))


def with_less(where: WhereSpec, cell: Cell) -> WhereSpec | None:
    """`where` with half of the sequences at once, None if one is all there is."""
    sequences = min(where.micro_batch or cell.optim.batch_size, cell.optim.batch_size)
    return replace(where, micro_batch=sequences // 2) if sequences > 1 else None


def explanation(cell: Cell, where: WhereSpec) -> str:
    """The message for a cell that ran out of memory: its estimate and the remedies."""
    needs = gigabytes(estimated_bytes(cell, where))
    return f"out of memory: {cell.label} needs about {needs} with where.micro_batch={where.micro_batch}; {REMEDIES}"


def available_bytes(device: str) -> float:
    """Memory that new processes may take: of the machine and of this control group, or of an accelerator."""
    if device != "cpu":
        import torch  # only for a device: a launch on CPU leaves the import to its workers

        return float(torch.cuda.mem_get_info(device)[0])
    limits = [_meminfo(), *_of_group()]
    return min(limits, default=float("inf"))


def estimated_bytes(cell: Cell, where: WhereSpec) -> float:
    """Of a process on CPU; of the accelerator where there is one."""
    return worker_bytes(cell, where) if where.device == "cpu" else model_bytes(cell, where)


def gigabytes(value: float) -> str:
    """Bytes as text, in GB."""
    return f"{value / 1e9:.3g} GB"


def _meminfo() -> float:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))


def _of_group() -> list[float]:
    """What the control group's limit leaves, where there is one."""
    group = Path("/sys/fs/cgroup")
    try:
        return [int((group / "memory.max").read_text()) - int((group / "memory.current").read_text())]
    except (OSError, ValueError):  # another version of control groups, or "max"
        return []
