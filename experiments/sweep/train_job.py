"""What one job does: read the cells of its trunks, train them, record every one of them.

A job may be killed at any moment: what it had finished is on disk, what it had not is trained again from the last
checkpoint to the same bits. It never raises for a cell's sake; the launch (`sweep.launch`) reads the outcome from the
store. It needs neither the configuration files, nor the study, nor the source of its corpus: the launch wrote all that
it resolved to a file beside the trunk's claim.

    trunks/<trunk_id>/cells-<key>.json    a `WorkFile`

The key is a hash of the whole study, so that launches of different studies that share a trunk do not disturb each
other. Whoever reads a file computes the run ids anew: a file of another version, or one that was edited, is refused.
"""

import hashlib
import json
import logging
import math
import os
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict, cast

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from isoflop.experiments.config import WhereSpec
from isoflop.experiments.cost.memory import available_bytes, explanation, is_out_of_memory, with_less
from isoflop.experiments.cost.packs import share
from isoflop.experiments.data.batches import Corpus, OpenCorpora, Prepared, corpus_key
from isoflop.experiments.data.corpus import prepare
from isoflop.experiments.files import Claim, ClaimLostError, check_name, is_disk_error, read_kept, write_json
from isoflop.experiments.store.running import RunningCurve
from isoflop.experiments.store.store import SETTLED, STOPPED, Store, StoreError, is_over, open_store
from isoflop.experiments.study.cell import Cell, from_plain, to_plain
from isoflop.experiments.study.engine import Engine, decide
from isoflop.experiments.study.same_runs import Apart, in_words
from isoflop.experiments.study.study import Study
from isoflop.experiments.sweep.pool import at_work, elsewhere
from isoflop.experiments.training.checkpoint import prune
from isoflop.printable import printable
from isoflop.scaling.table.runs import write_run

if TYPE_CHECKING:  # loads torch
    from isoflop.experiments.parallel.pack import Aside
    from isoflop.experiments.training.evaluate import Evaluation
    from isoflop.experiments.training.learner import MakeLearner
    from isoflop.models.language_model import LanguageModel

HEARTBEAT_SECONDS = 1.0

log = logging.getLogger(__name__)


def job(config: DictConfig) -> None:
    """The function that Hydra's launchers call in a worker; `config` has the settings of `where`, and `runs`."""
    at_work.append(config)
    try:
        _go_to(HydraConfig.get().runtime.cwd)
        where = cast(WhereSpec, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(WhereSpec), config.where)))
        train_trunks(where, config.runs)
    finally:
        at_work.clear()


def train_trunks(where: WhereSpec, runs: str) -> None:
    """Train the trunks that `where.trunk` names, together where they are several, from their files in the store."""
    store = open_store(runs)
    works = read_works(store, where)
    known = {corpus_key(work.cells[0].data): work.prepared for work in works if work.prepared}
    corpora = OpenCorpora(partial(prepare, root=Path(where.corpora).resolve()), known)
    train_together(works, corpora, store, where)


def _go_to(folder: str) -> None:
    """Relative paths are those of the launch, also on a machine whose workers start elsewhere."""
    try:
        os.chdir(folder)
    except OSError as error:
        raise StoreError(
            f"{socket.gethostname()} does not see {folder}, the folder of the launch ({error.strerror}): "
            "launch from a folder that every machine shares"
        ) from error


@dataclass(frozen=True)
class Work:
    """One trunk as its launch resolved it: all that a job needs to know."""

    study: str
    hold_out: tuple[float, ...]
    cells: tuple[Cell, ...]  # the shortest first
    listings: Mapping[str, Mapping]  # by run id
    engine: Engine
    prepared: Prepared | None = None  # the corpus; None: to be prepared
    until: Mapping[str, int] = field(default_factory=dict)  # by run id, steps after which it stops; others at their end


class WorkFile(TypedDict):
    """A `Work` in JSON."""

    study: str
    hold_out: list[float]
    cells: list[dict[str, Any]]
    listings: dict[str, dict[str, Any]]
    engine: Engine
    prepared: Prepared
    until: NotRequired[dict[str, int]]


