"""Several trunks trained by one process in one step, each in a thread that runs what it would run alone.

Each thread claims, checkpoints, branches and writes rows for its own trunk. Only one thread runs at a time, and one
that requests steps waits until all have requested some. Then those that request the same steps, and are furthest
behind, take them together (`pack_step`); the others wait for them. So a trunk that resumes elsewhere catches up alone,
one that has diverged, failed or ended is not waited for, and nothing else is different.
"""

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from threading import Condition, Thread
from typing import NamedTuple

import torch

from isoflop.experiments.cost.memory import is_out_of_memory
from isoflop.experiments.data.batches import Corpus, remember_orders
from isoflop.experiments.parallel.pack_step import PackedStep
from isoflop.experiments.study.cell import Cell
from isoflop.experiments.study.engine import Engine
from isoflop.experiments.training.learner import Learner, MakeLearner

log = logging.getLogger(__name__)

Train = Callable[[MakeLearner], None]


class Request(NamedTuple):
    """Steps that a learner is to take. The least request is the one that is furthest behind."""

    steps: int  # of the run
    begin: int  # the step that it stands at
    until: int


def train_pack(trains: Sequence[Train]) -> None:
    """Call each of `trains` in a thread and take the steps of their learners together.

    Each trains one trunk with learners made by what it is given. Raises the first exception that one of them raised,
    after all have ended.
    """
    remember_orders(2 * len(trains))
    Pack().conduct(trains)


class Pack:
    """Collects the requests of several trunks for steps, and takes those that are the same in one step."""

    def __init__(self) -> None:
        self._turn = Condition()
        self._running = 0  # trunks that have not ended
        self._requests: dict[PackedLearner, Request] = {}
        self._errors: list[BaseException] = []
        self._failures: dict[PackedLearner, Exception] = {}  # what a request raised, to be raised in its thread
        self._steps: dict[int, PackedStep] = {}  # by the number of models: the last, since a graph holds memory
        self._together = True

    def conduct(self, trains: Sequence[Train]) -> None:
        """Run the threads and take their steps until all have ended.

        Steps are taken in this thread alone: CUDA's libraries keep workspaces for each thread that uses them.
        """
        make = partial(PackedLearner, pack=self)
        threads = [Thread(target=self._train, args=(train, make), daemon=True) for train in trains]
        with self._turn:
            self._running = len(threads)
            for thread in threads:
                thread.start()
            while self._running:
                if len(self._requests) == self._running:
                    self._grant()
                    self._turn.notify_all()
                else:
                    self._turn.wait()
        for thread in threads:
            thread.join()
        if self._errors:
            raise self._errors[0]

    def advance(self, learner: "PackedLearner", until: int, steps: int) -> None:
        """Request steps for a learner, and wait until they are taken; called by its thread, which has the turn.

        Raises what the step raised.
        """
        self._requests[learner] = Request(steps, learner.step, until)
        self._turn.notify_all()
        self._turn.wait_for(lambda: learner not in self._requests)
        if error := self._failures.pop(learner, None):
            raise error

    def _train(self, train: Train, make: MakeLearner) -> None:
        with self._turn:
            try:
                train(make)
            except BaseException as error:  # `conduct` raises it
                self._errors.append(error)
            finally:
                self._running -= 1
                self._turn.notify_all()

    def _grant(self) -> None:
        """Take the steps of those that are furthest behind."""
        least = min(self._requests.values())
        group = [learner for learner, request in self._requests.items() if request == least]
        if len(group) > 1 and self._together:
            self._advance_together(group, least)
        else:
            for learner in group:
                self._advance_alone(learner, least)
        for learner in group:
            del self._requests[learner]

    def _advance_alone(self, learner: "PackedLearner", request: Request) -> None:
        try:
            Learner.advance(learner, request.until, request.steps)
        except Exception as error:
            self._failures[learner] = error

    def _advance_together(self, group: "list[PackedLearner]", request: Request) -> None:
        """Each is charged its share of the seconds. Where memory runs out, they go on one by one from here."""
        began = time.perf_counter()
        try:
            if len(group) not in self._steps:
                self._steps.clear()
                self._steps[len(group)] = PackedStep(group)
            self._steps[len(group)].advance(group, request.until, request.steps)
            if group[0].on_cuda:
                torch.cuda.synchronize(group[0].device)
        except Exception as error:
            self._steps.clear()
            if is_out_of_memory(error):
                log.warning("out of memory: %d trunks in one step are too many, going on one by one", len(group))
                self._together = False
                for learner in group:
                    self._advance_alone(learner, request)
            else:
                self._failures |= dict.fromkeys(group, error)
            return
        seconds = (time.perf_counter() - began) / len(group)
        for learner in group:
            learner.seconds += seconds
            learner.most = max(learner.most, len(group))
            learner.engines.add("cuda-packed" if learner.on_cuda else "packed")


class PackedLearner(Learner):
    """One trunk of a pack: takes its steps with the others."""

    def __init__(self, cell: Cell, corpus: Corpus, device: str, *, engine: Engine | None = None, pack: Pack) -> None:
        super().__init__(cell, corpus, device, engine=engine)
        self.pack, self.most = pack, 1  # the most trunks that shared a step with this one, itself included

    @property
    def processes(self) -> str:
        """How many trunks at most shared a step, for the record; "" if it was always this one alone."""
        return f"{self.most} trunks in one step" if self.most > 1 else ""

    def advance(self, until: int, steps: int) -> None:
        """Train up to step `until` of a run of `steps`, together with the others."""
        self.pack.advance(self, until, steps)
