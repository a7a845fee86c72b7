"""What a model keeps of the tokens it has read, so that the next one costs one position and not all of them."""

import torch
from torch import Tensor

from isoflop.models.config import ModelConfig


class KeyValues:
    """Keys and values of every block, for one text; room for the whole context."""

    def __init__(self, config: ModelConfig) -> None:
        shape = (config.n_layer, 2, 1, config.n_head, config.context_length, config.head_dim)
        self.stored = torch.zeros(shape)
        self.length = 0  # positions read; the model moves it on when all blocks have read

    def extend(self, layer: int, k_BHTK: Tensor, v_BHTK: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new positions of a block; returns the keys and values of all positions."""
        end = self.length + k_BHTK.shape[2]
        self.stored[layer, 0, :, :, self.length : end] = k_BHTK
        self.stored[layer, 1, :, :, self.length : end] = v_BHTK
        return self.stored[layer, 0, :, :, :end], self.stored[layer, 1, :, :, :end]


class RecurrentState:
    """The state of every layer of an LSTM after what it has read."""

    def __init__(self) -> None:
        self.state: tuple[Tensor, Tensor] | None = None
        self.length = 0
