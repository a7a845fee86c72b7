"""The optimizers: AdamW, and Muon for the matrices of the blocks. Both keep the parameters in one flat vector.

Small models spend their time between kernels, not in them. So the parameters and their gradients are views into two
long vectors, ordered by parameter group: clipping is one norm, an update one fused call per learning rate.

To add an optimizer: a subclass of `FlatAdamW` with a `name`, its entry in `KINDS`, and its facts in `study.optimizers`.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from isoflop.experiments.config import OptimSpec
from isoflop.experiments.study.optimizers import NEWTON_SCHULZ_STEPS
from isoflop.models.language_model import LanguageModel, Matrix
from isoflop.models.parametrization import ParameterGroup, parameter_groups
from isoflop.models.step.training_step import triton_works

if TYPE_CHECKING:
    from isoflop.models.step.fused.adamw import FusedAdamW

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # Jordan: steep at zero, so that five steps lift small singular values


class Optimizer(ABC):
    """What every optimizer does: take a step, and copy and restore the tensors that its later steps depend on."""

    @abstractmethod
    def step(self, learning_rate: float | Tensor) -> None:
        """Clip the gradients, then update every parameter; `learning_rate` is the base rate at this step.

        As a tensor (float32 on CUDA) it may hold another number at each replay of a CUDA graph.
        """

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Everything that a later step depends on, by name: weights, moments and the count of steps."""

    @abstractmethod
    def gradient_tensors(self) -> list[Tensor]:
        """The tensors that a backward pass leaves the gradients in: of all parameters that this process holds."""

    def state(self) -> dict[str, Tensor]:
        """Copies of `tensors`."""
        return {name: tensor.detach().clone() for name, tensor in self.tensors().items()}

    @torch.no_grad()
    def load(self, state: dict[str, Tensor]) -> None:
        """Overwrite `tensors` in place with what `state` returned."""
        for name, tensor in self.tensors().items():
            tensor.copy_(state[name])


class FlatAdamW(Optimizer):
    """AdamW with decoupled weight decay (Loshchilov & Hutter 1711.05101) over flat vectors.

    It owns a model's parameters, gradients and moments from here on. They stay at their addresses, which a CUDA graph
    of the step holds. `weights` and `gradients` have P elements, as many as the model has parameters.
    """

    name = "adamw"

    def __init__(self, model: LanguageModel, optim: OptimSpec) -> None:
        self.optim = optim
        groups = parameter_groups(
            model, optim.parametrization, base_width=optim.base_width, base_depth=optim.base_depth
        )
        self.groups, others = self.arrange(groups)
        sizes = [sum(p.numel() for p in group.parameters) for group in self.groups]
        self.weights, self.gradients = _flatten([p for group in self.groups for p in group.parameters] + others)
        self.mean, self.square = (torch.zeros_like(self.weights[: sum(sizes)]) for _ in range(2))
        self.steps = torch.zeros((), device=self.weights.device)
        self.fused = None if others or type(self) is not FlatAdamW else self._fused(sizes)
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
        """Clip the gradients, then update every parameter."""
        if self.fused is None or not isinstance(learning_rate, Tensor):
            self.clip_gradients()
            self.update(learning_rate)
            return
        self.fused.step(
            self.weights, self.gradients, self.mean, self.square, self.steps, learning_rate,
            clip=self.optim.clip_norm or 0.0, beta1=self.optim.beta1, beta2=self.optim.beta2, eps=self.optim.eps,
        )  # fmt: skip

    def _fused(self, sizes: list[int]) -> "FusedAdamW | None":
        """Both of AdamW in two kernels, on a GPU where Triton works; a subclass has its own update."""
        if self.weights.device.type != "cuda" or not triton_works():
            return None
        from isoflop.models.step.fused.adamw import FusedAdamW  # loads Triton

        decays = [self.optim.weight_decay * group.decay_multiplier for group in self.groups]
        return FusedAdamW(sizes, [group.lr_multiplier for group in self.groups], decays, self.weights.device)

    def clip_gradients(self) -> None:
        """Scale the gradients down to a norm of `clip_norm` where theirs is larger; 0 leaves them as they are."""
        if clip_norm := self.optim.clip_norm:
            norm = torch.linalg.vector_norm(self.gradients)
            self.gradients.mul_((clip_norm / (norm + 1e-6)).clamp_(max=1.0))

    def update(self, learning_rate: float | Tensor) -> None:
        """Update every parameter from its gradient."""
        self.steps += 1
        for group, (weights, gradients, mean, square) in zip(self.groups, self.slices, strict=True):
            torch._fused_adamw_(
                weights, gradients, mean, square, [], [self.steps],
                lr=learning_rate * group.lr_multiplier, beta1=self.optim.beta1, beta2=self.optim.beta2,
                weight_decay=self.optim.weight_decay * group.decay_multiplier, eps=self.optim.eps,
                amsgrad=False, maximize=False,
            )  # fmt: skip

    def tensors(self) -> dict[str, Tensor]:
        """The flat vectors of weights and moments, and the count of steps."""
        return {"weights": self.weights, "mean": self.mean, "square": self.square, "steps": self.steps}

    def gradient_tensors(self) -> list[Tensor]:
        """The one flat vector of all gradients."""
        return [self.gradients]