def work_of(
    study: Study,
    cells: Sequence[Cell],
    where: WhereSpec,
    until: Mapping[str, int] | None = None,
    apart: Apart | None = None,
) -> Work:
    """What is to be done of one trunk of a study, under `where`; `apart` is of all cells of the launch.

    Raises EngineError for what cannot work.
    """
    listings = {cell.run_id: listing(cell, apart or {}) for cell in cells}
    stops = {cell.run_id: steps for cell in cells if (steps := (until or {}).get(cell.run_id, cell.steps)) < cell.steps}
    return Work(study.name, study.hold_out, tuple(cells), listings, decide(cells[0], where), until=stops)


def work_key(study: Study, where: WhereSpec, until: Mapping[str, int] | None = None) -> str:
    """Hash of a study's name, its held-out budgets, every field of its cells, how their steps are taken, and how many
    where they stop."""
    cells = [to_plain(cell) for cell in study.cells]
    engines = {trunk_id: asdict(decide(group[0], where)) for trunk_id, group in study.trunks.items()}
    whole = json.dumps([study.name, study.hold_out, cells, engines, *([until] if until else [])], sort_keys=True)
    return hashlib.sha256(whole.encode()).hexdigest()[:12]


def write_work(store: Store, work: Work, corpus: Corpus, key: str) -> None:
    """Write the file of a job. The same study gives the same files, byte by byte."""
    value = WorkFile(
        study=work.study,
        hold_out=list(work.hold_out),
        cells=[to_plain(cell) for cell in work.cells],
        listings={run_id: dict(one) for run_id, one in work.listings.items()},
        engine=asdict(work.engine),  # type: ignore[typeddict-item]  # as JSON holds it
        prepared=corpus.prepared,
    )
    if work.until:
        value["until"] = dict(work.until)
    write_json(store.work_file(work.cells[0].trunk_id, key), dict(value))


def read_works(store: Store, where: WhereSpec) -> list[Work]:
    """What a launch wrote for the trunks of `where.trunk`.

    Raises StoreError naming the file that is not there, cannot be read, or holds cells of other run ids than it says.
    """
    if not where.trunk:
        raise StoreError(f"where.cells={where.cells} needs where.trunk, whose cells they are: both are a launch's own")
    return [_read_work(store, trunk_id, where.cells or "") for trunk_id in where.trunk.split(",")]


def _read_work(store: Store, trunk_id: str, key: str) -> Work:
    path = store.work_file(trunk_id, key)
    value = read_kept(path, WorkFile, "isoflop run writes it anew")
    if value is None:
        raise StoreError(
            f"{path}: no such file, and it holds the cells to train; is {store.root} the folder of the launch? "
            "isoflop run writes the file anew"
        )
    try:
        if value["study"]:
            check_name(value["study"], "study")
        cells = tuple(from_plain(plain) for plain in value["cells"])
        if {cell.trunk_id for cell in cells} != {trunk_id}:
            raise ValueError(f"they are of trunk {cells[0].trunk_id if cells else 'none'}")
        listings = {cell.run_id: value["listings"][cell.run_id] for cell in cells}
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{path}: not the cells of a trunk ({error}); isoflop run writes the file anew") from error
    engine = Engine(**value["engine"])
    prepared, until = value["prepared"], value.get("until", {})
    return Work(value["study"], tuple(value["hold_out"]), cells, listings, engine, prepared, until)


def listing(cell: Cell, apart: Apart) -> dict:
    """The fields of a cell in the store's list of a study; `apart` has the settings that tell it from its like."""
    label = f"{cell.label} {in_words(apart.get(cell.run_id, {}))}".rstrip()
    return {
        "run_id": cell.run_id, "trunk_id": cell.trunk_id, "label": label, "size": cell.size, "arm": cell.arm,
        "seed": cell.seed, "steps": cell.steps, "branch_step": cell.branch_step, "flops": cell.training_flops,
        "budget_flops": cell.budget_flops,
    }  # fmt: skip


