"""The processes that torchrun started for one run, and which cells they can train together."""

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist

from isoflop.experiments.config import WhereSpec
from isoflop.experiments.study.cell import Cell


@dataclass(frozen=True)
class World:
    """How many processes share a run, and which of them this is."""

    rank: int
    size: int

    @classmethod
    def of_this_process(cls) -> "World":
        """The process group that `join` entered."""
        return cls(dist.get_rank(), dist.get_world_size())

    def rows(self, batch_size: int) -> slice:
        """This process' sequences of a batch: together, in the order of ranks, they are the batch."""
        share = batch_size // self.size
        return slice(self.rank * share, (self.rank + 1) * share)


def join(where: WhereSpec) -> World:
    """Enter the process group that torchrun's environment describes; on a machine of several GPUs take one."""
    if not dist.is_initialized():
        if where.device.startswith("cuda"):
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl" if where.device.startswith("cuda") else "gloo")
    return World.of_this_process()


def check_batch(cell: Cell, processes: int) -> None:
    """Raise ValueError, naming the cell, for one whose batch `processes` processes cannot share equally."""
    if cell.optim.batch_size % processes:
        raise ValueError(
            f"{cell.label}: optim.batch_size={cell.optim.batch_size} cannot be shared by {processes} processes; "
            "start a number of them that divides it"
        )
