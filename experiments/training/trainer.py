"""Train the cells of one trunk: the trunk once, a cooldown branch per cell, in the order of their horizons.

Nothing here depends on which cells are asked for together: a cell trained alone, in a sweep, or in pieces between
kills ends with the same rows to the bit (on CPU with one thread).
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TypedDict

import torch
from torch import nn

from isoflop.experiments.config import WhereSpec
from isoflop.experiments.data.corpus import Corpus
from isoflop.experiments.parallel.follow import check_cell
from isoflop.experiments.study import schedule
from isoflop.experiments.study.cell import Cell
from isoflop.experiments.study.engine import decide
from isoflop.experiments.study.schedule import row_steps
from isoflop.experiments.training.checkpoint import Checkpoints
from isoflop.experiments.training.evaluate import Evaluation
from isoflop.experiments.training.learner import Learner
from isoflop.experiments.training.process import keep_freed_memory
from isoflop.experiments.training.rows import Measurement, run_rows
from isoflop.models.step.training_step import kernels_build

log = logging.getLogger(__name__)

_CHUNK = 64  # steps between looks at the loss, the clock and the caller


class Progress(TypedDict):
    """Where a cell is, told every few dozen steps."""

    run_id: str
    step: int
    tokens: int
    measurements: list[Measurement]  # so far, those of the trunk included


def configure_process(threads: int) -> None:
    """Pin the threads and keep freed activations in the process. Call before the first tensor.

    Keeping them is worth a factor 1.2 to 1.6 on small models. Float32 means float32 on CUDA too: TF32 is off in torch's
    products by default, but not in cuDNN's, which an LSTM is made of.
    """
    torch.set_num_threads(threads)
    torch.backends.cudnn.allow_tf32 = False
    keep_freed_memory()


def train_trunk(
    cells: Sequence[Cell],
    corpus: Corpus,
    *,
    folder: Path | None,
    where: WhereSpec,
    on_progress: Callable[[Progress], None] | None = None,
    keep: Callable[[Cell, nn.Module, Evaluation], None] | None = None,
    make: Callable[..., Learner] = Learner,
) -> Iterator[tuple[Cell, list[dict]]]:
    """Yield (cell, its rows of the run table) as each cell ends, the shortest first.

    `folder` holds the trunk's checkpoints; with None nothing is written. `keep` is given the model of a cell that
    reached its horizon and its final evaluation, before the cell is yielded. A cell whose loss stops being a number,
    or is no better than a guess, ends as "diverged" with the rows up to there. `make` makes the learner where one
    process trains it. Raises ValueError for cells of different trunks or corpora.
    """
    cells = sorted(cells, key=lambda cell: cell.steps)
    _check(cells, corpus, where)
    configure_process(where.threads)
    learner, checkpoints = _set_up(cells[0], corpus, folder, where, make)
    if found := checkpoints.trunk(up_to=cells[0].branch_step):
        learner.load(found)
    for cell in cells:
        _train(learner, cell, cell.branch_step, checkpoints.save_trunk, checkpoints, on_progress)
        at_branch = learner.state()
        if learner.healthy:
            checkpoints.save_branch(at_branch)
            _cool_down(learner, cell, checkpoints, on_progress)
        if keep and learner.healthy:
            keep(cell, learner.whole_model(), learner.evaluation)
        yield cell, _rows(learner, cell, corpus, where.device)
        checkpoints.drop_cooldown(cell.run_id)
        learner.load(at_branch)


def _set_up(
    cell: Cell, corpus: Corpus, folder: Path | None, where: WhereSpec, make: Callable[..., Learner]
) -> tuple[Learner, Checkpoints]:
    check_cell(cell, where)
    engine = decide(cell, where)
    if engine.note:
        _say_once(f"family {cell.model.family} on {where.device} trains {engine.note}")
    if where.distributed != "none":
        from isoflop.experiments.parallel.replicas import set_up  # loads torch.distributed's shards and checkpoints

        return set_up(cell, corpus, folder, where, engine)
    return make(cell, corpus, where.device, engine=engine), Checkpoints(folder, where.checkpoint_seconds)


@cache
def _say_once(note: str) -> None:
    log.warning(note)


def _cool_down(learner: Learner, cell: Cell, checkpoints: Checkpoints, on_progress: Callable | None) -> None:
    if found := checkpoints.cooldown(cell.run_id):
        learner.load(found)
    _train(
        learner, cell, cell.steps, lambda state: checkpoints.save_cooldown(cell.run_id, state), checkpoints, on_progress
    )
    if learner.healthy:
        learner.measure(cell.steps, windows=learner.windows)


def _train(
    learner: Learner,
    cell: Cell,
    until: int,
    save: Callable[[dict], None],
    checkpoints: Checkpoints,
    on_progress: Callable[[Progress], None] | None,
) -> None:
    """Advance to step `until`, with rows on the way, unless the run diverges."""
    rows = set(row_steps(until)) - {cell.steps}
    while learner.step < until and learner.healthy:
        next_chunk = (learner.step // _CHUNK + 1) * _CHUNK
        learner.advance(min([until, next_chunk, *(r for r in rows if r > learner.step)]), cell.steps)
        if learner.step in rows and learner.healthy:
            learner.measure(cell.steps)
        if checkpoints.due() and learner.healthy:
            save(learner.state())
        if on_progress:
            tokens = learner.step * cell.batch_tokens
            on_progress(
                Progress(run_id=cell.run_id, step=learner.step, tokens=tokens, measurements=learner.measurements)
            )


def _rows(learner: Learner, cell: Cell, corpus: Corpus, device: str) -> list[dict]:
    diverged = not learner.healthy
    if diverged and (not learner.measurements or learner.measurements[-1].step != learner.step):
        learner.measure(cell.steps)
    state = "diverged" if diverged else "done"
    return run_rows(
        cell,
        corpus,
        learner.measurements,
        state=state,
        device=device,
        processes=learner.processes,
        kernels=kernels_build(learner.model) if learner.engine.by_hand else "",
    )


def _check(cells: Sequence[Cell], corpus: Corpus, where: WhereSpec) -> None:
    if where.device != "cpu" and not (where.device.startswith("cuda") and torch.cuda.is_available()):
        raise ValueError(f"where.device={where.device} is not available on this machine; use where.device=cpu")
    trunks = sorted({cell.trunk_id for cell in cells})
    if len(trunks) != 1:
        raise ValueError(f"train_trunk takes the cells of one trunk; got {len(trunks)}: {', '.join(trunks)}")
    for cell in cells:
        schedule.check(cell.schedule)
        if cell.corpus_id != corpus.corpus_id:
            raise ValueError(f"run {cell.run_id}: made for corpus {cell.corpus_id}, given corpus {corpus.corpus_id}")
