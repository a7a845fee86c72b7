"""Cells on several processes that torchrun started: the first runs the sweep, the others follow it.

    torchrun --nproc-per-node 2 -m isoflop run experiment=NAME where.distributed=ddp

Only the first process reads the study, claims trunks and writes the store; for every trunk it tells the others which
cells come next. A process that fails ends them all (torchrun sees to it), and the same command goes on from there.
All processes must see the same `runs` and `where.corpora`.
"""

import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import torch
import torch.distributed as dist

from isoflop.experiments.config import WhereSpec
from isoflop.experiments.study.cell import Cell


@dataclass(frozen=True)
class World:
    """The processes of a run, and which of them this is."""

    rank: int
    size: int

    @classmethod
    def of_this_process(cls) -> "World":
        return cls(dist.get_rank(), dist.get_world_size())

    def rows(self, batch_size: int) -> slice:
        """This process' rows of a batch: together, in the order of ranks, they are the batch."""
        share = batch_size // self.size
        return slice(self.rank * share, (self.rank + 1) * share)


def join(where: WhereSpec) -> World:
    """Meet the other processes; on a machine of several GPUs this process takes its own."""
    if not dist.is_initialized():
        if where.device.startswith("cuda"):
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl" if where.device.startswith("cuda") else "gloo")
    return World.of_this_process()


def check_cell(cell: Cell, where: WhereSpec) -> None:
    """Raise ValueError, naming the cell, for one that cannot be trained in pieces or by several processes."""
    if cell.model.experts and (where.distributed != "none" or where.micro_batch):
        raise ValueError(
            f"{cell.label}: the balance loss of a mixture of experts is of the whole batch; "
            "use where.distributed=none and no where.micro_batch"
        )
    if where.micro_batch is not None and where.micro_batch < 1:
        raise ValueError(f"where.micro_batch is a number of sequences, 1 or more; not {where.micro_batch}")
    if where.distributed == "none":
        return
    size = World.of_this_process().size
    if cell.optim.batch_size % size:
        raise ValueError(
            f"{cell.label}: optim.batch_size={cell.optim.batch_size} cannot be shared by {size} processes; "
            "start a number of them that divides it"
        )
    if where.distributed == "fsdp2" and cell.optim.name == "muon":
        raise ValueError(f"{cell.label}: muon needs whole matrices, fsdp2 has shards; use where.distributed=ddp")


def lead(cells: Sequence[Cell], folder: Path, where: WhereSpec) -> None:
    """Tell the other processes, if there are any, which cells of a trunk this one trains next."""
    if where.distributed != "none":
        dist.broadcast_object_list([(list(cells), folder)], src=0)


def together(where: WhereSpec, run: Callable[[], int]) -> int:
    """`run` by the first process, whose exit code it returns; 0 by the others, when there is nothing more to follow.

    If it raises, nobody is told: the first process ends, and torchrun ends the others. Close with `end`.
    """
    if join(where).rank:
        _follow(where)
        code = 0
    else:
        code = run()
        dist.broadcast_object_list([None], src=0)
    dist.destroy_process_group()
    return code


def end(code: int) -> NoReturn:
    """End a process that was in a group, without the interpreter's own clean-up.

    Gloo's threads outlive their group, and each lets go of the tensors of its last message whenever it is scheduled;
    in an interpreter that is closing by then, that aborts the process after all its work is done.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _follow(where: WhereSpec) -> None:
    """Train along with the first process until it has no more."""
    from isoflop.experiments.data.corpus import Corpora
    from isoflop.experiments.training.trainer import train_trunk

    corpora = Corpora(Path(where.corpora).resolve())
    while (told := _hear()) is not None:
        cells, folder = told
        for _ in train_trunk(cells, corpora(cells[0].data), folder=folder, where=where, keep=lambda *_: None):
            pass


def _hear() -> tuple[list[Cell], Path] | None:
    told: list = [None]
    dist.broadcast_object_list(told, src=0)
    return told[0]
