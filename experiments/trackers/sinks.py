"""Optional sinks beside the store: a run of every cell in TensorBoard or Weights & Biases, with its settings and curve.

The store stays the truth. A tracker is told rows from a thread of its own, so that training never waits for one, and
one that fails is a warning, once: the run goes on without it. Rows are told in order and each once: a run that goes on
after a kill tells its earlier rows again, and a sink leaves out those that it has.
What remains is the import of their libraries, which costs the first cell of a worker a few seconds.
"""

import logging
import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from isoflop.experiments.compose import UsageError
from isoflop.experiments.data.corpus import Corpus
from isoflop.experiments.study.cell import Cell
from isoflop.experiments.study.sizes import suggest
from isoflop.models.config import n_matrices, n_total

if TYPE_CHECKING:  # a launch checks names before anything starts, and needs no torch for it
    from isoflop.experiments.training.rows import Measurement

log = logging.getLogger(__name__)
NAMES = ("tensorboard", "wandb")
CURVES = (
    "loss", "train_loss", "bits_per_byte", "accuracy", "learning_rate", "tokens", "flops", "epochs", "wall_seconds",
)  # fmt: skip
PATIENCE_SECONDS = 20.0  # that the end of a trunk waits for trackers; what they have not written then is told


@dataclass(frozen=True)
class TrackedRun:
    """One cell as a tracker names it. `settings` are flat, keys in the words of the configuration."""

    run_id: str
    name: str
    study: str
    arm: str
    settings: dict


class Sink(Protocol):
    """Takes the rows of runs in the order of their steps; `ended` with the last ones of a run."""

    def write(self, run: TrackedRun, rows: Sequence[dict], *, ended: bool) -> None: ...

    def close(self) -> None: ...


def check(trackers: Sequence[str]) -> None:
    """Raise UsageError for a tracker that is unknown or not installed."""
    for name in trackers:
        if name not in NAMES:
            raise UsageError(f"where.trackers: no tracker {name!r}{suggest(name, NAMES)}")
        if find_spec(name) is None:
            raise UsageError(
                f"where.trackers: {name} is not installed; pip install 'isoflop[{name}]', or leave it out of the list"
            )


def describe(cell: Cell, study: str) -> TrackedRun:
    parts = {"model": cell.model, "data": cell.data, "optim": cell.optim, "schedule": cell.schedule}
    settings = {
        f"{group}.{key}": value
        for group, part in parts.items()
        for key, value in asdict(part).items()
        if isinstance(value, str | int | float | bool)
    }
    settings |= {
        "study": study, "arm": cell.arm, "size": cell.size, "seed": cell.seed, "steps": cell.steps,
        "n_params_matrices": n_matrices(cell.model), "n_params_total": n_total(cell.model),
        "tokens": cell.horizon_tokens, "flops": float(cell.training_flops), "corpus_id": cell.corpus_id,
    }  # fmt: skip
    arm = f"{cell.arm}-" if cell.arm else ""
    name = f"{arm}{cell.size}-{cell.training_flops:.2g}-seed{cell.seed}-{cell.run_id}"
    return TrackedRun(cell.run_id, name, study or "single", cell.arm, settings)


class Trackers:
    """Tells the sinks of `names` from one thread; a context manager that waits for them at its end, but not for long.

    With no names it does nothing and starts no thread.
    """

    def __init__(self, names: Sequence[str], folder: Path, study: str, corpus: Corpus, device: str) -> None:
        self.names, self.folder, self.study, self.corpus, self.device = tuple(names), folder, study, corpus, device
        self._told: dict[str, int] = {}
        self._queue: queue.SimpleQueue = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> "Trackers":
        if self.names:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if not self.names:
            return
        self._queue.put(None)
        self._thread.join(PATIENCE_SECONDS)
        if self._thread.is_alive():
            log.warning("%s not done after %.0f s; training goes on", " and ".join(self.names), PATIENCE_SECONDS)

    def follow(self, cell: Cell, measurements: "Sequence[Measurement]") -> None:
        """Tell the measurements of a cell under way that were not told before."""
        told = self._told.get(cell.run_id, 0)
        if self.names and len(measurements) > told:
            self._told[cell.run_id] = len(measurements)
            new = list(measurements[told:])
            self._queue.put((cell, lambda: self._rows(cell, new)))

    def finish(self, cell: Cell, rows: Sequence[dict]) -> None:
        """Tell the rest of a cell that has ended."""
        if self.names:
            self._queue.put((cell, lambda: list(rows)[self._told.get(cell.run_id, 0) :] or list(rows)[-1:]))

    def _rows(self, cell: Cell, measurements: "list[Measurement]") -> list[dict]:
        from isoflop.experiments.training.rows import run_rows

        return run_rows(cell, self.corpus, measurements, state="running", device=self.device)

    def _work(self) -> None:
        sinks: dict[str, Sink] = {}
        for name in self.names:
            with _spared(name, sinks):
                sinks[name] = open_sink(name, self.folder)
        while (item := self._queue.get()) is not None:
            cell, make = item
            rows = make()
            run, ended = describe(cell, self.study), rows[-1]["state"] != "running"
            for name in list(sinks):
                with _spared(name, sinks):
                    sinks[name].write(run, rows, ended=ended)
        for name in list(sinks):
            with _spared(name, sinks):
                sinks[name].close()


@contextmanager
def _spared(name: str, sinks: dict[str, Sink]) -> Iterator[None]:
    """A tracker that raises is told of, once, and done without: its trouble is never a run's."""
    try:
        yield
    except Exception as error:  # a sink is somebody else's code
        sinks.pop(name, None)
        what = str(error).splitlines()[0] if str(error) else type(error).__name__
        log.warning("tracker %s failed (%s); training goes on without it", name, what)


def open_sink(name: str, folder: Path) -> Sink:
    """The sink of that name, writing under `folder`. Its library is imported here and nowhere else."""
    if name == "tensorboard":
        from isoflop.experiments.trackers.tensorboard import TensorBoard

        return TensorBoard(folder)
    from isoflop.experiments.trackers.wandb import WeightsAndBiases

    return WeightsAndBiases(folder)
