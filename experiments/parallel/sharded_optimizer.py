"""AdamW on parameters that are spread over processes: the arithmetic of `training.optimizer`, on each one's part."""

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from isoflop.experiments.config import OptimSpec
from isoflop.experiments.training.optimizer import check
from isoflop.models.parametrization import parameter_groups


class ShardedAdamW:
    """Owns the moments of a model that `fully_shard` has been applied to."""

    def __init__(self, model: nn.Module, optim: OptimSpec) -> None:
        check(optim)
        self.optim = optim
        self.parameters = dict(model.named_parameters())
        self.mean = {name: torch.zeros_like(p, requires_grad=False) for name, p in self.parameters.items()}
        self.square = {name: torch.zeros_like(p, requires_grad=False) for name, p in self.parameters.items()}
        self.steps = torch.zeros((), device=next(iter(self.mean.values())).to_local().device)
        name_of = {id(p): name for name, p in self.parameters.items()}
        groups = parameter_groups(
            model, optim.parametrization, base_width=optim.base_width, base_depth=optim.base_depth
        )
        self.groups = [(group, [name_of[id(p)] for p in group.parameters]) for group in groups]

    @torch.no_grad()
    def step(self, learning_rate: float | Tensor) -> None:
        """Clip the gradients and update every parameter; `learning_rate` is the base rate at this step."""
        gradients = {name: p.grad for name, p in self.parameters.items()}
        if self.optim.clip_norm > 0:
            norm = whole(torch.nn.utils.get_total_norm(gradients.values()))
            for gradient in gradients.values():
                gradient.to_local().mul_((self.optim.clip_norm / (norm + 1e-6)).clamp(max=1.0))
        self.steps += 1
        for group, names in self.groups:
            parts = [_local(tensors, names) for tensors in (self.parameters, gradients, self.mean, self.square)]
            if not parts[0]:
                continue
            torch._fused_adamw_(
                *parts, [], [self.steps] * len(parts[0]),
                lr=learning_rate * group.lr_multiplier, beta1=self.optim.beta1, beta2=self.optim.beta2,
                weight_decay=self.optim.weight_decay * group.decay_multiplier, eps=self.optim.eps,
                amsgrad=False, maximize=False,
            )  # fmt: skip
        for parameter in self.parameters.values():
            parameter.grad = None

    def state(self) -> dict[str, Tensor]:
        """Copies of this process' part of everything that a later step depends on, by name."""
        return {key: value.detach().clone() for key, value in self._everything().items()}

    @torch.no_grad()
    def load(self, state: dict[str, Tensor]) -> None:
        for key, value in self._everything().items():
            value.copy_(state[key])

    def _everything(self) -> dict[str, Tensor]:
        parts = {"weights": self.parameters, "mean": self.mean, "square": self.square}
        named = {f"{part}.{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}
        return named | {"steps": self.steps}


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, gathered from the processes that hold it. Every one of them must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _local(tensors: dict[str, Tensor], names: list[str]) -> list[Tensor]:
    """This process' parts, without those that are empty."""
    return [part for name in names if (part := tensors[name].detach().to_local()).numel()]
