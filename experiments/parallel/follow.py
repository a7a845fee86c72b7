"""Cells on several processes that torchrun started: the first runs the sweep, the others follow it.

    torchrun --nproc-per-node 2 -m isoflop run experiment=NAME where.distributed=ddp

Only the first process reads the study, claims trunks and writes the store; for every trunk it sends the others the
cells that come next. A process that fails ends them all (torchrun sees to it), and the same command goes on from there.
All processes must see the same `runs` and `where.corpora`.
"""

import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import torch.distributed as dist

from isoflop.experiments.config import WhereSpec
from isoflop.experiments.data.corpus import Corpora
from isoflop.experiments.parallel.replicas import learner_class
from isoflop.experiments.parallel.world import join
from isoflop.experiments.study.cell import Cell
from isoflop.experiments.training.trainer import train_trunk


def together(where: WhereSpec, run: Callable[[], int]) -> int:
    """Call `run` in the first process and return its exit code; the others train along and return 0 when it is done.

    If it raises, nothing is sent: the first process ends, and torchrun ends the others. End the process with `end`.
    """
    if join(where).rank:
        _follow(where)
        code = 0
    else:
        code = run()
        dist.broadcast_object_list([None], src=0)
    dist.destroy_process_group()
    return code


def lead(cells: Sequence[Cell], folder: Path) -> None:
    """Send the other processes the cells of a trunk that this one trains next, and the folder of its checkpoints."""
    dist.broadcast_object_list([(list(cells), folder)], src=0)


def end(code: int) -> NoReturn:
    """End a process that was in a group, without the interpreter's own clean-up.

    Gloo's threads outlive their group, and each frees the tensors of its last message whenever it is scheduled; in an
    interpreter that is closing by then, that aborts the process after all its work is done.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _follow(where: WhereSpec) -> None:
    """Train along with the first process until it sends no more cells."""
    corpora, make = Corpora(Path(where.corpora).resolve()), learner_class(where)
    while (message := _receive()) is not None:
        cells, folder = message
        corpus = corpora(cells[0].data)
        for _ in train_trunk(cells, corpus, folder=folder, where=where, keep=lambda *_: None, make=make):
            pass


def _receive() -> tuple[list[Cell], Path] | None:
    message: list[tuple[list[Cell], Path] | None] = [None]
    dist.broadcast_object_list(message, src=0)
    return message[0]
