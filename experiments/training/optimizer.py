"""AdamW over one flat buffer: a clip is one norm, an update one fused call per learning rate.

Small models spend their time between kernels, not in them, so the parameters and their gradients are views into two
long vectors, ordered by parameter group.
"""

import torch
from torch import Tensor, nn

from isoflop.experiments.config import OptimSpec
from isoflop.models.parametrization import ParameterGroup, parameter_groups

OPTIMIZERS = ("adamw", "muon")


def build_optimizer(model: nn.Module, optim: OptimSpec) -> "FlatAdamW":
    """The optimiser that `optim` describes, owning the model's parameters from here on."""
    if optim.name == "muon":
        from isoflop.experiments.training.muon import FlatMuon

        return FlatMuon(model, optim)
    return FlatAdamW(model, optim)


class FlatAdamW:
    """Owns a model's parameters, gradients and moments (Loshchilov & Hutter 1711.05101; decay decoupled).

    They stay where they are: a CUDA graph of the step holds their addresses.
    """

    held = ("weights", "mean", "square", "steps")  # what a later step depends on

    def __init__(self, model: nn.Module, optim: OptimSpec) -> None:
        check(optim)
        self.optim = optim
        groups = parameter_groups(
            model, optim.parametrization, base_width=optim.base_width, base_depth=optim.base_depth
        )
        self.groups, others = self.arrange(groups)
        sizes = [sum(p.numel() for p in group.parameters) for group in self.groups]
        self.weights, self.gradients = _flatten([p for group in self.groups for p in group.parameters] + others)
        self.mean, self.square = (torch.zeros_like(self.weights[: sum(sizes)]) for _ in range(2))
        self.steps = torch.zeros((), device=self.weights.device)
        self.slices = [
            [[part] for part in parts]
            for parts in zip(
                *(v[: sum(sizes)].split(sizes) for v in (self.weights, self.gradients, self.mean, self.square)),
                strict=True,
            )
        ]

    def arrange(self, groups: list[ParameterGroup]) -> tuple[list[ParameterGroup], list[nn.Parameter]]:
        """The groups that AdamW updates, and the parameters that it leaves to a subclass."""
        return groups, []

    def step(self, learning_rate: float | Tensor) -> None:
        """Clip the gradients and update every parameter; `learning_rate` is the base rate at this step.

        As a tensor, on CUDA float32, it may be another number each time that a captured step is played.
        """
        if self.optim.clip_norm > 0:
            norm = torch.linalg.vector_norm(self.gradients)
            self.gradients.mul_((self.optim.clip_norm / (norm + 1e-6)).clamp_(max=1.0))
        self.steps += 1
        for group, (weights, gradients, mean, square) in zip(self.groups, self.slices, strict=True):
            torch._fused_adamw_(
                weights, gradients, mean, square, [], [self.steps],
                lr=learning_rate * group.lr_multiplier, beta1=self.optim.beta1, beta2=self.optim.beta2,
                weight_decay=self.optim.weight_decay * group.decay_multiplier, eps=self.optim.eps,
                amsgrad=False, maximize=False,
            )  # fmt: skip

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a later step depends on."""
        return {name: getattr(self, name) for name in self.held}

    def state(self) -> dict[str, Tensor]:
        """Copies of `tensors`."""
        return {name: tensor.clone() for name, tensor in self.tensors().items()}

    def load(self, state: dict[str, Tensor]) -> None:
        for name, value in state.items():
            getattr(self, name).copy_(value)


def check(optim: OptimSpec) -> None:
    """Raise ValueError naming the field, its value and what it may be."""
    if optim.name not in OPTIMIZERS:
        raise ValueError(f"optim.name must be one of {', '.join(OPTIMIZERS)}; not {optim.name!r}")
    for name in ("learning_rate", "eps"):
        if not getattr(optim, name) > 0:
            raise ValueError(f"optim.{name} must be positive; not {getattr(optim, name)}")
    for name in ("beta1", "beta2", "momentum"):
        if not 0 <= getattr(optim, name) < 1:
            raise ValueError(f"optim.{name} must lie in [0, 1); not {getattr(optim, name)}")
    for name in ("weight_decay", "clip_norm"):
        if getattr(optim, name) < 0:
            raise ValueError(f"optim.{name} must not be negative (0 switches it off); not {getattr(optim, name)}")


def _flatten(parameters: list[nn.Parameter]) -> tuple[Tensor, Tensor]:
    """Move parameters and gradients into two vectors, each parameter and its `grad` becoming a view."""
    weights = torch.cat([p.detach().flatten() for p in parameters])
    gradients = torch.zeros_like(weights)
    sizes = [p.numel() for p in parameters]
    for parameter, weight, gradient in zip(parameters, weights.split(sizes), gradients.split(sizes), strict=True):
        parameter.data = weight.view_as(parameter)
        parameter.grad = gradient.view_as(parameter)
    return weights, gradients