class FlatMuon(FlatAdamW):
    """Muon (Jordan et al. 2024) for the matrices of the blocks, AdamW for everything else.

    Muon replaces the momentum of a matrix by the nearest matrix whose singular values are all about one, scaled by
    sqrt(fan_out / fan_in): an update then changes its output by as much at every width (Bernstein 2025), so the base
    learning rate needs no rule for the width. Matrices of one shape lie next to each other at the end of the flat
    vector and are iterated as one batch.
    """

    name = "muon"

    def __init__(self, model: LanguageModel, optim: OptimSpec) -> None:
        self.matrices = sorted(model.hidden_matrices(), key=_shape)
        super().__init__(model, optim)
        count = sum(matrix.weight.numel() for matrix in self.matrices)
        self.momentum = torch.zeros_like(self.weights[-count:])
        vectors = self.weights[-count:], self.gradients[-count:], self.momentum
        self.stacks = [
            tuple(part.view(-1, *shape) for part in parts) for shape, *parts in _by_shape(self.matrices, *vectors)
        ]

    def arrange(self, groups: list[ParameterGroup]) -> tuple[list[ParameterGroup], list[nn.Parameter]]:
        """The groups without the matrices, and the matrices by shape."""
        ours = {id(m.weight) for m in self.matrices}
        left = [replace(g, parameters=tuple(p for p in g.parameters if id(p) not in ours)) for g in groups]
        return [g for g in left if g.parameters], [m.weight for m in self.matrices]

    def update(self, learning_rate: float | Tensor) -> None:
        """Update the matrices by Muon and the other parameters by AdamW."""
        super().update(learning_rate)
        for weights, gradients, momentum in self.stacks:
            momentum.lerp_(gradients, 1 - self.optim.momentum)
            update = orthogonalize(torch.lerp(gradients, momentum, self.optim.momentum))
            weights.mul_(1 - learning_rate * self.optim.weight_decay)
            rate = learning_rate * (weights.shape[-2] / weights.shape[-1]) ** 0.5
            if isinstance(rate, Tensor):
                weights.addcmul_(update, rate, value=-1)
            else:
                weights.sub_(update, alpha=rate)

    def tensors(self) -> dict[str, Tensor]:
        """Those of AdamW, and the momentum of the matrices."""
        return super().tensors() | {"momentum": self.momentum}


KINDS: dict[str, type[FlatAdamW]] = {kind.name: kind for kind in (FlatAdamW, FlatMuon)}


def build_optimizer(model: LanguageModel, optim: OptimSpec) -> FlatAdamW:
    """The optimizer that `optim` describes, owning the model's parameters from here on.

    Raises ValueError for a name that there is not; the settings were checked with the study (`study.optimizers.check`).
    """
    if optim.name not in KINDS:
        raise ValueError(f"optim.name must be one of {', '.join(KINDS)}; not {optim.name!r}")
    return KINDS[optim.name](model, optim)


def orthogonalize(matrices: Tensor) -> Tensor:
    """For each of (n, rows, columns): about U V' of its singular value decomposition, by Newton-Schulz iteration.

    The quintic polynomial of Jordan et al. 2024; singular values end between about 0.7 and 1.2.
    """
    rows, columns = matrices.shape[-2:]
    x = matrices.mT if rows > columns else matrices
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    a, b, c = _COEFFICIENTS
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if rows > columns else x


def _flatten(parameters: list[nn.Parameter]) -> tuple[Tensor, Tensor]:
    """Move parameters and gradients into two vectors, each parameter and its `grad` becoming a view."""
    weights = torch.cat([p.detach().flatten() for p in parameters])
    gradients = torch.zeros_like(weights)
    sizes = [p.numel() for p in parameters]
    for parameter, weight, gradient in zip(parameters, weights.split(sizes), gradients.split(sizes), strict=True):
        parameter.data = weight.view_as(parameter)
        parameter.grad = gradient.view_as(parameter)
    return weights, gradients


def _shape(matrix: Matrix) -> tuple[int, int]:
    """Rows and columns of each of the stacked matrices."""
    return len(matrix.weight) // matrix.parts, matrix.weight.shape[1]


def _by_shape(matrices: list[Matrix], *vectors: Tensor) -> Iterator[tuple]:
    """(shape, its part of each vector), for vectors that hold the matrices in this order."""
    sizes = [(shape, sum(m.weight.numel() for m in same)) for shape, same in groupby(matrices, key=_shape)]
    parts = zip(*(vector.split([size for _, size in sizes]) for vector in vectors), strict=True)
    for (shape, _), of_shape in zip(sizes, parts, strict=True):
        yield shape, *of_shape
