"""What one job does: read the cells of its trunks, train them, record every one of them.

A job may be killed at any moment: what it had finished is on disk, what it had not is trained again from the last
checkpoint to the same bits. It never raises for a cell's sake; the launch (`sweep.launch`) reads the outcome from the
store. It needs neither the configuration files nor the study: the launch wrote the resolved cells (`store.cells`).
"""

import logging
import os
import socket
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from isoflop.experiments.config import WhereSpec
from isoflop.experiments.cost.memory import explanation, is_out_of_memory, with_less
from isoflop.experiments.data.corpus import Corpora, Corpus
from isoflop.experiments.files import Claim
from isoflop.experiments.store.cells import read_cells
from isoflop.experiments.store.store import SETTLED, Store, StoreError, is_disk_error, open_store
from isoflop.experiments.study.cell import Cell, group_by_trunk
from isoflop.experiments.study.study import Study
from isoflop.experiments.training.checkpoint_files import prune
from isoflop.scaling.table.runs import write_run

if TYPE_CHECKING:  # loads torch
    from isoflop.experiments.training.learner import MakeLearner

HEARTBEAT_SECONDS = 1.0

log = logging.getLogger(__name__)


def job(config: DictConfig) -> None:
    """The function that Hydra's launchers call in a worker; `config` has the settings of `where`, and `runs`."""
    _go_to(HydraConfig.get().runtime.cwd)
    where = cast(WhereSpec, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(WhereSpec), config.where)))
    train_trunks(where, config.runs)


def train_trunks(where: WhereSpec, runs: str) -> None:
    """Train the trunks that `where.trunk` names, together where they are several, from their files in the store."""
    store = open_store(runs)
    study = read_cells(store, (where.trunk or "").split(","), where.cells or "")
    corpora = Corpora(Path(where.corpora).resolve())
    train_together(list(group_by_trunk(study.cells).values()), corpora, store, where, study)


def _go_to(folder: str) -> None:
    """Relative paths are those of the launch, also on a machine whose workers start elsewhere."""
    try:
        os.chdir(folder)
    except OSError as error:
        raise StoreError(
            f"{socket.gethostname()} does not see {folder}, the folder of the launch ({error.strerror}): "
            "launch from a folder that every machine shares"
        ) from error


def listing(cell: Cell) -> dict:
    """What the store says of a cell before it has run."""
    return {
        "run_id": cell.run_id, "trunk_id": cell.trunk_id, "label": cell.label, "size": cell.size, "arm": cell.arm,
        "seed": cell.seed, "steps": cell.steps, "branch_step": cell.branch_step, "flops": cell.training_flops,
        "budget_flops": cell.budget_flops,
    }  # fmt: skip


def wanted(cell: Cell, where: WhereSpec) -> bool:
    """Whether a launch is to train this cell: any that it lacks, unless runs or trunks are named."""
    of_trunk = where.trunk is None or cell.trunk_id in where.trunk.split(",")
    return of_trunk and (where.only is None or cell.run_id in where.only)


def train_together(
    trunks: Sequence[Sequence[Cell]], corpora: Corpora, store: Store, where: WhereSpec, study: Study
) -> None:
    """Train one trunk, or several in one step: each is claimed, recorded and resumed as it would be alone."""
    trains = [partial(train_claimed, cells, corpora, store, where, study) for cells in trunks]
    if len(trains) == 1:
        trains[0]()
        return
    from isoflop.experiments.parallel.pack import train_pack  # loads torch

    train_pack(trains)


def train_claimed(
    cells: Sequence[Cell],
    corpora: Corpora,
    store: Store,
    where: WhereSpec,
    study: Study,
    make: "MakeLearner | None" = None,
) -> None:
    """Train what is missing of one trunk, unless another living process is at it; `make` makes learners of a pack.

    Raises OSError when the disk refuses to be written: that is no cell's fault, and what was finished stays.
    """
    claim = store.claim(cells[0].trunk_id)
    if claim is None:
        return
    try:
        pending = _left(cells, store, where)
        for cell in pending:
            store.start(listing(cell))
        with _heartbeat(claim) as progress:
            _train(pending, corpora(cells[0].data), store, where, study, progress, make)
        prune(claim.folder, unsettled(store, cells[0].trunk_id))
    finally:
        claim.release()


