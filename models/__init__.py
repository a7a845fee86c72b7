"""Models: shapes and counts (`models.config`, no torch), modules and initialisation."""

from typing import TYPE_CHECKING

from models.config import ModelConfig

if TYPE_CHECKING:
    from torch import nn


def build_model(config: ModelConfig) -> "nn.Module":
    """The module that a shape describes, weights uninitialised."""
    if config.family == "lstm":
        from models.lstm import LSTM

        return LSTM(config)
    if not config.plain:
        from models.variants import Variant

        return Variant(config)
    from models.transformer import Transformer

    return Transformer(config)
