"""A model in training on several processes: each takes its sequences of every batch, so the batch is that of one.

ddp: each holds the whole model; the gradients, one flat vector, are averaged by one sum between them. fsdp2: each holds
a part of every parameter and of its moments (torch's `fully_shard`), for models too large for one device.
"""

from pathlib import Path
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp import FSDPModule, fully_shard

from isoflop.experiments.config import WhereSpec
from isoflop.experiments.data.batches import Corpus
from isoflop.experiments.parallel.sharded_checkpoint import ShardedCheckpoints
from isoflop.experiments.parallel.sharded_optimizer import ShardedAdamW, whole
from isoflop.experiments.parallel.world import World, check_batch
from isoflop.experiments.study.cell import Cell
from isoflop.experiments.study.engine import Engine
from isoflop.experiments.training.checkpoint import Checkpoints, State
from isoflop.experiments.training.learner import Learner
from isoflop.models import build_model
from isoflop.models.language_model import LanguageModel
from isoflop.models.step.autograd import forward_of, loss_of


class SharedBatch(Learner):
    """A learner that trains on its share of every batch and knows the loss of the whole batches."""

    mode: str  # as in where.distributed

    def __init__(self, cell: Cell, corpus: Corpus, device: str, *, engine: Engine | None = None) -> None:
        self.world = World.of_this_process()
        check_batch(cell, self.world.size)
        super().__init__(cell, corpus, device, engine=engine)

    @property
    def processes(self) -> str:
        """How many processes share a batch, and the mode, for the record."""
        return f"{self.world.size} processes, {self.mode}"

    @property
    def rows(self) -> slice:
        """The sequences of every batch that this process trains on."""
        return self.world.rows(self.cell.optim.batch_size)

    def take_steps(self, until: int, steps: int) -> None:
        """Take the steps up to `until` of a run of `steps`; then every process knows the loss of the whole batches."""
        before, self.loss_sum = self.loss_sum, torch.zeros_like(self.loss_sum)
        super().take_steps(until, steps)
        dist.all_reduce(self.loss_sum)
        self.loss_sum = before + self.loss_sum / self.world.size


class DataParallel(SharedBatch):
    """Replicas of the whole model that start alike and stay alike."""

    mode = "ddp"

    def gradients(self, tokens: Tensor) -> Tensor:
        """Mean loss of this process' sequences; the gradients are those of the whole batch."""
        loss = super().gradients(tokens)
        for part in self.optimizer.gradient_tensors():
            dist.all_reduce(part)
            part.div_(self.world.size)
        return loss

    def checkpoints(self, folder: Path | None, every_seconds: float) -> Checkpoints:
        """Replicas are alike, so the first one's checkpoint is all of it, and one process can go on from it."""
        return ReplicaCheckpoints(folder, every_seconds)


class FullyShardedParallel(SharedBatch):
    """Every parameter, its gradient and its moments spread over the processes, gathered block by block when needed."""

    mode = "fsdp2"

    def build_optimizer(self) -> ShardedAdamW:
        """Spread the parameters over the processes. Raises ValueError for an optimizer that needs whole matrices."""
        if (name := self.cell.optim.name) != ShardedAdamW.name:
            raise ValueError(
                f"{self.cell.label}: {name} needs whole matrices, fsdp2 has shards; use where.distributed=ddp"
            )
        for block in getattr(self.model, "blocks", ()):
            fully_shard(block)
        fully_shard(self.model)
        return ShardedAdamW(self.model, self.cell.optim)

    def gradients(self, tokens: Tensor) -> Tensor:
        """Mean loss of this process' sequences; the gradients are averaged over all as they are computed."""
        parts = tokens.split(self.micro_batch)
        total = torch.zeros((), device=tokens.device)
        forward = forward_of(self.model, bfloat16=self.engine.bfloat16)
        for part in parts:
            cast(FSDPModule, self.model).set_requires_gradient_sync(part is parts[-1])
            loss = loss_of(forward, part[:, :-1], part[:, 1:]) * (len(part) / len(tokens))
            loss.backward()
            total += loss.detach()
        return total

    def load(self, state: State) -> None:
        """Go on from what `state` returned in every process."""
        cast(
            FSDPModule, self.model
        ).reshard()  # an evaluation leaves head and embedding gathered, as they were before this state
        super().load(state)

    def whole_model(self) -> LanguageModel:
        """A copy of the model, gathered from all processes. Every one of them must call this."""
        model = build_model(self.cell.model)
        with torch.no_grad():
            for (_, ours), (_, theirs) in zip(model.named_parameters(), self.model.named_parameters(), strict=True):
                ours.copy_(whole(theirs))
        return model

    def checkpoints(self, folder: Path | None, every_seconds: float) -> Checkpoints:
        """Checkpoints that every process writes its part of."""
        return ShardedCheckpoints(folder, every_seconds, self.state)


class ReplicaCheckpoints(Checkpoints):
    """Checkpoints that all processes read and the first one writes."""

    def _save(self, kind: str, state: State, *, keep: int | None = None) -> None:
        if dist.get_rank() == 0:
            super()._save(kind, state, keep=keep)

    def drop_cooldown(self, run_id: str) -> None:
        """Remove the checkpoints of a cell that has ended, in the first process."""
        if dist.get_rank() == 0:
            super().drop_cooldown(run_id)


def learner_class(where: WhereSpec) -> type[Learner]:
    """The learner for `where.distributed`."""
    kinds = {"none": Learner, "ddp": DataParallel, "fsdp2": FullyShardedParallel}
    return kinds[where.distributed]
