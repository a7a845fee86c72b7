"""Which trunks one process trains side by side on a device, and how many at once. No torch.

A small model leaves most of a GPU idle: `experiments.parallel.pack` gives each trunk a stream of its own. On CPU it is
no gain, and is there so that its results can be checked.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from isoflop.experiments.compose.messages import UsageError
from isoflop.experiments.config import WhereSpec
from isoflop.experiments.cost.memory import estimated_bytes
from isoflop.experiments.study.cell import Cell

FILLING = 3e11  # FLOPs of the steps that a GPU takes at once, at most: an H100 gains nothing from more
FEWEST, MOST = 3, 24  # trunks at once on a GPU where `where.pack` is null: of a large model, of a small one

T = TypeVar("T")


def most(where: WhereSpec) -> int:
    """Trunks side by side on a device, at most. Raises UsageError for an impossible number."""
    if where.pack is not None and where.pack < 1:
        raise UsageError(f"where.pack must be at least 1, or null for what a GPU takes; not {where.pack}")
    return where.pack or (MOST if where.device.startswith("cuda") else 1)


def side_by_side(where: WhereSpec) -> bool:
    """Whether a process trains trunks side by side.

    It does not where processes share each cell, and where Weights & Biases follows runs: it knows one at a time.
    """
    return most(where) > 1 and where.distributed == "none" and "wandb" not in where.trackers


def share(cell: Cell, where: WhereSpec, room: float) -> float:
    """The share of a device with `room` bytes that a trunk of such cells takes: of its memory or its arithmetic."""
    if where.pack is None:
        steps = min(1 / FEWEST, max(1 / most(where), cell.step_flops / FILLING))
    else:
        steps = 1 / most(where)
    return min(1.0, max(steps, estimated_bytes(cell, where) / room))


def packs(
    trunks: Iterable[T], cells_of: Callable[[T], Sequence[Cell]], where: WhereSpec, workers: int | None
) -> list[list[T]]:
    """These trunks by the process that trains them.

    So many lists as `workers` where these are the GPUs of this machine, with about as many FLOPs each, the largest
    trunk first; otherwise lists of `where.pack` in the order that they have.
    """
    trunks = list(trunks)
    if not side_by_side(where):
        return [[trunk] for trunk in trunks]
    if where.pack is not None:
        count = -(-len(trunks) // where.pack)
        return [trunks[first::count] for first in range(count)]
    if workers is None:  # of machines that are not known: a task for each
        return [[trunk] for trunk in trunks]
    found: list[tuple[float, list[T]]] = [(0.0, []) for _ in range(min(workers, len(trunks)))]
    for trunk in sorted(trunks, key=lambda trunk: -flops(cells_of(trunk))):
        at = min(range(len(found)), key=lambda i: found[i][0])
        found[at] = found[at][0] + flops(cells_of(trunk)), [*found[at][1], trunk]
    return [group for _, group in found]


def flops(cells: Sequence[Cell]) -> float:
    """Of a trunk, about: those of its longest cell."""
    return max(cell.training_flops for cell in cells)
