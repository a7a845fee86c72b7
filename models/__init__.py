"""Models: shapes and counts (`models.config`, no torch), modules and initialisation."""

from typing import TYPE_CHECKING

from isoflop.models.config import ModelConfig, family_of

if TYPE_CHECKING:
    from isoflop.models.language_model import LanguageModel

if __name__ == "models":
    raise ImportError("import isoflop.models: this folder is a part of the package isoflop")


def build_model(config: ModelConfig) -> "LanguageModel":
    """The module that a shape describes, weights uninitialised."""
    return family_of(config).build(config)
