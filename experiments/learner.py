"""A model in training: everything that the next step depends on, and how to save and restore it to the bit."""

import math
import time
from dataclasses import asdict

import numpy as np
import torch
from torch import Tensor, nn

from experiments.batches import batches
from experiments.cell import Cell
from experiments.corpus import Corpus
from experiments.curve import curve_stride
from experiments.evaluate import Evaluation, evaluate
from experiments.initial import start
from experiments.optimizer import FlatAdamW, build_optimizer
from experiments.rows import Measurement
from experiments.schedule import learning_rate
from models.accumulate import accumulate
from models.recompute import recompute_blocks


class Learner:
    """One trunk's model, its optimiser, the steps taken, the loss summed since the last row, and the rows so far.

    The data position is the step itself: batches are a function of (seed, step).
    """

    processes = ""  # how many share a step and how, for the record

    def __init__(
        self, cell: Cell, corpus: Corpus, device: str, *, micro_batch: int | None = None, recompute: bool = False
    ) -> None:
        self.cell, self.corpus, self.device = cell, corpus, device
        self.micro_batch = micro_batch or cell.optim.batch_size  # sequences at once
        self.model = start(cell).to(device)
        if recompute:
            recompute_blocks(self.model)
        self.optimizer = self.build_optimizer()
        self.windows = torch.from_numpy(corpus.eval_windows.astype("int64")).to(device)
        self.guess = (1 - 1e-6) * math.log(cell.model.vocab_size)  # rounding apart
        self.step, self.seconds = 0, 0.0
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=device)
        self.measurements: list[Measurement] = []
        self.evaluation: Evaluation | None = None  # behind the latest measurement, target by target

    def build_optimizer(self) -> FlatAdamW:
        return build_optimizer(self.model, self.cell.optim)

    def gradients(self, tokens: Tensor) -> Tensor:
        """Mean loss of a batch, (B, T + 1); its gradients lie where the optimiser reads them."""
        return accumulate(self.model, self.optimizer.gradients, tokens[:, :-1], tokens[:, 1:], self.micro_batch)

    def whole_model(self) -> nn.Module:
        """The model, all of it in this process."""
        return self.model

    def batches(self, until: int) -> np.ndarray:
        """The batches from here to step `until`, (steps, B, T + 1)."""
        return batches(
            self.corpus.train,
            seed=self.cell.seed,
            step=self.step,
            count=until - self.step,
            batch_size=self.cell.optim.batch_size,
            context_length=self.cell.model.context_length,
        )

    def advance(self, until: int, steps: int) -> None:
        """Train up to step `until` of a run of `steps`."""
        began, cell = time.perf_counter(), self.cell
        for tokens in torch.from_numpy(self.batches(until)).to(self.device):
            multiplier, _ = learning_rate(cell.schedule, self.step, steps)
            self.loss_sum += self.gradients(tokens)
            self.optimizer.step(multiplier * cell.optim.learning_rate)
            self.step += 1
        self.seconds += time.perf_counter() - began

    @property
    def healthy(self) -> bool:
        """Whether every loss since the last row is a number, and the last row beats guessing all tokens alike.

        A step size far too large need not end in NaN: logits that are huge, or all equal, lose to ln V just as well.
        """
        last = self.measurements[-1].loss if self.measurements else 0.0
        return math.isfinite(self.loss_sum.item()) and last < self.guess

    def measure(self, steps: int, *, windows: Tensor | None = None) -> Measurement:
        """Evaluate on `windows`, or on a few of all held-out ones, spread evenly; the row is kept."""
        began = time.perf_counter()
        since = self.step - (self.measurements[-1].step if self.measurements else 0)
        multiplier, phase = learning_rate(self.cell.schedule, self.step - 1, steps)
        few = self.windows[:: curve_stride(self.windows[:, 1:].numel())]
        self.evaluation = evaluate(self.model, few if windows is None else windows)
        measurement = Measurement.of(
            self.evaluation,
            step=self.step,
            learning_rate=multiplier * self.cell.optim.learning_rate,
            phase=phase,
            train_loss=self.loss_sum.item() / max(1, since),
            seconds=self.seconds,
        )
        self.loss_sum.zero_()
        self.measurements.append(measurement)
        self.seconds += time.perf_counter() - began
        return measurement

    def state(self) -> dict:
        """A copy of what the next step depends on: tensors, numbers and text only."""
        return {
            "optimizer": self.optimizer.state(),
            "step": self.step,
            "seconds": self.seconds,
            "loss_sum": self.loss_sum.clone(),
            "measurements": [asdict(m) for m in self.measurements],
        }

    def load(self, state: dict) -> None:
        self.optimizer.load(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]
        self.loss_sum.copy_(state["loss_sum"])
        self.measurements = [Measurement(**m) for m in state["measurements"]]
