"""Models and tokens to compare steps on."""

import torch

from isoflop.models import build_model
from isoflop.models.config import ModelConfig
from isoflop.models.language_model import LanguageModel
from isoflop.models.parametrization import initialize


def scrambled(config: ModelConfig, seed: int = 0) -> LanguageModel:
    """A model away from its initialisation: the head is not zero, the gains are not one."""
    model = initialize(build_model(config), seed)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def tokens(config: ModelConfig, batch: int = 4, seed: int = 0) -> torch.Tensor:
    """Random ids, (batch, context length + 1)."""
    shape = (batch, config.context_length + 1)
    return torch.randint(config.vocab_size, shape, generator=torch.Generator().manual_seed(seed))
