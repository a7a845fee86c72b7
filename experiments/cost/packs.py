"""Which trunks are trained together, in one step: those of one shape, whatever their seed, rate or decay. No torch.

A small model leaves most of a GPU idle, and seeds and learning rates of one size are the same kernels on other numbers:
`experiments.parallel.pack_step` stacks them. On CPU it is no gain, and is there so that its results can be checked.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import TypeVar

from isoflop.experiments.compose.messages import UsageError
from isoflop.experiments.config import WhereSpec
from isoflop.experiments.cost.memory import model_bytes, worker_bytes
from isoflop.experiments.study.cell import Cell
from isoflop.experiments.study.optimizers import OPTIMIZERS
from isoflop.models.config import family_of, n_total

AUTOMATIC = 16  # trunks in a pack where `where.pack` is null, on CUDA
FREE = ("learning_rate", "weight_decay")  # of the optimiser: may differ within a pack
STACKED = 16  # bytes per parameter of the stack: weights, gradients and two moments

T = TypeVar("T")


def most(where: WhereSpec) -> int:
    """Trunks in a pack, at most. Raises UsageError for an impossible number."""
    if where.pack is not None and where.pack < 1:
        raise UsageError(f"where.pack must be at least 1, or null for what a GPU takes; not {where.pack}")
    return where.pack or (AUTOMATIC if where.device.startswith("cuda") else 1)


def pack_key(cells: Sequence[Cell], where: WhereSpec) -> str | None:
    """The same for trunks that can be trained together; None for what is trained alone.

    Alone are families that no stacked step is written for, Muon, bfloat16 (vmap does not know autocast), and what a
    step is cut into pieces, compiled, spread over processes or measured for; and runs that Weights & Biases follows,
    which knows one at a time in a process.
    """
    cell = cells[0]
    cut = where.micro_batch is not None or where.activation_checkpointing or where.compile or where.noise_scale
    if cut or where.distributed != "none" or "wandb" in where.trackers:
        return None
    if (
        not family_of(cell.model).packs(cell.model)
        or not OPTIMIZERS[cell.optim.name].packs
        or cell.precision != "float32"
    ):
        return None
    optim = {key: value for key, value in asdict(cell.optim).items() if key not in FREE}
    alike = {
        "model": asdict(cell.model), "optim": optim, "schedule": asdict(cell.schedule),
        "data": [cell.corpus_id, cell.data.eval_tokens], "steps": sorted(one.steps for one in cells),
    }  # fmt: skip
    return json.dumps(alike, sort_keys=True)


def packs(
    trunks: Iterable[T], cells_of: Callable[[T], Sequence[Cell]], where: WhereSpec, room: float = float("inf")
) -> list[list[T]]:
    """These trunks, those that go together side by side: no more at once than `where` says and `room` bytes hold."""
    if most(where) == 1:
        return [[trunk] for trunk in trunks]
    together: dict[object, list[T]] = {}
    for number, trunk in enumerate(trunks):
        key = pack_key(cells_of(trunk), where)
        together.setdefault(number if key is None else key, []).append(trunk)
    found = []
    for group in together.values():
        count = -(-len(group) // _fitting(cells_of(group[0])[0], where, room))
        found += [group[first::count] for first in range(count)]
    return found


def pack_bytes(cell: Cell, where: WhereSpec, count: int) -> float:
    """Peak bytes of a process that trains `count` trunks like this one at once; of its device where that is a GPU."""
    one = worker_bytes(cell, where) if where.device == "cpu" else model_bytes(cell, where)
    return one + (count - 1) * model_bytes(cell, where) + count * STACKED * n_total(cell.model)


def _fitting(cell: Cell, where: WhereSpec, room: float) -> int:
    count = most(where)
    while count > 1 and pack_bytes(cell, where, count) > room:
        count -= 1
    return count
