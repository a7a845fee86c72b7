"""Models: shapes and counts (`models.config`, no torch), modules and initialisation."""

from typing import TYPE_CHECKING

from isoflop.models.config import ModelConfig

if TYPE_CHECKING:
    from torch import nn

if __name__ == "models":
    raise ImportError("import isoflop.models: this folder is a part of the package isoflop")


def build_model(config: ModelConfig) -> "nn.Module":
    """The module that a shape describes, weights uninitialised."""
    if config.family == "lstm":
        from isoflop.models.lstm import LSTM

        return LSTM(config)
    if not config.plain:
        from isoflop.models.variants import Variant

        return Variant(config)
    from isoflop.models.transformer import Transformer

    return Transformer(config)