def wanted(cell: Cell, where: WhereSpec) -> bool:
    """Whether a launch is to train this cell: any that it lacks, unless runs or trunks are named."""
    of_trunk = where.trunk is None or cell.trunk_id in where.trunk.split(",")
    return of_trunk and (where.only is None or cell.run_id in where.only)


def train_together(works: Sequence[Work], corpora: OpenCorpora, store: Store, where: WhereSpec) -> None:
    """Train one trunk, or several side by side: each is claimed, recorded and resumed as it would be alone."""
    trains = [partial(train_claimed, work, corpora, store, where) for work in works]
    if len(trains) == 1:
        trains[0]()
        return
    from isoflop.experiments.parallel.pack import train_pack  # load torch
    from isoflop.experiments.training.keep import here

    room = available_bytes(where.device)
    shares = [share(work.cells[0], where, room) for work in works]
    aside = here if where.device == "cpu" else partial(elsewhere, where.threads)
    train_pack(list(zip(shares, trains, strict=True)), where.device, aside)


def train_claimed(
    work: Work,
    corpora: OpenCorpora,
    store: Store,
    where: WhereSpec,
    make: "MakeLearner | None" = None,
    aside: "Aside | None" = None,
) -> None:
    """Train what is missing of one trunk, unless another living process is at it.

    `make` makes learners of a pack, and `aside` lets the others of the pack go on while files are written.

    Raises OSError when the disk refuses to be written: that is no cell's fault, and what was finished stays.
    """
    trunk_id = work.cells[0].trunk_id
    claim = store.claim(trunk_id)
    if claim is None:
        return
    curve = cache(lambda: RunningCurve(claim))  # made when there is a row, or at the end
    try:
        with _heartbeat(claim) as progress:
            if pending := _left(work, store, where):
                corpus = corpora(pending[0].data)  # before a cell is recorded as running: it is no cell's fault
                for cell in pending:
                    _require(claim, store)
                    store.start(work.listings[cell.run_id])
                _train(work, pending, corpus, store, where, claim, progress, make, aside, curve)
            claim.check()
            prune(claim.folder, unsettled(store, trunk_id))
    except ClaimLostError as error:
        store.check_there()
        print(printable(f"{error}; it leaves the trunk and writes nothing more of it"), file=sys.stderr)
        if where.distributed != "none":
            raise SystemExit(1) from error  # as where a cell fails
    finally:
        curve().end()
        claim.release()


def _require(claim: Claim, store: Store) -> None:
    """Raise StoreError or ClaimLostError where this process may write no more of a trunk."""
    store.check_there()
    claim.check()


def _left(work: Work, store: Store, where: WhereSpec) -> list[Cell]:
    """The cells that this launch is to train and that are not as far as they are to come."""
    states = store.states([cell.run_id for cell in work.cells])[["state", "step"]].itertuples(index=False)
    left = [
        cell for cell, (state, step) in zip(work.cells, states, strict=True)
        if not is_over(state, step, work.until.get(cell.run_id))
    ]  # fmt: skip
    return [cell for cell in left if wanted(cell, where)]


def unsettled(store: Store, trunk_id: str) -> dict[str, int]:
    """Branch step of each cell of a trunk that has no result, whichever study lists it."""
    states = store.states()
    left = states[(states["trunk_id"] == trunk_id) & ~states["state"].isin(SETTLED)]
    return dict(zip(left["run_id"], left["branch_step"], strict=True))


