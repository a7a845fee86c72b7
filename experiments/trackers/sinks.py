"""Optional trackers in addition to the store: a run of every cell in TensorBoard or Weights & Biases.

The store stays the truth. Rows are written to trackers from a thread of its own, so that training never waits for one,
and one that fails is a warning, once: the run goes on without it. Rows are sent in order and each once: a run that goes
on after a kill sends its earlier rows again, and a sink leaves out those that it has. What remains is the import of
their libraries, which costs the first cell of a worker a few seconds.

To add a tracker: a `record.Sink` in a module of its own, a function that opens it and its entry in `SINKS`.
"""

import logging
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from isoflop.experiments.compose.messages import UsageError
from isoflop.experiments.data.batches import Corpus
from isoflop.experiments.study.cell import Cell
from isoflop.experiments.study.sizes import suggest
from isoflop.experiments.trackers.record import Sink, describe

if TYPE_CHECKING:  # a launch checks names before anything starts, and needs no torch for it
    from isoflop.experiments.training.rows import Measurement

log = logging.getLogger(__name__)
PATIENCE_SECONDS = 20.0  # that the end of a trunk waits for trackers; what they have not written by then may be lost


def _tensorboard(folder: Path) -> Sink:
    from isoflop.experiments.trackers.tensorboard import TensorBoard  # imports its library

    return TensorBoard(folder)


def _wandb(folder: Path) -> Sink:
    from isoflop.experiments.trackers.wandb import WeightsAndBiases  # imports its library

    return WeightsAndBiases(folder)


SINKS: dict[str, Callable[[Path], Sink]] = {"tensorboard": _tensorboard, "wandb": _wandb}  # by name of the library


def check(trackers: Sequence[str]) -> None:
    """Raise UsageError for a tracker that is unknown or not installed."""
    for name in trackers:
        if name not in SINKS:
            raise UsageError(f"where.trackers: no tracker {name!r}{suggest(name, SINKS)}")
        if find_spec(name) is None:
            raise UsageError(
                f"where.trackers: {name} is not installed; pip install 'isoflop[{name}]', or leave it out of the list"
            )


def open_sink(name: str, folder: Path) -> Sink:
    """The sink of that name, writing under `folder`."""
    return SINKS[name](folder)


class Trackers:
    """Writes rows to the sinks of `names` from one thread; a context manager that waits for them at its end, not long.

    With no names it does nothing and starts no thread.
    """

    def __init__(self, names: Sequence[str], folder: Path, study: str, corpus: Corpus, device: str) -> None:
        self.names, self.folder, self.study, self.corpus, self.device = tuple(names), folder, study, corpus, device
        self._sent: dict[str, int] = {}  # measurements of each run
        self._queue: queue.SimpleQueue[tuple[Cell, Callable[[], list[dict]]] | None] = queue.SimpleQueue()
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
        """Send the measurements of a cell under way that were not sent before."""
        sent = self._sent.get(cell.run_id, 0)
        if self.names and len(measurements) > sent:
            self._sent[cell.run_id] = len(measurements)
            new = list(measurements[sent:])
            self._queue.put((cell, lambda: self._rows(cell, new)))

    def finish(self, cell: Cell, rows: Sequence[dict]) -> None:
        """Send the rest of a cell that has ended."""
        if self.names:
            self._queue.put((cell, lambda: list(rows)[self._sent.get(cell.run_id, 0) :] or list(rows)[-1:]))

    def _rows(self, cell: Cell, measurements: "list[Measurement]") -> list[dict]:
        from isoflop.experiments.training.rows import run_rows

        return run_rows(cell, self.corpus, measurements, state="running", device=self.device)

    def _work(self) -> None:
        """Write what is queued until the end, in the thread."""
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
    """Drop a tracker that raises, with one warning: its failure is never a run's."""
    try:
        yield
    except Exception as error:  # a sink is somebody else's code
        sinks.pop(name, None)
        what = str(error).splitlines()[0] if str(error) else type(error).__name__
        log.warning("tracker %s failed (%s); training goes on without it", name, what)
