"""Whether a launch fits the way its process was started: alone, or as one of several by torchrun. No torch."""

import os

from isoflop.experiments.config import WhereSpec

MODES = ("none", "ddp", "fsdp2")


def check(where: WhereSpec, *, here: bool) -> None:
    """Raise ValueError for a mode that there is not, or one that does not fit how this process was started.

    `here` says whether the cells are to be trained by this process, not by one on another machine.
    """
    if where.distributed not in MODES:
        raise ValueError(f"where.distributed must be one of {', '.join(MODES)}; not {where.distributed!r}")
    if not here:
        return
    started = int(os.environ.get("WORLD_SIZE", 1))
    if where.distributed == "none" and started > 1:
        raise ValueError(f"torchrun started {started} processes: say where.distributed=ddp or fsdp2")
    if where.distributed != "none" and "RANK" not in os.environ:
        raise ValueError(
            f"where.distributed={where.distributed} is for processes that torchrun starts: "
            "torchrun --nproc-per-node 2 -m isoflop run ..."
        )
    if where.distributed != "none" and where.workers not in (None, 1):
        raise ValueError(f"where.workers={where.workers}: where.distributed has all processes share one cell; leave it")
