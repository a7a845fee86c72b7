"""Several trunks trained side by side on one device by one process, each in a thread that runs what it would run alone.

Each thread claims, checkpoints, branches and writes rows for its own trunk. Only one of them works at a time, but for
what it does aside: files, some of them made by other processes, since Python works in one thread at a time. One that
wants steps waits for them; one thread, the conductor, queues the steps of all that wait, a few of each in turn and each
on a CUDA stream of its own, so that the small kernels of many trunks overlap and the device has work while a trunk is
evaluated or written. What a trunk computes is what it would compute alone.
"""

import gc
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from threading import Condition, Thread, current_thread

import torch

from isoflop.experiments.data.batches import Corpus, remember_orders
from isoflop.experiments.study.cell import Cell
from isoflop.experiments.study.engine import Engine
from isoflop.experiments.training.keep import Elsewhere, here
from isoflop.experiments.training.learner import Learner, MakeLearner

AHEAD = 4  # groups of steps of a trunk that are queued before the first has ended: more fill CUDA's queue, and block
LOOK_SECONDS = 1e-4  # between looks at the device while threads work

Aside = Callable[[], AbstractContextManager[Elsewhere]]
Train = Callable[[MakeLearner, Aside], None]


@dataclass(eq=False)
class Request:
    """Steps that a learner is to take."""

    grains: Iterator[None]  # queues a few of them at each `next`
    stream: "torch.cuda.Stream | None"
    queued: deque[torch.cuda.Event] = field(default_factory=deque)  # an event behind each grain that has not ended
    exhausted: bool = False
    seconds: float = 0.0  # its share of the time since it was made
    error: Exception | None = None

    @property
    def done(self) -> bool:
        """Whether all its steps have been taken, or one has raised."""
        return self.exhausted and not self.queued

    def queue(self) -> bool:
        """Queue the next few steps, unless enough are; returns whether it did. Keeps what a step raises."""
        while self.queued and self.queued[0].query():
            self.queued.popleft()
        if self.exhausted or len(self.queued) >= AHEAD:
            return False
        try:
            with torch.cuda.stream(self.stream) if self.stream else nullcontext():
                next(self.grains)
                if self.stream:
                    self.queued.append(self.stream.record_event())
        except StopIteration:
            self.exhausted = True
        except Exception as error:
            self.exhausted, self.error = True, error
        return True


def train_pack(trains: Sequence[tuple[float, Train]], device: str, elsewhere: Elsewhere = here) -> None:
    """Call each of `trains` in a thread and take the steps of their learners in turn.

    Each is (its share of the device, what trains one trunk with learners made by what it is given); they begin in this
    order, as many at once as share one device. What they do aside they may have done by `elsewhere`. Raises the first
    exception that one of them raised, after all have ended.
    """
    remember_orders(2 * len(trains))
    if device.startswith("cuda"):
        gc.freeze()  # every capture looks for garbage, and is to find little to look through
    Pack(device, elsewhere).conduct(trains)


class Pack:
    """Collects the requests of several trunks for steps, and takes them in turn."""

    def __init__(self, device: str, elsewhere: Elsewhere = here) -> None:
        self.device, self.on_cuda, self.elsewhere = device, device.startswith("cuda"), elsewhere
        self._turn = Condition()
        self._shares: dict[Thread, float] = {}  # of those that have not ended
        self._requests: list[Request] = []
        self._errors: list[BaseException] = []
        self._clock = time.perf_counter()

    def conduct(self, trains: Sequence[tuple[float, Train]]) -> None:
        """Run the threads and take their steps until all have ended.

        Steps are taken in this thread alone: CUDA's libraries keep workspaces for each thread that uses them.
        """
        waiting = deque(trains)
        with self._turn:
            while waiting or self._shares:
                while waiting and (not self._shares or sum(self._shares.values()) + waiting[0][0] <= 1 + 1e-9):
                    share, train = waiting.popleft()
                    thread = Thread(target=self._train, args=(train,), daemon=True)
                    self._shares[thread] = share
                    thread.start()
                queued = [request.queue() for request in self._requests]
                self._share_the_time()
                if ended := [request for request in self._requests if request.done]:
                    self._requests = [request for request in self._requests if not request.done]
                    self._turn.notify_all()
                if not self._requests and not ended:
                    self._turn.wait()
                elif len(self._requests) < len(self._shares):
                    self._turn.wait(LOOK_SECONDS)
                elif not any(queued):
                    time.sleep(LOOK_SECONDS / 4)
        if self._errors:
            raise self._errors[0]

    def advance(self, learner: "PackedLearner", until: int, steps: int) -> None:
        """Request steps for a learner, and wait until they are taken; called by its thread, which has the turn.

        Raises what a step raised.
        """
        request = Request(learner.grains(until, steps), learner.stream)
        self._requests.append(request)
        self._turn.notify_all()
        self._turn.wait_for(lambda: request.done)
        learner.seconds += request.seconds
        if request.error:
            raise request.error

    @contextmanager
    def aside(self) -> Iterator[Elsewhere]:
        """Let the others go on while the body does what no step depends on, such as writing files."""
        self._turn.release()
        try:
            yield self.elsewhere
        finally:
            self._turn.acquire()

    def _train(self, train: Train) -> None:
        with self._turn:
            stream = torch.cuda.Stream(self.device) if self.on_cuda else None
            try:
                with torch.cuda.stream(stream) if stream else nullcontext():
                    train(partial(PackedLearner, pack=self, stream=stream), self.aside)
            except BaseException as error:  # `conduct` raises it
                self._errors.append(error)
            finally:
                del self._shares[current_thread()]
                self._turn.notify_all()

    def _share_the_time(self) -> None:
        """Charge every request an equal part of the time that has passed: together they are charged all of it."""
        now = time.perf_counter()
        for request in self._requests:
            request.seconds += (now - self._clock) / len(self._requests)
        self._clock = now


class PackedLearner(Learner):
    """One trunk of a pack: its steps are taken beside those of the others."""

    def __init__(
        self,
        cell: Cell,
        corpus: Corpus,
        device: str,
        *,
        engine: Engine | None = None,
        pack: Pack,
        stream: "torch.cuda.Stream | None" = None,
    ) -> None:
        super().__init__(cell, corpus, device, engine=engine)
        self.pack, self.stream = pack, stream

    def advance(self, until: int, steps: int) -> None:
        """Train up to step `until` of a run of `steps`, beside the others."""
        self.pack.advance(self, until, steps)
