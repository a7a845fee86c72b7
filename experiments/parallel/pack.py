"""Several trunks trained by one process in one step: each has its own flow, and they meet wherever they want steps.

Every trunk runs what it would run alone, in a thread: claim, checkpoints, rows, branches, states. Only one thread runs
at a time, and one that wants steps waits until all want some. Then those that want the same steps, and are furthest
behind, take them together (`pack_step`); the others wait for them. So a trunk that resumes elsewhere
catches up alone, one that has diverged, failed or ended is not waited for, and nothing else is different.
"""

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from threading import Condition, Thread

import torch

from isoflop.experiments.cost.memory import is_out_of_memory
from isoflop.experiments.data.batches import remember_orders
from isoflop.experiments.parallel.pack_step import PackedStep
from isoflop.experiments.training.learner import Learner

log = logging.getLogger(__name__)

Train = Callable[[Callable[..., Learner]], None]
Wish = tuple[int, int, int]  # steps of the run, the step to begin at, and to end at: the least is the furthest behind


def train_pack(trains: Sequence[Train]) -> None:
    """Call each of these, which train one trunk with learners made by what they are given, and bring their steps
    together. Raises the first exception that one of them raised, after all have ended."""
    remember_orders(2 * len(trains))
    Pack().conduct(trains)


class Pack:
    """Where trunks meet."""

    def __init__(self) -> None:
        self._turn = Condition()
        self._at_work = 0  # trunks that have not ended
        self._wishes: dict[PackedLearner, Wish] = {}
        self._errors: list[BaseException] = []
        self._refusals: dict[PackedLearner, Exception] = {}
        self._steps: dict[int, PackedStep] = {}  # by the number of models: the last, since a graph holds memory
        self._together = True

    def conduct(self, trains: Sequence[Train]) -> None:
        """Steps are taken in this thread alone: CUDA's libraries keep workspaces for each that uses them."""
        learner = partial(PackedLearner, pack=self)
        threads = [Thread(target=self._train, args=(train, learner), daemon=True) for train in trains]
        with self._turn:
            self._at_work = len(threads)
            for thread in threads:
                thread.start()
            while self._at_work:
                if len(self._wishes) == self._at_work:
                    self._grant()
                    self._turn.notify_all()
                else:
                    self._turn.wait()
        for thread in threads:
            thread.join()
        if self._errors:
            raise self._errors[0]

    def advance(self, learner: "PackedLearner", until: int, steps: int) -> None:
        """Wait for this learner's steps. Its thread has the turn; it is others' until then."""
        self._wishes[learner] = steps, learner.step, until
        self._turn.notify_all()
        self._turn.wait_for(lambda: learner not in self._wishes)
        if error := self._refusals.pop(learner, None):
            raise error

    def _train(self, train: Train, learner: Callable[..., Learner]) -> None:
        with self._turn:
            try:
                train(learner)
            except BaseException as error:  # the job's, which raises it
                self._errors.append(error)
            finally:
                self._at_work -= 1
                self._turn.notify_all()

    def _grant(self) -> None:
        """Take the steps of those that are furthest behind."""
        wish = min(self._wishes.values())
        group = [learner for learner, wished in self._wishes.items() if wished == wish]
        if len(group) > 1 and self._together:
            self._advance_together(group, wish)
        else:
            for learner in group:
                self._advance_alone(learner, wish)
        for learner in group:
            del self._wishes[learner]

    def _advance_alone(self, learner: "PackedLearner", wish: Wish) -> None:
        try:
            Learner.advance(learner, wish[2], wish[0])
        except Exception as error:
            self._refusals[learner] = error

    def _advance_together(self, group: "list[PackedLearner]", wish: Wish) -> None:
        """Each is charged its share of the seconds. Where memory runs out, they go on one by one from here."""
        began = time.perf_counter()
        try:
            if len(group) not in self._steps:
                self._steps.clear()
                self._steps[len(group)] = PackedStep(group)
            self._steps[len(group)].advance(group, wish[2], wish[0])
            if group[0].on_cuda:
                torch.cuda.synchronize(group[0].device)
        except Exception as error:
            self._steps.clear()
            if is_out_of_memory(error):
                log.warning("out of memory: %d trunks in one step are too many, going on one by one", len(group))
                self._together = False
                for learner in group:
                    self._advance_alone(learner, wish)
            else:
                self._refusals |= dict.fromkeys(group, error)
            return
        seconds = (time.perf_counter() - began) / len(group)
        for learner in group:
            learner.seconds += seconds
            learner.most = max(learner.most, len(group))


class PackedLearner(Learner):
    """One trunk of a pack: takes its steps with the others."""

    def __init__(self, *args: object, pack: Pack, **options: object) -> None:
        super().__init__(*args, **options)
        self.pack, self.most = pack, 1

    @property
    def processes(self) -> str:
        """How many trunks at most shared a step, for the record."""
        return f"{self.most} trunks in one step" if self.most > 1 else ""

    def advance(self, until: int, steps: int) -> None:
        self.pack.advance(self, until, steps)
