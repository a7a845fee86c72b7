"""AdamW on parameters that are spread over processes: the arithmetic of `training.optimizer`, on each one's part."""

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from isoflop.experiments.config import OptimSpec
from isoflop.experiments.training.optimizer import Optimizer
from isoflop.models.language_model import LanguageModel
from isoflop.models.parametrization import parameter_groups


class ShardedAdamW(Optimizer):
    """Owns the moments of a model that `fully_shard` has been applied to: its parameters are DTensors."""

    name = "adamw"

    def __init__(self, model: LanguageModel, optim: OptimSpec) -> None:
        self.optim = optim
        self.parameters: dict[str, Tensor] = dict(model.named_parameters())
        self.mean = {name: torch.zeros_like(p, requires_grad=False) for name, p in self.parameters.items()}
        self.square = {name: torch.zeros_like(p, requires_grad=False) for name, p in self.parameters.items()}
        self.steps = torch.zeros((), device=_local(next(iter(self.mean.values()))).device)
        name_of = {id(p): name for name, p in self.parameters.items()}
        groups = parameter_groups(
            model, optim.parametrization, base_width=optim.base_width, base_depth=optim.base_depth
        )
        self.groups = [(group, [name_of[id(p)] for p in group.parameters]) for group in groups]

    @torch.no_grad()
    def step(self, learning_rate: float | Tensor) -> None:
        """Clip the gradients by their norm over all processes, then update this process' part of every parameter."""
        gradients = self._gradients()
        if clip_norm := self.optim.clip_norm:
            norm = whole(torch.nn.utils.get_total_norm(list(gradients.values())))
            for gradient in self.gradient_tensors():
                gradient.mul_((clip_norm / (norm + 1e-6)).clamp(max=1.0))
        self.steps += 1
        for group, names in self.groups:
            weights = _parts(self.parameters[name] for name in names)
            if not weights:
                continue
            torch._fused_adamw_(
                weights,
                _parts(gradients[name] for name in names),
                _parts(self.mean[name] for name in names),
                _parts(self.square[name] for name in names),
                [], [self.steps] * len(weights),
                lr=learning_rate * group.lr_multiplier, beta1=self.optim.beta1, beta2=self.optim.beta2,
                weight_decay=self.optim.weight_decay * group.decay_multiplier, eps=self.optim.eps,
                amsgrad=False, maximize=False,
            )  # fmt: skip
        for parameter in self.parameters.values():
            parameter.grad = None

    def tensors(self) -> dict[str, Tensor]:
        """This process' part of everything that a later step depends on, by `part.parameter`."""
        parts = {"weights": self.parameters, "mean": self.mean, "square": self.square}
        named = {f"{part}.{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}
        return named | {"steps": self.steps}

    def gradient_tensors(self) -> list[Tensor]:
        """This process' part of every gradient."""
        return [_local(gradient) for gradient in self._gradients().values()]

    def _gradients(self) -> dict[str, Tensor]:
        return {name: p.grad for name, p in self.parameters.items() if p.grad is not None}


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, gathered from the processes that hold it. Every one of them must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _local(tensor: Tensor) -> Tensor:
    """This process' part of a DTensor."""
    return cast(DTensor, tensor).to_local()


def _parts(tensors: Iterable[Tensor]) -> list[Tensor]:
    """This process' parts, without those that are empty."""
    return [part for tensor in tensors if (part := _local(tensor.detach())).numel()]
