"""The Transformer with other parts in the same places: LayerNorm, GELU, learned positions (GPT-2's), experts, and
products of factors that are rounded to few bits.

Each option stands alone; with all three of GPT-2's it is that model before its biases of matrix products. The default
parts stay in `models.transformer`. The training step by hand knows the parts of both (`models/step/parts`).

Shape suffixes: B batch, T position, D width of the residual stream, H heads, K width of a head, F width of the MLP.
"""

from collections.abc import Iterator, Sequence
from typing import cast

import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from torch import Tensor, nn

from isoflop.models.config import ModelConfig
from isoflop.models.language_model import LanguageModel, Matrix, Recomputable
from isoflop.models.moe import Experts, activate
from isoflop.models.quantise import product_of
from isoflop.models.transformer import NORM_EPS, KeyValues, rotary_tables, rotate

Rotation = tuple[Tensor, Tensor]  # cos and signed sin of each position


class Norm(nn.Module):
    """RMSNorm, or LayerNorm with gain and bias."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(config.d_model))
        self.bias = nn.Parameter(torch.zeros(config.d_model)) if config.norm == "layernorm" else None

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) normed over its last axis."""
        if self.bias is None:
            return F.rms_norm(x, self.gain.shape, self.gain, NORM_EPS)
        return F.layer_norm(x, self.gain.shape, self.gain, self.bias, NORM_EPS)

    def set_vectors(self) -> None:
        """Gain one, bias zero."""
        self.gain.fill_(1.0)
        if self.bias is not None:
            self.bias.zero_()


class Attention(nn.Module):
    """Causal attention; rotates queries and keys when the positions are rotary."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        width = config.d_model
        self.n_head, self.layer = config.n_head, layer
        self.qkv = nn.Parameter(torch.empty(3 * width, width))
        self.output = nn.Parameter(torch.empty(width, width))
        self.product = product_of(config)

    def forward(self, x_BTD: Tensor, rotation: Rotation | None, cache: KeyValues | None) -> Tensor:
        """(B, T, D) to (B, T, D); with a cache, the positions that follow what it holds."""
        q_BTHK, k_BTHK, v_BTHK = (
            part.unflatten(-1, (self.n_head, -1)) for part in self.product(x_BTD, self.qkv).chunk(3, -1)
        )
        if rotation:
            q_BTHK, k_BTHK = rotate(q_BTHK, *rotation), rotate(k_BTHK, *rotation)
        q_BHTK, k_BHTK, v_BHTK = (z.transpose(1, 2) for z in (q_BTHK, k_BTHK, v_BTHK))
        if cache is not None:
            k_BHTK, v_BHTK = cache.extend(self.layer, k_BHTK, v_BHTK)
        alone = q_BHTK.shape[2] == 1  # a single new position sees all there are
        y_BHTK = F.scaled_dot_product_attention(q_BHTK, k_BHTK, v_BHTK, is_causal=not alone)
        return self.product(y_BHTK.transpose(1, 2).flatten(2), self.output)

    def hidden_matrices(self) -> Iterator[Matrix]:
        """q, k and v stacked, and the output's."""
        yield Matrix(self.qkv, parts=3)
        yield Matrix(self.output, residual=True)


class MLP(nn.Module):
    """SwiGLU, or GELU (tanh form) between two matrices."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gated = config.activation == "swiglu"
        self.up = nn.Parameter(torch.empty((1 + self.gated) * config.mlp_width, config.d_model))
        self.down = nn.Parameter(torch.empty(config.d_model, config.mlp_width))
        self.product = product_of(config)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """(..., D) to (..., D)."""
        return self.product(activate(self.product(x_BTD, self.up), gated=self.gated), self.down)

    def hidden_matrices(self) -> Iterator[Matrix]:
        """Into the hidden layer, and out of it."""
        yield Matrix(self.up, parts=1 + self.gated)
        yield Matrix(self.down, residual=True)


class Block(Recomputable):
    """Attention, then MLP or experts, each added to the residual stream."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.attention_norm, self.attention = Norm(config), Attention(config, layer)
        self.mlp_norm, self.mlp = Norm(config), Experts(config) if config.experts else MLP(config)

    def forward(self, x_BTD: Tensor, rotation: Rotation | None, cache: KeyValues | None) -> Tensor:
        """The residual stream after this block."""
        return self.run(self._sublayers, x_BTD, rotation, cache)

    def _sublayers(self, x_BTD: Tensor, rotation: Rotation | None, cache: KeyValues | None) -> Tensor:
        x_BTD = x_BTD + self.attention(self.attention_norm(x_BTD), rotation, cache)
        return x_BTD + self.mlp(self.mlp_norm(x_BTD))


class Variant(LanguageModel):
    """The decoder of the parts that its configuration names."""

    cos: Tensor  # (T, 1, K), where positions are rotary
    sin: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Parameter(torch.empty(config.vocab_size, config.d_model))
        self.blocks = cast(Sequence[Block], nn.ModuleList(Block(config, layer) for layer in range(config.n_layer)))
        self.norm = Norm(config)
        self.head = self.embedding if config.tied else nn.Parameter(torch.empty(config.vocab_size, config.d_model))
        self.position: nn.Parameter | None = None
        if config.positions == "learned":
            self.position = nn.Parameter(torch.zeros(config.context_length, config.d_model))
        else:
            cos_T1K, sin_T1K = rotary_tables(config.context_length, config.head_dim)
            self.register_buffer("cos", cos_T1K, persistent=False)
            self.register_buffer("sin", sin_T1K, persistent=False)

    def forward(self, tokens_BT: Tensor, cache: KeyValues | None = None) -> Tensor:
        """Logits of `tokens_BT`, which follow what `cache` holds: a whole text when it is empty, else one token."""
        start = cache.length if cache else 0
        end = start + tokens_BT.shape[1]
        if end > self.config.context_length:
            raise ValueError(f"{end} tokens exceed the model's context_length={self.config.context_length}")
        assert not start or tokens_BT.shape[1] == 1
        x_BTD = F.embedding(tokens_BT, self.embedding)
        rotation = None
        if self.position is not None:
            x_BTD = x_BTD + self.position[start:end]
        else:
            rotation = self.cos[start:end], self.sin[start:end]
        for block in self.blocks:
            x_BTD = block(x_BTD, rotation, cache)
        if cache:
            cache.length = end
        return F.linear(self.norm(x_BTD), self.head)

    def empty_cache(self) -> KeyValues:
        """Room for the keys and values of one text."""
        return KeyValues(self.config)

    def hidden_matrices(self) -> Iterator[Matrix]:
        """Every block's: of its attention, then of its MLP or experts."""
        for block in self.blocks:
            yield from block.attention.hidden_matrices()
            yield from block.mlp.hidden_matrices()

    def set_vectors(self) -> None:
        """Gains one, biases and positions zero: where a token stands is learned like anything else."""
        for module in self.modules():
            if isinstance(module, Norm):
                module.set_vectors()
        if self.position is not None:
            self.position.zero_()
