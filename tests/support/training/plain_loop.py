"""The peer of the benchmarks: nanoGPT's training loop written plainly, on our architecture and widths' learning rates.

Eager autograd, a batch gathered row by row at random, torch's own AdamW, warm-up and cosine, whatever threads and
allocator a process gets by default.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from isoflop.models import build_model
from isoflop.models.config import ModelConfig
from isoflop.models.parametrization import initialize, parameter_groups


class PlainLoop:
    """A model in training, one `step(learning_rate)` at a time."""

    fused: bool | None = None  # of torch's AdamW

    def __init__(self, config: ModelConfig, tokens: np.ndarray, *, batch_size: int, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.model, self.tokens = initialize(build_model(config), seed), tokens
        self.forward: Callable[[torch.Tensor], torch.Tensor] = self.model
        self.shape = batch_size, config.context_length
        groups = parameter_groups(self.model, "mup", base_width=16, base_depth=2)
        self.optimizer = torch.optim.AdamW(
            [{"params": list(g.parameters), "multiplier": g.lr_multiplier} for g in groups],
            betas=(0.9, 0.95),
            weight_decay=0.0,
            fused=self.fused,
        )

    def step(self, learning_rate: float) -> None:
        """One step at this learning rate."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate * group["multiplier"]
        x, y = self._batch()
        logits = self.forward(x)
        loss = functional.cross_entropy(logits.view(-1, logits.size(-1)), y.view(-1))
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        size, length = self.shape
        starts = torch.randint(len(self.tokens) - length, (size,))
        x = torch.stack([torch.from_numpy(self.tokens[i : i + length].astype(np.int64)) for i in starts])
        y = torch.stack([torch.from_numpy(self.tokens[i + 1 : i + 1 + length].astype(np.int64)) for i in starts])
        return x, y

    def train(self, steps: int, *, peak: float, warmup: int) -> None:
        """So many steps, with linear warm-up to `peak` and a cosine to zero."""
        for step in range(steps):
            share = max(0.0, (step - warmup) / max(1, steps - warmup))
            decay = 0.5 * (1 + math.cos(math.pi * share))
            self.step(peak * ((step + 1) / warmup if step < warmup else decay))

    @torch.no_grad()
    def loss(self, windows: torch.Tensor) -> float:
        """Mean over windows (W, T + 1) of the held-out text."""
        sums = [
            functional.cross_entropy(self.model(part[:, :-1]).flatten(0, 1), part[:, 1:].flatten(), reduction="sum")
            for part in windows.split(32)
        ]
        return float(sum(sums)) / windows[:, 1:].numel()


class CompiledLoop(PlainLoop):
    """The loop of who tunes it: the model through torch.compile, AdamW in one pass, a batch gathered at once."""

    fused = True

    def __init__(self, config: ModelConfig, tokens: np.ndarray, *, batch_size: int, seed: int = 0) -> None:
        super().__init__(config, tokens, batch_size=batch_size, seed=seed)
        self.forward = torch.compile(self.model)
        self.read = torch.from_numpy(tokens.astype(np.int64))

    def _batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        size, length = self.shape
        starts = torch.randint(len(self.tokens) - length, (size, 1))
        rows = self.read[starts + torch.arange(length + 1)]
        return rows[:, :-1], rows[:, 1:].contiguous()
