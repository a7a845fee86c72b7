"""A training step of K models of one shape: one set of kernels, each over all of them, however small the models.

Their weights and moments are stacked, (K, P) in the order of the optimizer's flat vector, and the loss is
differentiated by torch.func for all of them at once. Nothing passes from one model's row to another's: one that
diverges fills its own with NaN. Losses are those of the models alone to rounding.

Shape suffixes: K models, P parameters, B batch, T position.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from torch import Tensor
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from isoflop.experiments.training.cuda_graph import GraphedStep
from isoflop.experiments.training.gather import to_device
from isoflop.experiments.training.learner import Learner
from isoflop.experiments.training.optimizer import FlatAdamW
from isoflop.scaling.table.schedules.schedule import learning_rate


class PackedStep:
    """Takes steps for any K learners of the shape of those that it is made with.

    `advance` copies their state into the stacks and back, so between two calls the learners hold it themselves. The
    stacks stay where they are, since a CUDA graph holds their addresses.
    """

    def __init__(self, learners: Sequence[Learner]) -> None:
        first = learners[0]
        self.model, self.optim, self.engine, self.device = first.model, first.cell.optim, first.engine, first.device
        optimizer = first.optimizer
        assert isinstance(optimizer, FlatAdamW), "cost.packs packs no other"
        names = {id(parameter): name for name, parameter in first.model.named_parameters()}
        self.parts = [(names[id(p)], p.numel(), p.shape) for group in optimizer.groups for p in group.parameters]
        sizes = torch.tensor([sum(p.numel() for p in group.parameters) for group in optimizer.groups])
        self.multiplier_P, self.decays_P = (
            torch.tensor(values).repeat_interleave(sizes).to(self.device)
            for values in zip(*((g.lr_multiplier, float(g.decay_multiplier)) for g in optimizer.groups), strict=True)
        )
        self.stacks = {name: torch.stack([tensor] * len(learners)) for name, tensor in optimizer.tensors().items()}
        self.weights_KP, self.mean_KP = self.stacks["weights"], self.stacks["mean"]
        self.square_KP, self.steps_K = self.stacks["square"], self.stacks["steps"]
        self.loss_sum_K = torch.stack([first.loss_sum] * len(learners))
        self.decay_K1 = torch.zeros(len(learners), 1, device=self.device)
        self._gradients = vmap(grad_and_value(self._loss))
        self._graph: GraphedStep | None = None

    def advance(self, learners: Sequence[Learner], until: int, steps: int) -> None:
        """Train all of them, who stand at one step, up to `until` of runs of `steps`.

        If it raises, they are as they were.
        """
        self._load(learners)
        take = self._replay if self.engine.graph else self.train_step
        batches = zip(*(learner.batches(until) for learner in learners), strict=True)
        for tokens, rates_K in zip(batches, self._learning_rates(learners, until, steps), strict=True):
            take(torch.stack(tokens), rates_K)
        self._store(learners)
        for learner in learners:
            learner.step = until

    def train_step(self, tokens_KBT: Tensor, rates_K: Tensor) -> None:
        """One step of all of them, in place: as `Learner.train_step` for each."""
        gradients_KP, losses_K = self._gradients(self.weights_KP, tokens_KBT[..., :-1], tokens_KBT[..., 1:])
        self._update(gradients_KP, rates_K[:, None])
        self.loss_sum_K += losses_K

    def _replay(self, tokens_KBT: Tensor, rates_K: Tensor) -> None:
        """`train_step` as a CUDA graph, which the first call captures."""
        if self._graph is None:
            changed = [*self.stacks.values(), self.loss_sum_K]
            self._graph = GraphedStep(self.train_step, (tokens_KBT, rates_K), changed)
        self._graph(tokens_KBT, rates_K)

    def _learning_rates(self, learners: Sequence[Learner], until: int, steps: int) -> Sequence[Tensor]:
        """The base learning rates of each step, (K,)."""
        peaks = [learner.cell.optim.learning_rate for learner in learners]
        schedule, begin = learners[0].cell.schedule, learners[0].step
        factors = [learning_rate(schedule, step, steps)[0] for step in range(begin, until)]
        return to_device(torch.tensor([[factor * peak for peak in peaks] for factor in factors]), self.device).unbind()

    def _load(self, learners: Sequence[Learner]) -> None:
        """Copy the learners' state into the stacks."""
        for name, stack in self.stacks.items():
            torch.stack([learner.optimizer.tensors()[name] for learner in learners], out=stack)
        torch.stack([learner.loss_sum for learner in learners], out=self.loss_sum_K)
        decay = torch.tensor([[learner.cell.optim.weight_decay] for learner in learners])
        self.decay_K1.copy_(to_device(decay, self.device))

    def _store(self, learners: Sequence[Learner]) -> None:
        """Copy the stacks back into the learners."""
        for name, stack in self.stacks.items():
            torch._foreach_copy_([learner.optimizer.tensors()[name] for learner in learners], list(stack.unbind()))
        torch._foreach_copy_([learner.loss_sum for learner in learners], list(self.loss_sum_K.unbind()))

    def _loss(self, weights_P: Tensor, inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Mean cross-entropy of one model, as `models.step.autograd.loss_of`; fused attention has no rule for vmap."""
        weights = weights_P.split([size for _, size, _ in self.parts])
        named = {name: part.view(shape) for (name, _, shape), part in zip(self.parts, weights, strict=True)}
        with sdpa_kernel(SDPBackend.MATH):
            logits_BTV = functional_call(self.model, named, (inputs_BT,))
        return F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten())

    def _update(self, gradients_KP: Tensor, rates_K1: Tensor) -> None:
        """`FlatAdamW.step` for each row: few kernels over the whole stack beat K x groups fused ones in a graph."""
        optim = self.optim
        if clip_norm := optim.clip_norm:
            norm_K1 = torch.linalg.vector_norm(gradients_KP, dim=1, keepdim=True)
            gradients_KP = gradients_KP * (clip_norm / (norm_K1 + 1e-6)).clamp_(max=1.0)
        self.steps_K += 1
        count_K1 = self.steps_K.double()[:, None]
        bias_mean_K1, bias_square_K1 = ((1 - beta**count_K1).float() for beta in (optim.beta1, optim.beta2))
        self.mean_KP.lerp_(gradients_KP, 1 - optim.beta1)
        self.square_KP.mul_(optim.beta2).addcmul_(gradients_KP, gradients_KP, value=1 - optim.beta2)
        root_KP = self.square_KP.sqrt().div_(bias_square_K1.sqrt_()).add_(optim.eps)
        rates_KP = rates_K1 * self.multiplier_P
        self.weights_KP.mul_(1 - rates_KP * (self.decay_K1 * self.decays_P))
        self.weights_KP.addcdiv_(rates_KP.div_(bias_mean_K1).mul_(self.mean_KP), root_KP, value=-1)