def _train(
    work: Work,
    pending: list[Cell],
    corpus: Corpus,
    store: Store,
    where: WhereSpec,
    claim: Claim,
    progress: dict,
    make: "MakeLearner | None",
    aside: "Aside | None",
    curve: Callable[[], RunningCurve],
) -> None:
    """Train cells of one trunk, the shortest first; one that raises is recorded and the others go on without it.

    Before anything is written, the store must be there and the claim this process'.
    """
    from isoflop.experiments.trackers.sinks import Trackers
    from isoflop.experiments.training.keep import here, keep_model  # these import torch: only where cells are trained
    from isoflop.experiments.training.learner import Learner
    from isoflop.experiments.training.rows import run_rows
    from isoflop.experiments.training.trainer import Progress, train_trunk

    if where.distributed != "none":
        from isoflop.experiments.parallel.follow import lead
        from isoflop.experiments.parallel.replicas import learner_class

        make = learner_class(where)
    trackers = Trackers(where.trackers, store.root, work.study, corpus, where.device) if where.trackers else None
    beside: Aside = aside or (lambda: nullcontext(here))
    halved = False  # the sequences at once, after memory ran out
    by_id = {cell.run_id: cell for cell in pending}

    def on_progress(at: Progress) -> None:
        claim.check()
        progress.update({key: at[key] for key in ("run_id", "step", "tokens")})
        cell, so_far = by_id[at["run_id"]], at["measurements"]
        if so_far:
            curve().follow(
                cell.run_id, len(so_far), lambda: run_rows(cell, corpus, so_far, state="running", device=where.device)
            )
        if trackers:
            trackers.follow(cell, so_far)

    def keep(cell: Cell, model: "LanguageModel", evaluation: "Evaluation") -> None:
        with beside() as call:
            _require(claim, store)
            keep_model(cell, model, evaluation, store=store, corpus=corpus, elsewhere=call)

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
                    keep=keep,
                    make=make or Learner,
                    engine=replace(work.engine, micro_batch=where.micro_batch),
                    until=work.until,
                ):
                    with beside():
                        _require(claim, store)
                        curve().end()  # first: a trunk that is done would keep the file if it were killed in between
                        _settle(cell, rows, store, work)
                        if trackers and cell.run_id not in work.until:
                            trackers.finish(cell, rows)
                    pending.remove(cell)
            except ClaimLostError:
                raise
            except Exception as error:
                _require(claim, store)
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


def config_of(cell: Cell, work: Work) -> dict[str, Any]:
    """The configuration that a run's file holds beside its rows: `store.run_config.RunConfig`."""
    return {
        "what": cell.what(),
        "data": asdict(cell.data),
        "size": cell.size,
        "arm": cell.arm,
        "study": work.study,
        "hold_out": work.hold_out,
        "parent": cell.initial and {"run_id": cell.initial.parent, "folder": str(cell.initial.folder)},
    }


def _settle(cell: Cell, rows: list[dict], store: Store, work: Work) -> None:
    """Write the rows of a cell that has ended or stopped, then its state: a reader that sees this finds the rows."""
    if not rows:  # stopped before its first
        store.record(cell.run_id, STOPPED, step=work.until[cell.run_id])
        return
    write_run(store.run_file(cell.run_id), rows, config_of(cell, work))
    last = rows[-1]
    error, step = "", int(last["step"])
    if last["state"] == STOPPED:
        step = work.until[cell.run_id]
    if last["state"] == "diverged":
        error = _diverged(last)
    store.record(
        cell.run_id, last["state"], step=step, seconds=float(last["wall_seconds"]), error=error,
        engine=last["engine"],
    )  # fmt: skip


def _diverged(last: dict) -> str:
    """What ended a run that diverged, by its last row."""
    finite = math.isfinite(last["loss"])
    guess = f", no better than a guess (ln V = {math.log(last['vocab_size']):.4g})," if finite else ""
    return f"loss is {last['loss']:.4g}{guess} at step {last['step']}, learning rate {last['learning_rate']:.3g}"


@contextmanager
def _heartbeat(claim: Claim) -> Iterator[dict]:
    """Keep a claim alive from a thread while the body runs; yields the progress that it records."""
    progress, stop = {"step": 0}, threading.Event()

    def beat() -> None:
        while not stop.wait(HEARTBEAT_SECONDS):
            try:
                claim.beat(**progress)
            except OSError:  # a full disk: the work itself will say so, and on this machine the process counts
                continue
            except ClaimLostError:  # so will the work of this
                return

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield progress
    finally:
        stop.set()
        thread.join()
