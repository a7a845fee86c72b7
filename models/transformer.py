"""The whole decoder in one file, laid out as LlamaForCausalLM so that it exports without arithmetic.

- RMSNorm before each sublayer and before the head, epsilon 1e-5, no biases anywhere
- rotary positions, theta 10,000, rotating the two halves of a head against each other
- SwiGLU; an untied head by default
- q, k, v are the rows of one matrix, gate and up of another: fewer and larger products

Shape suffixes: B batch, T position, N = B x T, D width of the residual stream, H heads, K width of a head,
F width of the MLP, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from typing import cast

import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from torch import Tensor, nn

from isoflop.models.config import ModelConfig
from isoflop.models.language_model import LanguageModel, Matrix, Recomputable

NORM_EPS = 1e-5
ROPE_THETA = 10_000.0


class KeyValues:
    """Keys and values of every block for one text, so that its next token costs one position and not all of them.

    There is room for the whole context.
    """

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


class Block(Recomputable):
    """Attention, then MLP, each added to the residual stream."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        width, hidden = config.d_model, config.mlp_width
        self.n_head, self.layer = config.n_head, layer
        self.attention_norm = nn.Parameter(torch.ones(width))
        self.qkv = nn.Parameter(torch.empty(3 * width, width))
        self.output = nn.Parameter(torch.empty(width, width))
        self.mlp_norm = nn.Parameter(torch.ones(width))
        self.gate_up = nn.Parameter(torch.empty(2 * hidden, width))
        self.down = nn.Parameter(torch.empty(width, hidden))

    def forward(self, x_BTD: Tensor, cos_T1K: Tensor, sin_T1K: Tensor, cache: KeyValues | None = None) -> Tensor:
        """The residual stream after this block."""
        return self.run(self._sublayers, x_BTD, cos_T1K, sin_T1K, cache)

    def hidden_matrices(self) -> Iterator[Matrix]:
        """Its four matrices, stacked ones whole."""
        yield Matrix(self.qkv, parts=3)
        yield Matrix(self.output, residual=True)
        yield Matrix(self.gate_up, parts=2)
        yield Matrix(self.down, residual=True)

    def _sublayers(self, x_BTD: Tensor, cos_T1K: Tensor, sin_T1K: Tensor, cache: KeyValues | None) -> Tensor:
        x_BTD = x_BTD + self._attend(rms_norm(x_BTD, self.attention_norm), cos_T1K, sin_T1K, cache)
        gate_BTF, up_BTF = F.linear(rms_norm(x_BTD, self.mlp_norm), self.gate_up).chunk(2, -1)
        return x_BTD + F.linear(F.silu(gate_BTF) * up_BTF, self.down)

    def _attend(self, x_BTD: Tensor, cos_T1K: Tensor, sin_T1K: Tensor, cache: KeyValues | None) -> Tensor:
        qk_BTHK, v_BTHK = (
            part.unflatten(-1, (-1, x_BTD.shape[-1] // self.n_head))
            for part in F.linear(x_BTD, self.qkv).split([2 * x_BTD.shape[-1], x_BTD.shape[-1]], -1)
        )
        q_BHTK, k_BHTK = rotate(qk_BTHK, cos_T1K, sin_T1K).transpose(1, 2).chunk(2, 1)
        v_BHTK = v_BTHK.transpose(1, 2)
        if cache is not None:
            k_BHTK, v_BHTK = cache.extend(self.layer, k_BHTK, v_BHTK)
        alone = q_BHTK.shape[2] == 1  # a single new position sees all there are
        y_BHTK = F.scaled_dot_product_attention(q_BHTK, k_BHTK, v_BHTK, is_causal=not alone)
        return F.linear(y_BHTK.transpose(1, 2).flatten(2), self.output)


class Transformer(LanguageModel):
    """The decoder of default parts."""

    cos: Tensor  # (T, 1, K), as `rotary_tables` makes them
    sin: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Parameter(torch.empty(config.vocab_size, config.d_model))
        self.blocks = cast(Sequence[Block], nn.ModuleList(Block(config, layer) for layer in range(config.n_layer)))
        self.norm = nn.Parameter(torch.ones(config.d_model))
        self.head = self.embedding if config.tied else nn.Parameter(torch.empty(config.vocab_size, config.d_model))
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
        for block in self.blocks:
            x_BTD = block(x_BTD, self.cos[start:end], self.sin[start:end], cache)
        if cache:
            cache.length = end
        return F.linear(rms_norm(x_BTD, self.norm), self.head)

    def empty_cache(self) -> KeyValues:
        """Room for the keys and values of one text."""
        return KeyValues(self.config)

    def hidden_matrices(self) -> Iterator[Matrix]:
        """Every block's."""
        for block in self.blocks:
            yield from block.hidden_matrices()

    def set_vectors(self) -> None:
        """Every gain one."""
        for name, parameter in self.named_parameters():
            if name.endswith("norm"):
                parameter.fill_(1.0)


def rms_norm(x: Tensor, gain: Tensor) -> Tensor:
    """x / rms(x) * gain, along the last dimension."""
    return F.rms_norm(x, gain.shape, gain, NORM_EPS)


def rotary_tables(length: int, width: int) -> tuple[Tensor, Tensor]:
    """cos and signed sin (T, 1, K) of the rotation angles: `rotate` is x * cos + swapped halves of x * sin."""
    frequency = ROPE_THETA ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angle = torch.outer(torch.arange(length, dtype=torch.float64), frequency)
    cos, sin = angle.cos().float(), angle.sin().float()
    return torch.cat([cos, cos], -1)[:, None], torch.cat([-sin, sin], -1)[:, None]


def rotate(x_THK: Tensor, cos_T1K: Tensor, sin_T1K: Tensor) -> Tensor:
    """Rotary positions on (.., T, H, K): the first half of each head is rotated against the second."""
    return torch.addcmul(x_THK * cos_T1K, x_THK.roll(x_THK.shape[-1] // 2, -1), sin_T1K)
