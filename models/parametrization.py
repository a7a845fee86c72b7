"""Initialisation and per-tensor learning rates.

mup: hidden matrices and the head learn at base_width / d_model times the base rate, the embedding and the norms' gains
at the base rate, so that one rate serves every width (Yang et al. 2203.03466, for Adam; standard deviations as below).
Heads keep their width as models widen, so attention's own scale is left alone.
completep: mup, and residual branches count base_depth / n_layer, so that one rate serves every depth too (Dey et al.
2505.01618, alpha = 1). The factor sits in the matrices that write to the residual stream, in their initialisation and
their rate, which under Adam is the same as one in front of the branch and costs nothing.
standard: the initialisation of mup, one rate for all.

Weight decay is independent of the rate's multiplier: rate times decay is the same for every matrix of every size.
"""

from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from isoflop.models.config import PARAMETRIZATIONS, ModelConfig, family_of
from isoflop.models.language_model import LanguageModel

M = TypeVar("M", bound=LanguageModel)


@dataclass(frozen=True)
class ParameterGroup:
    """Tensors that share a learning rate and a weight decay, both as multiples of the base's."""

    lr_multiplier: float
    decay_multiplier: float
    parameters: tuple[nn.Parameter, ...]


def new_model(config: ModelConfig, seed: int, *, parametrization: str = "mup", base_depth: int = 2) -> LanguageModel:
    """A model of this shape with the weights that `initialize` draws from `seed`."""
    model: LanguageModel = family_of(config).build(config)
    return initialize(model, seed, parametrization=parametrization, base_depth=base_depth)


def initialize(model: M, seed: int, *, parametrization: str = "mup", base_depth: int = 2) -> M:
    """Fill the weights from `seed`; returns the model.

    Embedding N(0, 1); hidden N(0, 1 / fan_in), the two that write to the residual stream smaller by sqrt(2 L) so that
    its variance does not grow with depth (completep: by L / base_depth); head 0, so that the first loss is ln V. A tied
    matrix is N(0, 1 / d^2). Raises ValueError for an unknown parametrization.
    """
    check(parametrization)
    generator = torch.Generator().manual_seed(seed)
    depth = model.config.n_layer
    residual = base_depth / depth if parametrization == "completep" else (2 * depth) ** -0.5
    with torch.no_grad():
        _normal(model.embedding, 1 / model.config.d_model if model.config.tied else 1.0, generator)
        for matrix in model.hidden_matrices():
            factor = residual if matrix.residual else 1.0
            _normal(matrix.weight, factor * matrix.weight.shape[1] ** -0.5, generator)
        if not model.config.tied:
            model.head.zero_()
        model.set_vectors()
    return model


def parameter_groups(
    model: LanguageModel, parametrization: str, *, base_width: int, base_depth: int = 2
) -> list[ParameterGroup]:
    """Every parameter once: embedding and vectors, then hidden matrices and the head.

    Raises ValueError for an unknown parametrization.
    """
    check(parametrization)
    hidden = 1.0 if parametrization == "standard" else base_width / model.config.d_model
    branch = base_depth / model.config.n_layer if parametrization == "completep" else 1.0
    matrices = list(model.hidden_matrices())
    by_rate: dict[float, list[nn.Parameter]] = {hidden: []}
    for matrix in matrices:
        by_rate.setdefault(hidden * branch if matrix.residual else hidden, []).append(matrix.weight)
    by_rate[hidden].append(model.head)
    of_matrices = {id(p) for group in by_rate.values() for p in group}
    vectors = tuple(p for p in model.parameters() if id(p) not in of_matrices)
    return [
        ParameterGroup(1.0, 0.0, vectors),
        *(ParameterGroup(rate, 1 / rate, tuple(group)) for rate, group in by_rate.items()),
    ]


def check(parametrization: str) -> None:
    """Raise ValueError for a parametrization that is not one of PARAMETRIZATIONS."""
    if parametrization not in PARAMETRIZATIONS:
        raise ValueError(f"optim.parametrization must be one of {', '.join(PARAMETRIZATIONS)}; not {parametrization!r}")


def _normal(weight: nn.Parameter, std: float, generator: torch.Generator) -> None:
    weight.copy_(torch.randn(weight.shape, generator=generator) * std)
