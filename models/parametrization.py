"""Initialisation and per-tensor learning rates.

mup: hidden matrices and the head learn at base_width / d_model times the base rate, the embedding and the norms' gains
at the base rate, so that one rate serves every width (Yang et al. 2203.03466, for Adam; standard deviations as below).
standard: the same initialisation, one rate for all.
"""

from dataclasses import dataclass

import torch
from torch import nn

from models.transformer import Transformer

PARAMETRIZATIONS = ("mup", "standard")


@dataclass(frozen=True)
class ParameterGroup:
    """Tensors that share a learning rate (a multiple of the base rate) and whether weight decay applies."""

    lr_multiplier: float
    decayed: bool
    parameters: tuple[nn.Parameter, ...]


def initialize(model: Transformer, seed: int) -> Transformer:
    """Fill the weights from `seed`; returns the model.

    Embedding N(0, 1); hidden N(0, 1 / fan_in), the two that write to the residual stream smaller by sqrt(2 L) so that
    its variance does not grow with depth; head 0, so that the first loss is ln V. A tied matrix is N(0, 1 / d^2).
    """
    generator = torch.Generator().manual_seed(seed)
    residual = (2 * model.config.n_layer) ** -0.5
    with torch.no_grad():
        _normal(model.embedding, 1 / model.config.d_model if model.config.tied else 1.0, generator)
        for block in model.blocks:
            for weight, factor in (
                (block.qkv, 1.0),
                (block.output, residual),
                (block.gate_up, 1.0),
                (block.down, residual),
            ):
                _normal(weight, factor * weight.shape[1] ** -0.5, generator)
        if not model.config.tied:
            model.head.zero_()
        for name, parameter in model.named_parameters():
            if name.endswith("norm"):
                parameter.fill_(1.0)
    return model


def parameter_groups(model: Transformer, parametrization: str, *, base_width: int) -> list[ParameterGroup]:
    """Every parameter once: embedding and gains, then hidden matrices and the head.

    Raises ValueError for an unknown parametrization.
    """
    if parametrization not in PARAMETRIZATIONS:
        raise ValueError(f"optim.parametrization must be one of {', '.join(PARAMETRIZATIONS)}; not {parametrization!r}")
    hidden = base_width / model.config.d_model if parametrization == "mup" else 1.0
    matrices = [p for block in model.blocks for p in (block.qkv, block.output, block.gate_up, block.down)] + [
        model.head
    ]
    of_matrices = {id(p) for p in matrices}
    vectors = [p for p in model.parameters() if id(p) not in of_matrices]
    return [ParameterGroup(1.0, False, tuple(vectors)), ParameterGroup(hidden, True, tuple(matrices))]


def _normal(weight: nn.Parameter, std: float, generator: torch.Generator) -> None:
    weight.copy_(torch.randn(weight.shape, generator=generator) * std)
