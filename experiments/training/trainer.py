"""Train the cells of one trunk: the trunk once, a cooldown branch per cell, in the order of their horizons.

Nothing here depends on which cells are trained together: a cell trained alone, in a sweep, or in pieces between kills
ends with the same rows to the bit (on CPU with one thread).
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TypedDict

import torch

from isoflop.experiments.config import WhereSpec
from isoflop.experiments.data.batches import Corpus
from isoflop.experiments.study.cell import Cell, row_steps, rows_between
from isoflop.experiments.study.engine import Engine, decide
from isoflop.experiments.training import process
from isoflop.experiments.training.checkpoint import Checkpoints, State
from isoflop.experiments.training.evaluate import Evaluation
from isoflop.experiments.training.learner import Learner, MakeLearner
from isoflop.experiments.training.rows import Measurement, run_rows
from isoflop.models.language_model import LanguageModel

log = logging.getLogger(__name__)

_CHUNK, _GROUP = 64, 8  # steps, or so many groups of small ones, between looks at the loss, the clock and the caller


class Progress(TypedDict):
    """How far a cell is, reported every few dozen steps and before a checkpoint is written."""

    run_id: str
    step: int
    tokens: int
    measurements: list[Measurement]  # so far, those of the trunk included


OnProgress = Callable[[Progress], None]


def train_trunk(
    cells: Sequence[Cell],
    corpus: Corpus,
    *,
    folder: Path | None,
    where: WhereSpec,
    on_progress: OnProgress | None = None,
    keep: Callable[[Cell, LanguageModel, Evaluation], None] | None = None,
    make: MakeLearner = Learner,
    engine: Engine | None = None,
    until: Mapping[str, int] | None = None,
) -> Iterator[tuple[Cell, list[dict]]]:
    """Yield (cell, its rows of the run table) as each cell ends, the shortest first.

    `folder` holds the trunk's checkpoints, from which training goes on; with None nothing is written. `keep` is given
    the model of a cell that reached its horizon and its final evaluation, before the cell is yielded. A cell whose loss
    stops being a number, or is no better than a guess (`rows.only_guesses`), ends as "diverged" with the rows up to
    there. `make` makes the learner: `Learner` for one process, or one of `parallel.follow.learner_class`. `engine` is
    what `decide` gave for these cells, where somebody has called it. A cell that `until` names by its run id ends as
    "stopped" after so many steps, if it has more, with the rows up to there. Raises ValueError for cells of different
    trunks or corpora, and for a cell that cannot be trained as `where` says.
    """
    cells = sorted(cells, key=lambda cell: cell.steps)
    _check(cells, corpus, where)
    if not process.configured or torch.get_num_threads() != where.threads:  # else the worker began so
        process.configure_process(where.threads)
    learner = _learner(cells[0], corpus, where, make, engine or decide(cells[0], where))
    checkpoints = learner.checkpoints(folder, where.checkpoint_seconds)
    for cell in cells:
        end = min((until or {}).get(cell.run_id, cell.steps), cell.steps)
        leaves = min(end, cell.branch_step)
        if found := checkpoints.trunk(up_to=leaves, beyond=learner.step if learner.step else -1):
            learner.load(found)
        _train(learner, cell, leaves, checkpoints.save_trunk, checkpoints, on_progress, where.curve_rows)
        at_branch = learner.state()
        if learner.healthy:
            save = checkpoints.save_branch if leaves == cell.branch_step else checkpoints.save_trunk
            save(at_branch)
            if end > leaves:
                evaluation = _cool_down(learner, cell, end, checkpoints, on_progress, where.curve_rows)
                if keep and evaluation and learner.healthy:
                    keep(cell, learner.whole_model(), evaluation)
        yield cell, _rows(learner, cell, corpus, where.device)
        if end == cell.steps or not learner.healthy:
            checkpoints.drop_cooldown(cell.run_id)
        learner.load(at_branch)


def _learner(cell: Cell, corpus: Corpus, where: WhereSpec, make: MakeLearner, engine: Engine) -> Learner:
    if engine.note:
        _warn_once(f"family {cell.model.family} on {where.device} trains {engine.note}")
    return make(cell, corpus, where.device, engine=engine)


@cache
def _warn_once(note: str) -> None:
    log.warning(note)


def _cool_down(
    learner: Learner, cell: Cell, end: int, checkpoints: Checkpoints, on_progress: OnProgress | None, curve_rows: int
) -> Evaluation | None:
    """Train a cell from its branch point to step `end`; returns its final evaluation, None if it does not get there."""
    if found := checkpoints.cooldown(cell.run_id):
        learner.load(found)

    def save(state: State) -> None:
        checkpoints.save_cooldown(cell.run_id, state)

    _train(learner, cell, end, save, checkpoints, on_progress, curve_rows)
    if end < cell.steps and learner.healthy:
        save(learner.state())
    return learner.measure(cell.steps, windows=learner.windows) if learner.healthy and end == cell.steps else None


def _train(
    learner: Learner,
    cell: Cell,
    until: int,
    save: Callable[[State], None],
    checkpoints: Checkpoints,
    on_progress: OnProgress | None,
    curve_rows: int,
) -> None:
    """Advance to step `until`, with rows and checkpoints between, unless the run diverges."""
    grid = set(row_steps(until)) - {cell.steps}
    rows = grid | (set(rows_between(cell, until, curve_rows)) - {cell.steps})
    chunk = _CHUNK * min(_GROUP, learner.together[0])
    while learner.step < until and learner.healthy:
        next_chunk = (learner.step // chunk + 1) * chunk
        learner.advance(min([until, next_chunk, *(r for r in rows if r > learner.step)]), cell.steps)
        if learner.step in rows and learner.healthy:
            learner.measure(cell.steps, between=learner.step not in grid)
        if on_progress:
            tokens = learner.step * cell.batch_tokens
            on_progress(
                Progress(run_id=cell.run_id, step=learner.step, tokens=tokens, measurements=learner.measurements)
            )
        if checkpoints.due() and learner.healthy:
            save(learner.state())


def _rows(learner: Learner, cell: Cell, corpus: Corpus, device: str) -> list[dict]:
    """The rows of a cell that has ended; one that diverged between two rows is measured where it stopped."""
    diverged = not learner.healthy
    if diverged and (not learner.measurements or learner.measurements[-1].step != learner.step):
        learner.measure(cell.steps)
    return run_rows(
        cell,
        corpus,
        learner.measurements,
        state="diverged" if diverged else "done" if learner.step == cell.steps else "stopped",
        device=device,
        processes=learner.processes,
        kernels=learner.model_step.build,
        engine="+".join(sorted(learner.engines)),
    )


def _check(cells: Sequence[Cell], corpus: Corpus, where: WhereSpec) -> None:
    """Raise ValueError, naming the value and the remedy, for what cannot be trained."""
    if where.device != "cpu" and not (where.device.startswith("cuda") and torch.cuda.is_available()):
        raise ValueError(f"where.device={where.device} is not available on this machine; use where.device=cpu")
    if where.micro_batch is not None and where.micro_batch < 1:
        raise ValueError(f"where.micro_batch is a number of sequences, 1 or more; not {where.micro_batch}")
    trunks = sorted({cell.trunk_id for cell in cells})
    if len(trunks) != 1:
        raise ValueError(f"train_trunk takes the cells of one trunk; got {len(trunks)}: {', '.join(trunks)}")
    for cell in cells:
        if cell.corpus_id != corpus.corpus_id:
            raise ValueError(f"run {cell.run_id}: made for corpus {cell.corpus_id}, given corpus {corpus.corpus_id}")
        if cell.model.experts and (where.distributed != "none" or where.micro_batch):
            raise ValueError(
                f"{cell.label}: the balance loss of a mixture of experts is of the whole batch; "
                "use where.distributed=none and no where.micro_batch"
            )
