"""Muon for the matrices of the blocks, AdamW for everything else, over one flat buffer.

Muon replaces the momentum of a matrix by the nearest matrix whose singular values are all about one (Jordan et al.
2024), scaled by sqrt(fan_out / fan_in): an update then changes its output by as much at every width (Bernstein 2025),
so the base learning rate needs no rule for the width. Matrices of one shape lie side by side in the buffer and are
iterated as one batch.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby

import torch
from torch import Tensor, nn

from isoflop.experiments.config import OptimSpec
from isoflop.experiments.study.rules import NEWTON_SCHULZ_STEPS
from isoflop.experiments.training.optimizer import FlatAdamW
from isoflop.models.matrix import Matrix
from isoflop.models.parametrization import ParameterGroup

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # Jordan: steep at zero, so that five steps lift small singular values


class FlatMuon(FlatAdamW):
    """Owns a model's parameters, gradients and moments, as FlatAdamW does."""

    held = (*FlatAdamW.held, "momentum")

    def __init__(self, model: nn.Module, optim: OptimSpec) -> None:
        self.matrices = sorted(model.hidden_matrices(), key=_shape)
        super().__init__(model, optim)
        count = sum(matrix.weight.numel() for matrix in self.matrices)
        self.momentum = torch.zeros_like(self.weights[-count:])
        self.stacks = [
            tuple(part.view(-1, *shape) for part in parts)
            for (shape, *parts) in _by_shape(
                self.matrices, self.weights[-count:], self.gradients[-count:], self.momentum
            )
        ]

    def arrange(self, groups: list[ParameterGroup]) -> tuple[list[ParameterGroup], list[nn.Parameter]]:
        """The groups without the matrices, and the matrices by shape."""
        ours = {id(m.weight) for m in self.matrices}
        left = [replace(g, parameters=tuple(p for p in g.parameters if id(p) not in ours)) for g in groups]
        return [g for g in left if g.parameters], [m.weight for m in self.matrices]

    def step(self, learning_rate: float | Tensor) -> None:
        super().step(learning_rate)
        for weights, gradients, momentum in self.stacks:
            momentum.lerp_(gradients, 1 - self.optim.momentum)
            update = orthogonalize(torch.lerp(gradients, momentum, self.optim.momentum))
            weights.mul_(1 - learning_rate * self.optim.weight_decay)
            rate = learning_rate * (weights.shape[-2] / weights.shape[-1]) ** 0.5
            if isinstance(rate, Tensor):
                weights.addcmul_(update, rate, value=-1)
            else:
                weights.sub_(update, alpha=rate)


def orthogonalize(matrices: Tensor) -> Tensor:
    """For each of (n, rows, columns): about U V' of its singular value decomposition, by a quintic iteration."""
    rows, columns = matrices.shape[-2:]
    x = matrices.mT if rows > columns else matrices
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    a, b, c = _COEFFICIENTS
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if rows > columns else x


def _shape(matrix: Matrix) -> tuple[int, int]:
    """Rows and columns of each of the stacked matrices."""
    return len(matrix.weight) // matrix.parts, matrix.weight.shape[1]


def _by_shape(matrices: list[Matrix], *vectors: Tensor) -> Iterator[tuple]:
    """(shape, its part of each vector), for vectors that hold the matrices in this order."""
    sizes = [(shape, sum(m.weight.numel() for m in same)) for shape, same in groupby(matrices, key=_shape)]
    parts = zip(*(vector.split([size for _, size in sizes]) for vector in vectors), strict=True)
    for (shape, _), of_shape in zip(sizes, parts, strict=True):
        yield shape, *of_shape
