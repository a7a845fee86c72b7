"""A model in training on several processes: every one takes its rows of every batch, so the batch is that of one.

ddp: each holds the whole model; the gradients, one flat buffer, are averaged by one sum between them. fsdp2: each holds
a part of every parameter and of its moments (torch's `fully_shard`), for models too large for one device.
"""

from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard

from isoflop.experiments.config import WhereSpec
from isoflop.experiments.data.corpus import Corpus
from isoflop.experiments.parallel.follow import World
from isoflop.experiments.parallel.sharded_checkpoint import ShardedCheckpoints
from isoflop.experiments.parallel.sharded_optimizer import ShardedAdamW, whole
from isoflop.experiments.study.cell import Cell
from isoflop.experiments.study.engine import Engine
from isoflop.experiments.training.checkpoint import Checkpoints
from isoflop.experiments.training.learner import Learner
from isoflop.models import build_model
from isoflop.models.step.autograd import loss_of


class DataParallel(Learner):
    """Replicas that start alike and stay alike."""

    mode = "ddp"

    @property
    def world(self) -> World:
        return World.of_this_process()

    @property
    def processes(self) -> str:
        return f"{self.world.size} processes, {self.mode}"

    @property
    def rows(self) -> slice:
        return self.world.rows(self.cell.optim.batch_size)

    def queue(self, until: int, steps: int) -> None:
        """The steps up to `until` of a run of `steps`; then every process knows the loss of the whole batches."""
        before, self.loss_sum = self.loss_sum, torch.zeros_like(self.loss_sum)
        super().queue(until, steps)
        dist.all_reduce(self.loss_sum)
        self.loss_sum = before + self.loss_sum / self.world.size

    def gradients(self, tokens: Tensor) -> Tensor:
        loss = super().gradients(tokens)
        dist.all_reduce(self.optimizer.gradients)
        self.optimizer.gradients.div_(self.world.size)
        return loss


class FullyShardedParallel(DataParallel):
    """Every parameter, its gradient and its moments spread over the processes, gathered block by block when needed."""

    mode = "fsdp2"

    def build_optimizer(self) -> ShardedAdamW:
        for block in getattr(self.model, "blocks", ()):
            fully_shard(block)
        fully_shard(self.model)
        return ShardedAdamW(self.model, self.cell.optim)

    def gradients(self, tokens: Tensor) -> Tensor:
        """Mean loss of this process' rows; the gradients are averaged over all as they are computed."""
        parts = tokens.split(self.micro_batch)
        total = torch.zeros((), device=tokens.device)
        for part in parts:
            self.model.set_requires_gradient_sync(part is parts[-1])
            loss = loss_of(self.model, part[:, :-1], part[:, 1:]) * (len(part) / len(tokens))
            loss.backward()
            total += loss.detach()
        return total

    def load(self, state: dict) -> None:
        self.model.reshard()  # an evaluation leaves head and embedding gathered, as they were before this state
        super().load(state)

    def whole_model(self) -> nn.Module:
        model = build_model(self.cell.model)
        with torch.no_grad():
            for (_, ours), (_, theirs) in zip(model.named_parameters(), self.model.named_parameters(), strict=True):
                ours.copy_(whole(theirs))
        return model


def set_up(
    cell: Cell, corpus: Corpus, folder: Path | None, where: WhereSpec, engine: Engine
) -> tuple[DataParallel, Checkpoints | ShardedCheckpoints]:
    """The learner that `where.distributed` asks for, and the checkpoints that suit it.

    Replicas are alike, so the first one's checkpoint is all of it, and one process can go on from it.
    """
    kind = {"ddp": DataParallel, "fsdp2": FullyShardedParallel}[where.distributed]
    learner = kind(cell, corpus, where.device, engine=engine)
    if where.distributed == "fsdp2":
        return learner, ShardedCheckpoints(folder, where.checkpoint_seconds, learner.state)
    return learner, ReplicaCheckpoints(folder, where.checkpoint_seconds)


class ReplicaCheckpoints(Checkpoints):
    """Read by all, written by the first."""

    def _save(self, kind: str, state: dict, *, keep: int | None = None) -> None:
        if dist.get_rank() == 0:
            super()._save(kind, state, keep=keep)

    def drop_cooldown(self, run_id: str) -> None:
        if dist.get_rank() == 0:
            super().drop_cooldown(run_id)