def _left(cells: Sequence[Cell], store: Store, where: WhereSpec) -> list[Cell]:
    """Those that this launch is to train and that have no result."""
    states = store.states([cell.run_id for cell in cells])["state"]
    left = [cell for cell, state in zip(cells, states, strict=True) if state not in SETTLED]
    return [cell for cell in left if wanted(cell, where)]


def unsettled(store: Store, trunk_id: str) -> dict[str, int]:
    """Branch step of each cell of a trunk that has no result, whichever study lists it."""
    states = store.states()
    left = states[(states["trunk_id"] == trunk_id) & ~states["state"].isin(SETTLED)]
    return dict(zip(left["run_id"], left["branch_step"], strict=True))


def _train(
    pending: list[Cell],
    corpus: Corpus,
    store: Store,
    where: WhereSpec,
    study: Study,
    progress: dict,
    make: "MakeLearner | None",
) -> None:
    """Train cells of one trunk, the shortest first; one that raises is recorded and the others go on without it."""
    from isoflop.experiments.trackers.sinks import Trackers
    from isoflop.experiments.training.keep import keep_model  # these import torch: only where cells are trained
    from isoflop.experiments.training.learner import Learner
    from isoflop.experiments.training.trainer import Progress, train_trunk

    if where.distributed != "none":
        from isoflop.experiments.parallel.follow import lead
        from isoflop.experiments.parallel.replicas import learner_class

        make = learner_class(where)
    trackers = Trackers(where.trackers, store.root, study.name, corpus, where.device) if where.trackers else None
    halved = False  # the sequences at once, after memory ran out
    by_id = {cell.run_id: cell for cell in pending}

    def on_progress(at: Progress) -> None:
        progress.update({key: at[key] for key in ("run_id", "step", "tokens")})
        if trackers:
            trackers.follow(by_id[at["run_id"]], at["measurements"])

    with trackers or nullcontext():
        while pending:
            folder = store.trunk_folder(pending[0].trunk_id)
            if where.distributed != "none":
                lead(pending, folder)
            try:
                for cell, rows in train_trunk(
                    list(pending),
                    corpus,
                    folder=folder,
                    where=where,
                    on_progress=on_progress,
                    keep=partial(keep_model, store=store, corpus=corpus),
                    make=make or Learner,
                ):
                    _settle(cell, rows, store, study)
                    if trackers:
                        trackers.finish(cell, rows)
                    pending.remove(cell)
            except Exception as error:
                if is_disk_error(error):
                    raise
                message = traceback.format_exc()
                if is_out_of_memory(error):
                    if (less := with_less(where, pending[0])) and not halved:
                        log.warning("%s: %s", explanation(pending[0], where), f"trying {less.micro_batch} sequences")
                        where, halved = less, True
                        continue
                    message += explanation(pending[0], where)
                store.record(pending.pop(0).run_id, "failed", step=progress["step"], error=message)
                if where.distributed != "none":
                    raise SystemExit(1) from error  # the other processes are in the middle of something: end them too


def _settle(cell: Cell, rows: list[dict], store: Store, study: Study) -> None:
    """Write a finished cell's rows, then its state: a reader that sees the state finds the rows."""
    config = {
        "what": cell.what(),
        "data": asdict(cell.data),
        "size": cell.size,
        "arm": cell.arm,
        "study": study.name,
        "hold_out": study.hold_out,
        "parent": cell.initial and {"run_id": cell.initial.parent, "folder": str(cell.initial.folder)},
    }
    store.check_there()
    write_run(store.run_file(cell.run_id), rows, config)
    last = rows[-1]
    error = ""
    if last["state"] == "diverged":
        error = f"loss is {last['loss']:.4g} at step {last['step']}, learning rate {last['learning_rate']:.3g}"
    store.record(cell.run_id, last["state"], step=int(last["step"]), seconds=float(last["wall_seconds"]), error=error)


@contextmanager
def _heartbeat(claim: Claim) -> Iterator[dict]:
    """Keep a claim alive from a thread while the body runs; yields the progress that it records."""
    progress, stop = {"step": 0}, threading.Event()

    def beat() -> None:
        while not stop.wait(HEARTBEAT_SECONDS):
            with suppress(OSError):  # a full disk: the work itself will say so, and on this machine the process counts
                claim.beat(**progress)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield progress
    finally:
        stop.set()
        thread.join()
