"""The recurrent baseline: a stack of LSTM layers between an embedding of their width and a normed head.

RMSNorm before the head as in the Transformer, the head tied or not; biases start at zero but for the forget gate's at
one (Jozefowicz et al. 2015), so that a cell remembers until it has learned what to forget.

Shape suffixes: B batch, T position, D width of embedding and state, V vocabulary.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from torch import Tensor, nn

from isoflop.models.config import ModelConfig
from isoflop.models.language_model import LanguageModel, Matrix
from isoflop.models.transformer import rms_norm

GATES = 4  # in torch's order: input, forget, cell, output
_FORGET = 1


class RecurrentState:
    """The state of every layer after what it has read of one text."""

    def __init__(self) -> None:
        self.state: tuple[Tensor, Tensor] | None = None
        self.length = 0  # positions read


class LSTM(LanguageModel):
    """The stack of layers with embedding and head."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        width = config.d_model
        self.embedding = nn.Parameter(torch.empty(config.vocab_size, width))
        self.layers = nn.LSTM(width, width, config.n_layer, batch_first=True)
        self.norm = nn.Parameter(torch.ones(width))
        self.head = self.embedding if config.tied else nn.Parameter(torch.empty(config.vocab_size, width))

    def forward(self, tokens_BT: Tensor, cache: RecurrentState | None = None) -> Tensor:
        """Logits of `tokens_BT`, which follow what `cache` has read."""
        cache = cache or self.empty_cache()
        cache.length += tokens_BT.shape[1]
        if cache.length > self.config.context_length:
            raise ValueError(f"{cache.length} tokens exceed the model's context_length={self.config.context_length}")
        y_BTD, cache.state = self.layers(F.embedding(tokens_BT, self.embedding), cache.state)
        return F.linear(rms_norm(y_BTD.to(self.norm.dtype), self.norm), self.head)

    def empty_cache(self) -> RecurrentState:
        """The state before the first token."""
        return RecurrentState()

    def hidden_matrices(self) -> Iterator[Matrix]:
        """Every layer's weights from its input and from its state, each the four gates stacked."""
        for layer in range(self.config.n_layer):
            for source in ("ih", "hh"):
                yield Matrix(getattr(self.layers, f"weight_{source}_l{layer}"), parts=GATES)

    def set_vectors(self) -> None:
        """Gain one, biases zero, the forget gate's one."""
        self.norm.fill_(1.0)
        for layer in range(self.config.n_layer):
            getattr(self.layers, f"bias_hh_l{layer}").zero_()
            bias = getattr(self.layers, f"bias_ih_l{layer}").zero_()
            bias.chunk(GATES)[_FORGET].fill_(1.0)
