"""Models: shapes and counts (`models.config`, no torch), modules and initialisation."""

from typing import TYPE_CHECKING

from models.config import ModelConfig

if TYPE_CHECKING:
    from models.transformer import Transformer


def build_model(config: ModelConfig) -> "Transformer":
    """The module that a shape describes, weights uninitialised."""
    from models.transformer import Transformer

    return {"transformer": Transformer}[config.family](config)
