"""A model in training: how it takes a step, and everything that the next step depends on, saved and restored."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from isoflop.experiments.config import WhereSpec
from isoflop.experiments.cost.cost import SMALL_STEP
from isoflop.experiments.data.batches import Corpus, count_windows, gather, remember_orders, window_numbers
from isoflop.experiments.study.cell import Cell, curve_stride
from isoflop.experiments.study.engine import Engine, decide
from isoflop.experiments.training.checkpoint import UNKNOWN, Checkpoints, State
from isoflop.experiments.training.cuda_graph import GraphedStep
from isoflop.experiments.training.evaluate import Evaluation, evaluate
from isoflop.experiments.training.gather import Gather, gatherer, to_device
from isoflop.experiments.training.initial import start
from isoflop.experiments.training.noise_scale import EVERY, FORGET, from_halves, in_tokens
from isoflop.experiments.training.optimizer import Optimizer, build_optimizer
from isoflop.experiments.training.rows import Measurement, at_most, only_guesses
from isoflop.models.language_model import LanguageModel
from isoflop.models.parametrization import new_model
from isoflop.models.step.training_step import accumulate, choose
from isoflop.scaling.table.schedules.schedule import learning_rate

ORDERS = 4  # of the windows of a domain: epochs and seeds that a process goes back and forth between
AT_ONCE = 1 << 22  # tokens gathered at once: 32 MiB as int64
TOGETHER = 8, 1  # small steps in one CUDA graph: one alone ends before it is launched
BRIEF = 64, *TOGETHER  # of a handful of kernels each


class Learner:
    """One trunk's model, its optimizer, the steps taken, the loss summed since the last row, and the rows so far.

    The position in the data is the step itself: batches are a function of (seed, size, step). A subclass may share the
    batch between processes (`parallel.replicas`) or the device between trunks (`parallel.pack`).
    """

    def __init__(self, cell: Cell, corpus: Corpus, device: str, *, engine: Engine | None = None) -> None:
        self.cell, self.corpus, self.device = cell, corpus, device
        self.engine = engine or decide(cell, WhereSpec(device=device))
        self.on_cuda = device.startswith("cuda")
        self.micro_batch = self.engine.micro_batch or cell.optim.batch_size  # sequences at once
        length = cell.model.context_length
        self.model = self.first_model().to(device)
        self.optimizer = self.build_optimizer()
        self.model_step = choose(self.model, self.engine)  # compiles the kernels where they are not yet
        self.gather: Gather = gatherer(corpus.train, length, device) if self.on_cuda else self._gather
        self.windows = torch.from_numpy(corpus.eval_windows.astype("int64")).to(device)
        self.mixture = corpus.mixture(cell.data) if cell.data.mixture else None
        self.domains = len(self.mixture.shares) if self.mixture else 1
        remember_orders(ORDERS * self.domains)
        self.guess = math.log(cell.model.vocab_size)
        self.first_loss = self._first_loss()
        self.step, self.seconds = 0, 0.0
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=device)
        self.noise = torch.zeros(2, dtype=torch.float64, device=device)  # sums of `noise_scale`
        self.measurements: list[Measurement] = []
        self.engines: set[str] = set()  # that took the steps so far
        several = self.engine.graph and not self.engine.noise_scale and cell.step_flops < SMALL_STEP
        self.together = (BRIEF if self.model_step.brief else TOGETHER) if several else (1,)  # steps in one graph
        self._graphs: dict[int, GraphedStep] = {}  # by the number of steps

    def first_model(self) -> LanguageModel:
        """A model with the weights that the cell begins with: random, by its seed, or those of `init_from`."""
        if self.cell.initial is not None:
            return start(self.cell)
        optim = self.cell.optim
        return new_model(
            self.cell.model, self.cell.seed, parametrization=optim.parametrization, base_depth=optim.base_depth
        )

    def advance(self, until: int, steps: int) -> None:
        """Train up to step `until` of a run of `steps`, and add the seconds that it took."""
        began = time.perf_counter()
        self.take_steps(until, steps)
        if self.on_cuda:
            torch.cuda.synchronize(self.device)
        self.seconds += time.perf_counter() - began

    def take_steps(self, until: int, steps: int) -> None:
        """Take the steps up to `until` of a run of `steps`; on CUDA they are queued, and nothing waits for them."""
        for _ in self.grains(until, steps):
            pass

    def grains(self, until: int, steps: int) -> Iterator[None]:
        """Take those steps, a few at each `next`."""
        if self.step < until:
            self.engines.add(self.engine_name)
        rates, begin = cache(partial(self.learning_rates, until, steps)), self.step
        for many in self.gathered(until):
            for some in many.split(self.together[0]) if self.engine.graph else many:
                self.take(some, rates, self.step - begin)
                yield

    def take(self, tokens: Tensor, all_rates: Callable[[], Sequence[float] | Tensor], at: int) -> None:
        """Take the next step, on a batch of tokens (B, T + 1), at number `at` of the rates.

        By a CUDA graph the next ones, on (S, B, T + 1), at so many of the rates.
        """
        if self.engine.noise_scale and self.step % EVERY == 0:
            batch = tokens[0] if self.engine.graph else tokens
            self.noise += from_halves(self.gradients, self.optimizer.gradient_tensors(), batch)
        if not self.engine.graph:
            self.train_step(tokens, all_rates()[at])
            self.step += 1
            return
        rates, first = all_rates()[at : at + len(tokens)], 0
        while first < len(tokens):
            many = next(n for n in self.together if n <= len(tokens) - first)
            self._replay(tokens[first : first + many], rates[first : first + many])
            first += many
        self.step += len(tokens)

    def train_steps(self, tokens: Tensor, rates: Sequence[float] | Tensor) -> None:
        """`train_step` on each of some batches (S, B, T + 1), at so many rates."""
        for batch, rate in zip(tokens, rates, strict=True):
            self.train_step(batch, rate)

    def train_step(self, tokens: Tensor, rate: float | Tensor) -> None:
        """One step on a batch of tokens (B, T + 1), at the base learning rate of this step.

        The batch comes from `batches`, the rate from `learning_rates`, which follows the cell's schedule. All that the
        step changes is changed in place (`loss_sum` and the optimizer's tensors), so that it can be a CUDA graph.
        """
        loss = self.gradients(tokens)  # forward and backward: the gradients of the mean loss over the batch
        self.optimizer.step(rate)  # clip the gradients, then update the weights
        self.loss_sum += loss

    def batches(self, until: int) -> Iterator[Tensor]:
        """The batches from here to step `until`, (B, T + 1) int64 each: this process' sequences of them."""
        for many in self.gathered(until):
            yield from many

    def gathered(self, until: int) -> Iterator[Tensor]:
        """Those batches, several at once, (S, B, T + 1)."""
        length = self.cell.model.context_length
        windows = window_numbers(
            count_windows(len(self.corpus.train), length),
            seed=self.cell.seed,
            size=(self.cell.model.n_layer, self.cell.model.d_model),
            step=self.step,
            count=until - self.step,
            batch_size=self.cell.optim.batch_size,
            mixture=self.mixture,
        )[:, self.rows]
        at_once = max(1, AT_ONCE // max(1, windows[0].size * (length + 1)))
        for first in range(0, len(windows), at_once):
            yield self.gather(windows[first : first + at_once])

    def _gather(self, windows: np.ndarray) -> Tensor:
        """The tokens of windows of any shape, (.., T + 1) int64."""
        return torch.from_numpy(gather(self.corpus.train, windows, self.cell.model.context_length))

    def learning_rates(self, until: int, steps: int) -> Sequence[float] | Tensor:
        """The base learning rate of each of those steps: on CUDA as a tensor, which a graph reads at each replay."""
        schedule, peak = self.cell.schedule, self.cell.optim.learning_rate
        rates = [learning_rate(schedule, step, steps)[0] * peak for step in range(self.step, until)]
        if not (self.on_cuda or self.engine.graph):
            return rates
        return to_device(torch.tensor(rates, dtype=torch.float32 if self.on_cuda else torch.float64), self.device)

    def gradients(self, tokens: Tensor) -> Tensor:
        """Mean loss of a batch (B, T + 1), nats/token; its gradients lie where the optimizer reads them."""
        inputs, targets = tokens[:, :-1], tokens[:, 1:]
        return accumulate(self.model_step, self.optimizer.gradient_tensors(), inputs, targets, self.micro_batch)

    def _replay(self, tokens: Tensor, rates: Sequence[float] | Tensor) -> None:
        """`train_steps` as a CUDA graph, which the first call with so many captures."""
        assert isinstance(rates, Tensor), "a graph reads its learning rates from a tensor"
        if len(tokens) not in self._graphs:
            changed = [*self.optimizer.tensors().values(), self.loss_sum]
            one = partial(self.train_step, tokens[0], rates[0])
            self._graphs[len(tokens)] = GraphedStep(self.train_steps, (tokens, rates), changed, one)
        self._graphs[len(tokens)](tokens, rates)

    @property
    def healthy(self) -> bool:
        """Whether every loss since the last row is a number, and the last row behind the warm-up beats a guess, or is
        of a run that comes down from above one."""
        rows = [m for m in self.measurements if not m.between]
        finite = math.isfinite(self.loss_sum.item()) and all(math.isfinite(m.loss) for m in rows[-1:])
        guesses = bool(rows) and rows[-1].step > self.cell.warmup and only_guesses(rows, self.guess, self.first_loss)
        return finite and not guesses

    def _first_loss(self) -> float:
        """The loss of the first weights: ln V where the head is 0, else what they have at most, two standard errors
        above what they have on the windows of a row, so that a rate that changes nothing is not taken for a wall."""
        if (self.cell.initial is None and not self.cell.model.tied) or self.device == "meta":  # shapes have no loss
            return self.guess
        return at_most(evaluate(self.model_step, self._few(), self.domains))

    def measure(self, steps: int, *, windows: Tensor | None = None, between: bool = False) -> Evaluation:
        """Evaluate on `windows` (W, T + 1), by default a few held-out ones, evenly spread; a row is added.

        A row `between` leaves every other row as it would be without it.
        """
        began = time.perf_counter()
        since = self.step - next((m.step for m in reversed(self.measurements) if not m.between), 0)
        multiplier, phase = learning_rate(self.cell.schedule, self.step - 1, steps)
        evaluation = evaluate(self.model_step, self._few() if windows is None else windows, self.domains)
        self.measurements.append(
            Measurement(
                step=self.step,
                learning_rate=multiplier * self.cell.optim.learning_rate,
                phase=phase,
                loss=evaluation.loss,
                loss_se=evaluation.loss_se,
                accuracy=evaluation.accuracy,
                train_loss=self.loss_sum.item() / max(1, since),
                seconds=self.seconds,
                noise_scale=in_tokens(self.noise, self.cell.model.context_length),
                domains=evaluation.domains,
                between=between,
            )
        )
        if not between:
            self.loss_sum.zero_()
            self.noise.mul_(FORGET)
        self.seconds += time.perf_counter() - began
        return evaluation

    def _few(self) -> Tensor:
        """Some held-out windows, evenly spread; of a mixture as many of one domain as of another."""
        each = self.windows.view(self.domains, -1, self.windows.shape[1])
        return each[:, :: curve_stride(self.windows[:, 1:].numel())].flatten(0, 1)

    def state(self) -> State:
        """A copy of everything that the next step depends on."""
        return State(
            optimizer=self.optimizer.state(),
            step=self.step,
            seconds=self.seconds,
            loss_sum=self.loss_sum.clone(),
            noise=self.noise.clone(),
            measurements=[asdict(m) for m in self.measurements],
            engines=sorted(self.engines),
        )

    def load(self, state: State) -> None:
        """Go on from what `state` returned."""
        self.optimizer.load(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]
        self.loss_sum.copy_(state["loss_sum"])
        self.noise.copy_(state.get("noise", torch.zeros(2)))
        self.measurements = [Measurement(**m) for m in state["measurements"]]
        self.engines = {*state.get("engines", [UNKNOWN])} if self.step else set()

    @property
    def engine_name(self) -> str:
        """What takes a step of this process alone, as the run table names it."""
        return ("cuda-" if self.on_cuda else "") + self.model_step.engine

    # What a subclass for several processes replaces.

    @property
    def processes(self) -> str:
        """How many processes share a step, for the record; "" where it is one."""
        return ""

    @property
    def rows(self) -> slice:
        """The sequences of every batch that this process trains on."""
        return slice(None)

    def build_optimizer(self) -> Optimizer:
        """The optimizer of the model, which owns its parameters from here on."""
        return build_optimizer(self.model, self.cell.optim)

    def whole_model(self) -> LanguageModel:
        """The model, all of it in this process."""
        return self.model

    def checkpoints(self, folder: Path | None, every_seconds: float) -> Checkpoints:
        """The checkpoints of this trunk in `folder`, of the kind that suits how the model is held."""
        return Checkpoints(folder, every_seconds)


class MakeLearner(Protocol):
    """What makes the learner of a trunk: `Learner`, or one that shares its batch or its device with others."""

    def __call__(self, cell: Cell, corpus: Corpus, device: str, *, engine: Engine) -> Learner: ...
